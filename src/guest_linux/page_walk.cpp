#include "guest_linux/page_walk.h"

#include <fmt/format.h>

#include <algorithm>
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

class PresentWalk {
  public:
    PresentWalk(guest_memory::GuestMemory& memory, GuestVirt begin, GuestVirt end,
                std::uint64_t max_pages)
        : memory_(memory), begin_(begin.value), end_(end.value), left_(max_pages) {
        found.next = begin;
    }

    Result<void> table(GuestPhys at, unsigned level, std::uint64_t from) {
        if (++found.tables > limits::kMaxPageTables) {
            return fail(Code::limit, fmt::format("more than {} page tables, or some lead into "
                                                 "themselves",
                                                 limits::kMaxPageTables));
        }
        std::array<std::uint64_t, kEntries> entries;
        const unsigned shift = 12 + 9 * (level - 1);
        const std::uint64_t size = 1ull << shift;
        if (!memory_.read(at, std::as_writable_bytes(std::span(entries))).has_value()) {
            ++found.unreadable;
            found.next = GuestVirt{std::min(end_, from + kEntries * size)};
            return {};
        }
        for (std::uint64_t i = 0; i < kEntries && left_ > 0; ++i) {
            const std::uint64_t first = from + i * size, entry = entries[i];
            if (first + size <= begin_) continue;
            if (first >= end_) break;
            const bool leaf = level == 1 || ((entry & kPteHuge) != 0 && level <= 3);
            if (!entry_present(entry)) {
                if (entry != 0 && level <= 2) found.swapped += pages_within(first, size);
            } else if (leaf) {
                add(first, size, GuestPhys{entry_target(entry).value & ~(size - 1)});
                continue;
            } else {
                TRY(table(entry_target(entry), level - 1, first));
                if (left_ == 0) break;
            }
            found.next = GuestVirt{std::min(end_, first + size)};
        }
        return {};
    }

    PresentPages found;

  private:
    std::uint64_t pages_within(std::uint64_t first, std::uint64_t size) const {
        return (std::min(end_, first + size) - std::max(begin_, first)) / kPageSize;
    }
    void add(std::uint64_t first, std::uint64_t size, GuestPhys phys) {
        const std::uint64_t from = std::max(first, begin_);
        const std::uint64_t pages = std::min(pages_within(first, size), left_);
        left_ -= pages;
        const GuestPhys at = phys + (from - first);
        found.next = GuestVirt{from + pages * kPageSize};
        if (!found.runs.empty()) {
            PageRun& run = found.runs.back();
            if (run.end().value == from && run.phys + run.size_bytes == at) {
                run.size_bytes += pages * kPageSize;
                return;
            }
        }
        found.runs.push_back({GuestVirt{from}, at, pages * kPageSize});
    }

    guest_memory::GuestMemory& memory_;
    const std::uint64_t begin_, end_;
    std::uint64_t left_;
};

}  // namespace

Result<PresentPages> present_pages(guest_memory::GuestMemory& memory, AddressSpace space,
                                   GuestVirt begin, GuestVirt end, std::uint64_t max_pages) {
    // What a guest says of an area need be neither aligned nor an address of a process.
    const std::uint64_t top = 1ull << (11 + 9 * space.levels);
    const GuestVirt first{begin.value & kPageMask}, last{std::min(end.value & kPageMask, top)};
    PresentWalk walk(memory, first, last, max_pages);
    if (first < last) TRY(walk.table(space.root, space.levels, 0));
    if (walk.found.next < first || first >= last) walk.found.next = end;
    if (walk.found.next >= last) walk.found.next = end;
    return std::move(walk.found);
}

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
