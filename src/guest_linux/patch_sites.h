// Where a kernel alters its own code while it runs, and what may stand there: jump labels, static
// calls, what ftrace, kprobes and BPF put in. It has lists of these places.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "guest_linux/code_map.h"
#include "guest_linux/patched_calls.h"

namespace underseer::guest_linux {

class PatchSites {
  public:
    // Reads the lists of `kernel` and of the modules in `code`; both must outlive this.
    PatchSites(Kernel& kernel, const CodeMap& code);

    Gaps gaps;  // lists that could not be read

    // How many bytes from offset `i` on are what a place that is patched may hold; 0: none. `now`
    // are the bytes that stand at `at`.
    std::size_t explains(GuestVirt at, Bytes now, std::size_t i) const;

  private:
    static constexpr std::size_t kSiteBytes = 8;  // with what stands behind a trampoline
    // struct jump_entry: two relative addresses of 32 bits and a key (include/linux/jump_label.h).
    struct JumpEntry {
        std::int32_t code, target;
        std::int64_t key;
    };
    template <typename Read>
    void part(std::string_view what, Read&& read);
    Result<void> read_jump_labels();
    Result<void> add_jump_labels(GuestVirt table, std::uint64_t entries);
    Result<void> add_module(GuestVirt module);
    template <typename Entry, typename Use>
    Result<void> each_entry(GuestVirt table, std::uint64_t entries, Use&& use);
    // How many bytes from `at` on a place there may hold.
    std::size_t holds(GuestVirt at, std::span<const std::byte, kSiteBytes> now) const;
    bool may_stand_for(GuestVirt target, GuestVirt called) const;
    bool is_entry(GuestVirt at) const;
    bool is_probed(GuestVirt at) const;

    Kernel& kernel_;
    const CodeMap& code_;
    std::map<GuestVirt, GuestVirt> labels_;  // to where each jumps
    std::set<GuestVirt> entries_;            // of modules' functions, where ftrace may put a call
    std::optional<StaticCalls> calls_;
    std::size_t counter_bytes_;
    mutable FtraceCalls ftrace_;
    mutable std::optional<std::vector<GuestVirt>> probes_;
};

}  // namespace underseer::guest_linux
