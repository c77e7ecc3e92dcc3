#include "guest_linux/virtual_memory.h"

#include <fmt/format.h>

#include <algorithm>

namespace underseer::guest_linux {

namespace {
constexpr std::size_t kTlbEntries = 4096;
}

VirtualMemory::VirtualMemory(guest_memory::GuestMemory* memory, AddressSpace space)
    : memory_(memory), space_(space), tlb_(kTlbEntries) {}

void VirtualMemory::forget() {
    std::ranges::fill(tlb_, TlbEntry{});
}

Result<GuestPhys> VirtualMemory::page_of(GuestVirt address) {
    const std::uint64_t page = address.value / kPageSize;
    TlbEntry& entry = tlb_[page % kTlbEntries];
    if (entry.page != page) {
        const Translation found = TRY(guest_linux::translate(*memory_, space_, address));
        entry = {page, {found.phys.value & kPageMask}};
    }
    return entry.phys;
}

Result<void> VirtualMemory::read(GuestVirt from, MutableBytes into) {
    while (!into.empty()) {
        if (left_ == 0) {
            return fail(Code::limit,
                        fmt::format("{} reads were made for one look: the guest's structures are "
                                    "too many, or lead in circles",
                                    allowed_));
        }
        --left_;
        const GuestPhys page = TRY(page_of(from));
        const std::uint64_t in_page = from.value % kPageSize;
        const std::size_t part = std::min<std::size_t>(into.size(), kPageSize - in_page);
        TRY(memory_->read(page + in_page, into.first(part)));
        into = into.subspan(part);
        from = from + part;
    }
    return {};
}

Result<std::string> VirtualMemory::read_cstring(GuestVirt from, std::size_t limit_bytes) {
    std::string text;
    while (text.size() < limit_bytes) {
        const std::size_t part = std::min<std::size_t>(
            {limit_bytes - text.size(), kPageSize - from.value % kPageSize, 256});
        char buffer[256];
        auto got = read(from, {reinterpret_cast<std::byte*>(buffer), part});
        if (!got.has_value()) return Unexpected(std::move(got).error());
        const char* end = std::find(buffer, buffer + part, '\0');
        text.append(static_cast<const char*>(buffer), end);
        if (end != buffer + part) break;
        from = from + part;
    }
    return text;
}

Result<Translation> VirtualMemory::translate(GuestVirt address) {
    return guest_linux::translate(*memory_, space_, address);
}

}  // namespace underseer::guest_linux
