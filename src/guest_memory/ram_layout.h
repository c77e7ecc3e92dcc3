// Where a machine's RAM lies in guest-physical space, and where its bytes are on the host.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "guest_memory/guest_memory.h"

namespace underseer::guest_memory {

// One stretch of RAM. `source` is an index into the fds handed over with the layout; `offset` is a
// file offset there (for /proc/PID/mem: an address in the VMM).
struct RamSlice {
    GuestPhys begin;
    std::uint64_t size_bytes = 0;
    std::uint32_t source = 0;
    std::uint64_t offset = 0;

    bool operator==(const RamSlice&) const = default;
};

// Sorted, disjoint, not empty, inside 52 bits of physical address space, page-aligned.
// Code::malformed names the first slice that is not.
Result<std::vector<RamSlice>> validate_layout(std::vector<RamSlice> slices);

}  // namespace underseer::guest_memory
