// The kernel's virtually contiguous memory: modules, BPF programs and everything else that lies in
// areas of its own.
#pragma once

#include <vector>

#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

struct VmallocArea {
    GuestVirt begin;
    std::uint64_t size_bytes = 0;  // the guard page behind it included
    GuestVirt caller;              // the return address of whoever asked for it; null: not recorded

    GuestVirt end() const { return begin + size_bytes; }
};

// In the order of their addresses. Code::unavailable where the kernel's record of them is not
// known.
Result<std::vector<VmallocArea>> vmalloc_areas(Kernel& kernel);

}  // namespace underseer::guest_linux
