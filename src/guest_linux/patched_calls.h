// Calls that the kernel patches into its own code, and its records of who is called there.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

// Places that have their target written into them.
class StaticCalls {
  public:
    // From the kernel's table of such places (struct static_call_site,
    // include/linux/static_call_types.h). Empty for a kernel that has none.
    static Result<StaticCalls> read(Kernel& kernel);
    // Those of a module, from its table of them.
    Result<void> add(GuestVirt table, std::uint64_t entries);

    // Who is called by the instruction at `at`, also by that of a call's trampoline; null: nobody
    // at the moment. Nothing where there is no static call.
    std::optional<GuestVirt> target_at(GuestVirt at) const;
    // Whether any of them leads there.
    bool may_call(GuestVirt target) const;

  private:
    explicit StaticCalls(Kernel& kernel)
        : kernel_(&kernel), function_(kernel.field("static_call_key", "func")) {}

    Kernel* kernel_;
    Field function_;
    std::unordered_map<std::uint64_t, GuestVirt> called_;   // by key
    std::unordered_map<std::uint64_t, GuestVirt> targets_;  // by place
};

// What counts calls (retbleed=stuff, since 6.2; arch/x86/kernel/callthunks.c): so many bytes right
// before a function, to which those that would call it then go. 0 in a kernel that cannot.
std::size_t call_counter_bytes(const Kernel& kernel);

// From where ftrace calls who has a hook (arch/x86/kernel/ftrace_64.S): a hook itself when it is
// the only one, else one of ftrace's own functions.
class FtraceCalls {
  public:
    explicit FtraceCalls(Kernel& kernel);

    // ftrace's own entries, which ask its records whose hooks they are to call: none at a place
    // that is in none of them. They are called where functions with several hooks begin, and by the
    // tracer of calls and returns everywhere.
    static bool is_entry(const Kernel& kernel, GuestVirt target);

    bool is_at(GuestVirt place) const;
    // Whether it may be called from there. Hooks are read at the first question.
    bool may_call(GuestVirt target);

  private:
    Kernel* kernel_;
    std::vector<GuestVirt> places_;
    std::optional<std::vector<GuestVirt>> hooks_;
};

}  // namespace underseer::guest_linux
