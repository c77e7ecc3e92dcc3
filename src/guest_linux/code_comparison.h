// Code as it was, or should be, against what it is: what of it differs without a reason.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "guest_linux/gaps.h"
#include "guest_linux/page_store.h"

namespace underseer::guest_linux {

struct CodeAlteration {
    std::string place;          // "do_exit+0x10", "module nf_tables+0x1c0", "vDSO+0x640"
    GuestVirt at;               // the first byte that differs
    GuestVirt shown_from;       // where the bytes below begin
    std::string before, after;  // those that differ, and some around them
    bool is_constant = false;   // it is no code
};

struct CodeComparison {
    std::vector<CodeAlteration> altered;
    std::uint64_t pages = 0;       // that were compared
    std::uint64_t unreadable = 0;  // pages that could not be, now or at first
    Gaps gaps;                     // lists of places that could not be read
    Gaps uncompared;               // code that could not be found
    Gaps limits;                   // what this kernel, or its baseline, does not say in any look
};

// What the kernel never writes to, but for its middle part, which it writes while it starts
// (__ro_after_init).
struct ConstantsPlace {
    GuestVirt begin, end, early_begin, early_end;
};
// Code::unavailable where the kernel does not say where they are.
Result<ConstantsPlace> constants_place(Kernel& kernel);

// "modules_op+0x18", or "BTF+0x1000" of the kernel's types, "kallsyms+0x1000" of its symbols.
std::string constant_text(const Kernel& kernel, GuestVirt at);

// Whether it has started: while it does, it writes what is constant afterwards. Code::unavailable
// where it does not say so.
Result<bool> is_up(Kernel& kernel);

// The kernel's own code, now. Code::unavailable where it does not say where that is.
Result<PageHashes> hash_text(Kernel& kernel);

// `before` and `now` both stand at `at`; they are compared from offset `first` to `last`.
struct CodeStretch {
    GuestVirt at;
    Bytes before, now;
    std::size_t first = 0, last = 0;
    bool is_constant = false;
};
// Adds to `result` each place of it that differs and that nothing accounts for. `explain(i)`: how
// many bytes from offset `i` on, where one differs, are as they may be.
void tell_differences(const CodeStretch& stretch,
                      const std::function<std::size_t(std::size_t)>& explain,
                      const std::function<std::string(GuestVirt)>& name_of, CodeComparison& result);

}  // namespace underseer::guest_linux
