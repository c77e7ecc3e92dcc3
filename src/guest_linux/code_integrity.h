// Ways out of the kernel's image: its constants and its code lead only into itself, unless somebody
// has altered them. No baseline is needed to see that.
#pragma once

#include <compare>
#include <string>
#include <vector>

#include "guest_linux/code_map.h"

namespace underseer::guest_linux {

struct WayOut {
    GuestVirt at;      // the word, or the instruction
    GuestVirt target;  // in memory that can be executed and is not the kernel's image

    auto operator<=>(const WayOut&) const = default;
};

struct WaysOut {
    std::vector<WayOut> found;
    std::uint64_t bytes = 0;             // that were read
    std::uint64_t unreadable_bytes = 0;  // pages that could not be
    Gaps gaps;                           // what keeps `found` from being all
};

// Words of the read-only data that point into executable memory outside of the image: tables of
// operations, system calls and the like. A module cannot write there by any way that the kernel
// offers.
Result<WaysOut> pointers_out_of_constants(Kernel& kernel, const CodeMap& code);

// Calls and jumps of the kernel's code that lead out of it, and addresses outside that stand in it
// ("movabs"). What the kernel itself has patched in is left out: ftrace's and BPF's trampolines,
// kprobes' slots, and static calls whose record (struct static_call_key) names the same target.
Result<WaysOut> ways_out_of_code(Kernel& kernel, const CodeMap& code);

}  // namespace underseer::guest_linux
