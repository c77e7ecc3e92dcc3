#include "guest_linux/page_walk.h"

#include <fmt/format.h>

#include <array>

#include "base/limits.h"

namespace underseer::guest_linux {

namespace {

constexpr std::uint64_t kEntries = 512;

class Walk {
  public:
    Walk(guest_memory::GuestMemory& memory, GuestVirt begin, GuestVirt last)
        : memory_(memory), begin_(begin), last_(last) {}

    // `from`: the first address that the table maps.
    Result<void> table(GuestPhys at, unsigned level, std::uint64_t from, bool writable) {
        if (++found.tables > limits::kMaxPageTables) {
            return fail(Code::limit, fmt::format("more than {} page tables, or some lead into "
                                                 "themselves",
                                                 limits::kMaxPageTables));
        }
        std::array<std::uint64_t, kEntries> entries;
        if (!memory_.read(at, std::as_writable_bytes(std::span(entries))).has_value()) {
            ++found.unreadable;
            return {};
        }
        const unsigned shift = 12 + 9 * (level - 1);
        for (std::uint64_t i = 0; i < kEntries; ++i) {
            const std::uint64_t first = from + (i << shift), size = 1ull << shift;
            if (first + (size - 1) < begin_.value || first > last_.value) continue;
            const std::uint64_t entry = entries[i];
            // What cannot be executed at one level cannot be below it.
            if ((entry & kPtePresent) == 0 || (entry & kPteNoExecute) != 0) continue;
            const bool may_write = writable && (entry & kPteWritable) != 0;
            if (level == 1 || ((entry & kPteHuge) != 0 && level <= 3)) {
                add(first, size, may_write);
            } else {
                TRY(table(entry_target(entry), level - 1, first, may_write));
            }
        }
        return {};
    }

    CodeRanges found;

  private:
    void add(std::uint64_t first, std::uint64_t size, bool writable) {
        auto& ranges = found.ranges;
        if (!ranges.empty() && ranges.back().end().value == first &&
            ranges.back().writable == writable) {
            ranges.back().size_bytes += size;
        } else {
            ranges.push_back({GuestVirt{first}, size, writable});
        }
    }

    guest_memory::GuestMemory& memory_;
    const GuestVirt begin_, last_;
};

}  // namespace

Result<CodeRanges> executable_ranges(guest_memory::GuestMemory& memory, AddressSpace space,
                                     GuestVirt begin, GuestVirt end) {
    Walk walk(memory, begin, end - 1);
    // The top table maps the whole space, whose upper half has all higher bits set.
    const unsigned bits = 12 + 9 * space.levels;
    const bool upper = (begin.value >> 63) != 0;
    const std::uint64_t from = upper ? ~std::uint64_t{0} << bits : 0;
    TRY(walk.table(space.root, space.levels, from, /*writable=*/true));
    return std::move(walk.found);
}

}  // namespace underseer::guest_linux
