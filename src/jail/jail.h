// The jail: what a worker does to itself before it touches the first byte that an attacker may have
// written, and how its parent starts and ends it.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/os.h"
#include "jail/policy.h"

namespace underseer::jail {

struct Confinement {
    bool die_with_parent = true;  // SIGKILL when the parent goes
    std::uint64_t max_memory_bytes = 1ull << 30;
    std::uint64_t max_file_bytes = 0;  // that it writes; 0: it writes no file
    // How many fds one poll(2) may wait for: no more than RLIMIT_NOFILE, or it fails. Whoever sets
    // it keeps that many of the lowest fds, so that still no file can be opened.
    unsigned polled_fds = 0;
};

// Closes the jail around the calling process, for good: own (empty) namespaces and an empty root,
// user 65534, no capabilities, no new privileges, not dumpable, resource limits, and last the
// policy's filter. All fds but `keep` are closed. Returns the layers that this host did not allow
// (an ordinary user on a host without user namespaces, say); the filter itself is never one of
// them: without it the call fails.
Result<std::vector<std::string>> close_jail(const Policy& policy, const Confinement& confinement,
                                            std::span<const int> keep);

inline constexpr int kFirstWorkerFd = 3;

// When a worker ends besides: with whoever started it, or of its own accord only. The second has a
// session of its own too: what ends all programs of a terminal does not end it.
enum class Lifetime : std::uint8_t { of_parent, its_own };

// The role, when this process was started by Child::exec_worker().
std::optional<std::string> worker_role(int argc, char** argv);

// How a worker ended.
struct Ending {
    bool exited = false;
    int status = 0;  // exit status, or the signal
    // "exited with 3", "killed by its system-call filter (SIGSYS)", "killed by SIGKILL"
    std::string to_text() const;
};

// A forked worker, by pidfd: no number can be mistaken for another process's.
class Child {
  public:
    // Forks and runs `body` in the child, whose return value is its exit status. REQUIRES: the
    // calling process has one thread.
    static Result<Child> fork(const std::function<int()>& body);

    // Starts this program anew as a worker: `--worker ROLE`, an empty environment, a fresh address
    // space with nothing of the parent's memory (keys, other guests) in it. `fds` become
    // kFirstWorkerFd and those after it; no other is open but standard error. Whatever program
    // calls this hands its arguments to worker_role() first of all.
    static Result<Child> exec_worker(std::string_view role, std::span<const int> fds,
                                     Lifetime lifetime = Lifetime::of_parent);

    Child(Child&&) = default;
    Child& operator=(Child&& other) noexcept;
    ~Child();  // kills and reaps

    pid_t pid() const { return pid_; }
    int pidfd() const { return pidfd_.get(); }  // readable when it has ended
    void kill();
    // It is not ended with this any more, nor by it.
    void let_go() { pidfd_.reset(); }
    // Waits for its end. Code::unavailable when `timeout` passes before.
    Result<Ending> wait(std::chrono::milliseconds timeout);

  private:
    Child(pid_t pid, Fd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}

    pid_t pid_ = -1;
    Fd pidfd_;
};

}  // namespace underseer::jail
