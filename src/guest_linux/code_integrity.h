// Ways out of the kernel's image: its constants and its code lead only into itself, unless somebody
// has altered them. No baseline is needed to see that.
#pragma once

#include <compare>
#include <map>
#include <optional>
#include <vector>

#include "guest_linux/code_map.h"
#include "guest_linux/page_store.h"

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

// Remembers what it has looked at: a page that is as it was, while nothing has changed outside of
// the image, is not looked at again.
class WaysOutFinder {
  public:
    // Words of the read-only data that point into executable memory outside of the image: tables of
    // operations, system calls and the like. A module cannot write there by any way that the kernel
    // offers.
    Result<WaysOut> out_of_constants(Kernel& kernel, const CodeMap& code);

    // Calls and jumps of the kernel's code that lead out of it, and addresses outside that stand in
    // it ("movabs"). What the kernel itself has patched in is left out: ftrace's and BPF's
    // trampolines, kprobes' slots, and static calls whose record (struct static_call_key) names the
    // same target. `text`: the kernel's code as it is now (hash_text()).
    Result<WaysOut> out_of_code(Kernel& kernel, const CodeMap& code, const PageHashes& text);

  private:
    // Who has executable memory outside of the image.
    struct Neighbour {
        std::uint64_t begin = 0, end = 0;
        std::optional<CodeOwner::Kind> owner;  // nothing: any part of it may be nobody's

        bool operator==(const Neighbour&) const = default;
    };
    class Outside;
    struct Scanned {
        PageHashes pages;
        std::vector<Neighbour> neighbours;
        std::map<std::size_t, std::vector<WayOut>> suspects;  // by page
    };
    template <typename Look>
    static WaysOut scan(Kernel& kernel, const PageHashes& now, const Outside& outside,
                        std::size_t overlap, Scanned& scanned, Look&& look);

    Scanned constants_, code_;
};

}  // namespace underseer::guest_linux
