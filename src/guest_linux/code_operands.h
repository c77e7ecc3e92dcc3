// Addresses that a function's machine code refers to (x86-64).
//
// Kernel code is linked into the upper 2 GiB, so a variable stands in it as four bytes: an absolute
// displacement or immediate that is sign-extended ("mov table(,%rax,8),%rdx"; "cmp
// $ops,0x98(%rdi)"; "mov $runqueues,%rax"), or relative to the next instruction (ModRM with mod 0
// and r/m 5). Intel SDM vol. 2A, 2.1.5 and 2.2.1.6.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"

namespace underseer::guest_linux {

// All that `code`, which runs at `at`, may refer to, each once, in the order of the code.
// Instructions are not told apart: what looks like an operand at any byte counts. So this is a list
// of candidates, and the caller needs an invariant that only the right one fulfils. Kernel
// addresses, and immediates below 1 MiB, which is where per-CPU variables lie until 6.14.
std::vector<std::uint64_t> code_operands(Bytes code, GuestVirt at);

}  // namespace underseer::guest_linux
