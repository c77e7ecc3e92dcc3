// The kernel's xarray, which IDRs and page caches are (include/linux/xarray.h, lib/xarray.c).
#pragma once

#include <functional>

#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

// Calls `use` with every pointer in the tree that an idr or an xarray heads, in no order. Values
// that are no pointers (bit 0) are left out. Code::malformed when it leads into itself, Code::limit
// when it is deeper or larger than `max_entries` can make it. `what` is its name in messages.
Result<void> each_of_idr(Kernel& kernel, GuestVirt idr, std::size_t max_entries,
                         std::string_view what, const std::function<void(GuestVirt)>& use);

}  // namespace underseer::guest_linux
