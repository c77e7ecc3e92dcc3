// What of an address space can be executed, from its page tables.
#pragma once

#include <vector>

#include "guest_linux/paging.h"

namespace underseer::guest_linux {

// Pages beside each other with the same rights.
struct CodeRange {
    GuestVirt begin;
    std::uint64_t size_bytes = 0;
    bool writable = false;

    GuestVirt end() const { return begin + size_bytes; }
    bool operator==(const CodeRange&) const = default;
};

struct CodeRanges {
    std::vector<CodeRange> ranges;  // in the order of their addresses
    std::uint64_t tables = 0;       // that were read
    std::uint64_t unreadable = 0;   // tables that could not be: what they map is not known
};

// Everything executable between two addresses, `end` exclusive; both have the same top half.
// Code::limit when the tables are more than a kernel has (limits::kMaxPageTables): they may lead
// into themselves.
Result<CodeRanges> executable_ranges(guest_memory::GuestMemory& memory, AddressSpace space,
                                     GuestVirt begin, GuestVirt end);

// Pages beside each other, in the address space and in RAM.
struct PageRun {
    GuestVirt begin;
    GuestPhys phys;
    std::uint64_t size_bytes = 0;

    GuestVirt end() const { return begin + size_bytes; }
    bool operator==(const PageRun&) const = default;
};

struct PresentPages {
    std::vector<PageRun> runs;     // ascending
    GuestVirt next;                // the walk came so far
    std::uint64_t swapped = 0;     // pages that the tables know and RAM does not hold
    std::uint64_t tables = 0;      // that were read
    std::uint64_t unreadable = 0;  // tables that could not be: what they map is not known
};

// What is mapped of the lower half of an address space from `begin` up to `end`, exclusive, but no
// more than `max_pages`: PresentPages::next is where to go on.
Result<PresentPages> present_pages(guest_memory::GuestMemory& memory, AddressSpace space,
                                   GuestVirt begin, GuestVirt end, std::uint64_t max_pages);

}  // namespace underseer::guest_linux
