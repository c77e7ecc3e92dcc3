// CallTrace: which system calls a process makes, seen by ptrace.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <set>
#include <thread>

#include "base/result.h"

namespace underseer::testing {

class CallTrace {
  public:
    // From now on. What the process did before it closed its jail does not count: the set begins
    // anew at seccomp(2).
    explicit CallTrace(pid_t pid);
    CallTrace(const CallTrace&) = delete;
    ~CallTrace();

    // Waits for the end of the process, and takes its exit status from whoever started it.
    const std::set<long>& calls_until_end();
    bool attached() const { return attached_; }

  private:
    void follow(pid_t pid);

    std::set<long> calls_;
    std::atomic<bool> attached_{false}, ready_{false};
    std::thread thread_;  // whoever attaches has to do all the rest too
};

}  // namespace underseer::testing
