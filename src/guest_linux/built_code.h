// The kernel's code and constants against how they were built: what was altered before anybody
// looked is seen too.
#pragma once

#include <optional>

#include "guest_linux/built_kernel.h"
#include "guest_linux/code_comparison.h"
#include "guest_linux/code_map.h"
#include "guest_linux/start_patches.h"

namespace underseer::guest_linux {

class BuiltCode {
  public:
    explicit BuiltCode(BuiltKernel built)
        : is_seen_(built.is_seen),
          has_constants_(!built.constants.empty()),
          built_(std::move(built)) {}

    // It was seen in a guest, which may have been altered itself.
    bool is_seen() const { return is_seen_; }

    // What differs without a reason: moved by KASLR, made so when the kernel started, or patched
    // while it runs. All is compared once; what was as it should be is not looked at again
    // (CodeBaseline sees what changes afterwards), what was not is.
    // Code::invalid_argument when it is another kernel.
    Result<CodeComparison> compare(Kernel& kernel, const CodeMap& code);

  private:
    // The code, or some of the constants.
    struct Part {
        GuestVirt begin;
        Bytes built;
        bool is_constant = false;
    };
    struct Page {
        std::size_t part = 0, page = 0;
    };
    Result<std::vector<Part>> parts(Kernel& kernel) const;

    bool is_seen_, has_constants_;
    std::optional<BuiltKernel> built_;   // nothing: all was as it should be
    std::vector<Page> open_;             // pages that were not, or could not be read
    StartPatches::Constants constants_;  // of the first comparison
    std::uint64_t pages_ = 0;
    bool is_compared_ = false;
};

}  // namespace underseer::guest_linux
