// Where the kernel shows all RAM, and its records of RAM's pages.
#pragma once

#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

// Where the first byte of RAM is in the direct map.
Result<GuestVirt> direct_map(Kernel& kernel);
// Where the array of struct page begins, by page frame.
Result<GuestVirt> page_records(Kernel& kernel);
// The page that a struct page is the record of. Code::malformed when it is none.
Result<GuestPhys> physical_of_page(Kernel& kernel, GuestVirt record);

}  // namespace underseer::guest_linux
