#include "guest_linux/paging.h"

#include <fmt/format.h>

namespace underseer::guest_linux {

bool entry_present(std::uint64_t entry) {
    return (entry & (kPtePresent | kPteProtNone)) != 0;
}

GuestPhys entry_target(std::uint64_t entry) {
    if ((entry & kPtePresent) == 0) entry = ~entry;
    return {entry & kPteAddressMask};
}

Result<Translation> translate(guest_memory::GuestMemory& memory, AddressSpace space,
                              GuestVirt address) {
    const unsigned address_bits = 12 + 9 * space.levels;
    const auto sign = static_cast<std::int64_t>(address.value) >> (address_bits - 1);
    if (sign != 0 && sign != -1) {
        return fail(Code::malformed,
                    fmt::format("{:#x} is no {}-bit address", address.value, address_bits));
    }
    Translation result{
        .phys = {}, .page_bytes = 0, .writable = true, .user = true, .executable = true};
    GuestPhys table = space.root;
    for (unsigned level = space.levels; level >= 1; --level) {
        const unsigned shift = 12 + 9 * (level - 1);
        const std::uint64_t index = (address.value >> shift) & 511;
        std::uint64_t entry = 0;
        TRY(memory.read(table + index * 8, {reinterpret_cast<std::byte*>(&entry), 8}));
        if (!entry_present(entry)) {
            return fail(Code::unreadable,
                        fmt::format("{:#x} is not mapped (level {})", address.value, level));
        }
        result.writable &= (entry & kPteWritable) != 0;
        result.user &= (entry & kPteUser) != 0;
        result.executable &= (entry & kPteNoExecute) == 0;
        table = entry_target(entry);
        const bool leaf = level == 1 || ((entry & kPteHuge) != 0 && level <= 3);
        if (leaf) {
            result.page_bytes = 1ull << shift;
            // Bit 12 of a huge entry is its PAT bit, so the low bits are cut off.
            result.phys = {(table.value & ~(result.page_bytes - 1)) |
                           (address.value & (result.page_bytes - 1))};
            return result;
        }
    }
    return fail(Code::malformed, "page-table walk without a leaf");
}

}  // namespace underseer::guest_linux
