// A kernel's code as a guest runs it, in the form of how it was built: what other guests that run
// the same build, and this one after its next start, are compared with where nobody has the
// kernel's own file.
#pragma once

#include <string>

#include "guest_linux/built_kernel.h"
#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

// Which of the ways that this build's code can be made to run it was made: guests in which this is
// the same have the same code, but for where it lies and for what it patches while it runs.
// Hexadecimal. Code::unavailable while the kernel starts, and where it does not say what the CPU
// can do.
Result<std::string> code_variant(Kernel& kernel);

// Code::unavailable when some of it cannot be read, or is not the kernel's own at the moment: a
// kprobe stands where no other guest has one.
Result<BuiltKernel> see_code(Kernel& kernel);

}  // namespace underseer::guest_linux
