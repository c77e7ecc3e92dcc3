// Variables that kallsyms does not list (CONFIG_KALLSYMS_ALL=n), found on other rungs:
// VMCOREINFO, the names exported to modules, operands of functions that are known to use them.
#pragma once

#include "base/bytes.h"

namespace underseer::guest_linux {

class Kernel;

// Adds to `kernel` what the model needs and kallsyms lacks. `rodata` is a copy of the kernel's
// read-only data, mapped at `at`. TRUST: guest memory. What VMCOREINFO or an operand say is taken
// only when the variable's invariant holds.
void find_missing_symbols(Kernel& kernel, Bytes rodata, GuestVirt at);

}  // namespace underseer::guest_linux
