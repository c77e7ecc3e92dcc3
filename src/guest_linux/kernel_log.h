// The kernel's log: the lock-less ring buffer of 5.10 and later
// (kernel/printk/printk_ringbuffer.h).
#pragma once

#include "event/observation.h"
#include "guest_linux/open_files.h"

namespace underseer::guest_linux {

Result<Listing<event::KernelLogLine>> list_kernel_log(Kernel& kernel);

}  // namespace underseer::guest_linux
