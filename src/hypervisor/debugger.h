// A VM under hardware breakpoints: QEMU's GDB server is started over its monitor, and ended again.
// Every hit stops all CPUs. What is owed to the guest is detach(): without it, and with the socket
// closed, it stands still at the next hit for ever.
#pragma once

#include <chrono>
#include <optional>
#include <set>

#include "hypervisor/gdb_stub.h"
#include "hypervisor/qmp.h"

namespace underseer::hypervisor {

class Debugger {
  public:
    using Clock = std::chrono::steady_clock;

    struct Hit {
        GdbThread cpu;
        CpuState state;
    };

    // Both are kept until the end: `monitor` is a connection that nobody has spoken over
    // (connect_qmp()).
    Debugger(Fd monitor, GdbSockets sockets);
    Debugger(const Debugger&) = delete;

    int monitor_fd() const { return monitor_.get(); }
    // take_hit() may have one when this is readable, or has_hit() says so.
    int hit_fd() const { return sockets_.ours.get(); }
    bool has_hit() const { return stub_.has_pending(); }

    // The VM stands still when this returns; is_owed() says whether detach() is to be called, which
    // may be so after an error too. Code::unavailable, with the reason, when it has a debugger
    // already, or does not run.
    Result<void> attach();
    // REQUIRES: the VM stands still, as for go_on().
    Result<void> insert(std::uint64_t address);
    Result<void> remove(std::uint64_t address);
    std::size_t breakpoints() const { return breakpoints_.size(); }
    // Goes on, past the breakpoint at which `hit` was.
    Result<void> go_on(const Hit* hit = nullptr);
    // Nothing when what has come is none. Code::unavailable when the VM was stopped by somebody
    // else.
    Result<std::optional<Hit>> take_hit();
    // That the VM runs, unless a hit is on its way. Code::unavailable when it stands still and
    // nobody has said why.
    Result<void> check_running();
    // What the monitor tells unasked, a few lines a hit, is not kept. Never waits.
    Result<void> read_monitor();

    // Takes all breakpoints away, ends the server and makes sure that the VM runs (unless somebody
    // else has stopped it). An error says what may be wrong with the VM now.
    Result<void> detach();

    bool is_owed() const { return owed_; }
    // Times in which all CPUs stood still for this.
    std::chrono::nanoseconds frozen() const { return frozen_; }
    std::chrono::nanoseconds longest_freeze() const { return longest_; }

  private:
    void is_stopped() { stopped_at_ = Clock::now(); }
    void goes_on();

    static constexpr std::chrono::milliseconds kLongestAnswer{2000};

    Fd monitor_;
    GdbSockets sockets_;
    QmpSocketPeer monitor_peer_;
    GdbServer server_;
    GdbSocket socket_;
    GdbStub stub_;
    std::set<std::uint64_t> breakpoints_;
    bool started_ = false, owed_ = false, others_stopped_it_ = false;
    Clock::time_point stopped_at_{};
    std::chrono::nanoseconds frozen_{0}, longest_{0};
};

}  // namespace underseer::hypervisor
