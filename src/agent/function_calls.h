// Calls of functions that an exact trace was asked for, by the breakpoints that stand where they
// begin: what the registers hold, who calls, and what comes back.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "agent/exact_form.h"
#include "guest_linux/guest.h"

namespace underseer::agent {

class FunctionCalls {
  public:
    // One breakpoint waits for returns.
    static constexpr std::size_t kMaxFunctions = kMaxBreakpoints - 1;

    // Those of the process with that pid (`task` is its leader) that `patterns` name:
    // "[FILE:]FUNCTION", with `*` and `?` as in a policy. FILE is the last part of a program's or a
    // library's path, or a whole path; "kernel:" stands before functions of the kernel. `memory` is
    // not a cache; both must outlive this.
    //
    // Code::not_found when none has such a name, Code::limit, with some names, when more do than
    // there are breakpoints for.
    static Result<FunctionCalls> of(guest_linux::Guest* guest, guest_memory::GuestMemory* memory,
                                    GuestVirt task, std::uint32_t pid,
                                    const std::vector<std::string>& patterns);

    std::vector<std::uint64_t> breakpoints() const;
    // "SSL_write (/usr/lib/x86_64-linux-gnu/libssl.so.3)".
    std::vector<std::string> names() const;
    const std::vector<std::string>& gaps() const { return gaps_.texts; }

    // A hit while `who` runs, of the process that is traced, with its memory. Calls are told in
    // `told` once they have returned, or will not be seen to. `at_ns`: since the trace began.
    void take(const BreakpointEvent& hit, const guest_linux::SyscallEntry::Caller& who,
              guest_linux::VirtualMemory memory, std::uint64_t at_ns, BreakpointOrder& order,
              std::vector<ExactCall>& told);
    // The trace is over.
    void give_up(std::vector<ExactCall>& told);
    // Says who made them. It takes its time: not while the guest stands still.
    void name_callers(std::vector<ExactCall>& calls);

  private:
    using Clock = std::chrono::steady_clock;
    struct Function {
        std::string file, name;
    };
    struct Pending {
        ExactCall call;
        GuestVirt task;
        std::uint64_t sp = 0;  // where the return address is
        Clock::time_point at;
    };

    FunctionCalls(guest_linux::Guest* guest, guest_memory::GuestMemory* memory)
        : guest_(guest), programs_(guest->user_programs(memory)) {}
    // How many there are.
    std::size_t find(std::string_view pattern);
    std::size_t find_in_kernel(std::string_view name);
    void enter(const Function& function, const BreakpointEvent& hit,
               const guest_linux::SyscallEntry::Caller& who, guest_linux::VirtualMemory& memory,
               std::uint64_t at_ns, BreakpointOrder& order, std::vector<ExactCall>& told);
    void leave(const BreakpointEvent& hit, GuestVirt task, BreakpointOrder& order,
               std::vector<ExactCall>& told);
    // Calls that will not return any more: what they would return to has been overwritten.
    void drop_gone(guest_linux::VirtualMemory& memory, BreakpointOrder& order,
                   std::vector<ExactCall>& told);
    void release(std::uint64_t address, BreakpointOrder& order);
    std::string caller_text(GuestVirt at);

    guest_linux::Guest* guest_;
    guest_linux::UserPrograms programs_;
    guest_linux::Gaps gaps_;
    std::map<GuestVirt, Function> functions_;
    std::map<std::uint64_t, std::size_t> returns_;  // how many calls return to a breakpoint
    std::vector<Pending> pending_;                  // a few: each waits at a breakpoint
    std::unordered_map<std::uint64_t, std::string> callers_;
};

}  // namespace underseer::agent
