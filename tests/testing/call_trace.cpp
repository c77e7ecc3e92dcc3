#include "testing/call_trace.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

namespace underseer::testing {

CallTrace::CallTrace(pid_t pid) : thread_([this, pid] { follow(pid); }) {
    ready_.wait(false);
}

CallTrace::~CallTrace() {
    if (thread_.joinable()) thread_.join();
}

const std::set<long>& CallTrace::calls_until_end() {
    if (thread_.joinable()) thread_.join();
    return calls_;
}

void CallTrace::follow(pid_t pid) {
    const bool attached = ::ptrace(PTRACE_SEIZE, pid, nullptr, PTRACE_O_TRACESYSGOOD) == 0 &&
                          ::ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr) == 0;
    attached_ = attached;
    ready_ = true;
    ready_.notify_all();
    if (!attached) return;
    for (int status = 0; ::waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status);) {
        __ptrace_syscall_info call{};
        long signal_to_give = 0;
        if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
            ::ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof call, &call);
            if (call.op == PTRACE_SYSCALL_INFO_ENTRY) {
                const auto number = static_cast<long>(call.entry.nr);
                if (number == SYS_seccomp) calls_.clear();
                if (number != SYS_seccomp) calls_.insert(number);
            }
        } else if (status >> 16 == 0) {
            signal_to_give = WSTOPSIG(status);
        }
        if (::ptrace(PTRACE_SYSCALL, pid, nullptr, signal_to_give) != 0) break;
    }
}

}  // namespace underseer::testing
