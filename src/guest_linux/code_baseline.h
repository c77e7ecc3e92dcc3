// The kernel's code as it was when it was first looked at, and what has changed in it since.
//
// A kernel alters its own code while it runs, at places that it has lists of: jump labels, static
// calls, the calls that ftrace, kprobes and BPF put in. What stands there now must be what such a
// place can hold; everything else that has changed is told.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "guest_linux/code_map.h"

namespace underseer::guest_linux {

struct CodeAlteration {
    GuestVirt at;               // the first byte that differs
    GuestVirt shown_from;       // where the bytes below begin
    std::string before, after;  // those that differ, and some around them
};

struct CodeComparison {
    std::vector<CodeAlteration> altered;
    std::uint64_t pages = 0;       // that were compared
    std::uint64_t unreadable = 0;  // pages that could not be, now or at first
    Gaps gaps;                     // lists of places that could not be read
};

class CodeBaseline {
  public:
    // Against what the first call has seen, which itself finds nothing. Code::unavailable where the
    // kernel does not say where its code is.
    Result<CodeComparison> compare(Kernel& kernel, const CodeMap& code);

  private:
    class Sites;
    void compare_page(Kernel& kernel, const Sites& sites, std::size_t page, CodeComparison& result);

    GuestVirt begin_;
    std::vector<std::byte> bytes_;  // empty before the first look
    std::vector<bool> known_;       // by page
};

}  // namespace underseer::guest_linux
