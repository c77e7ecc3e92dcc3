// The supervisor of an exact trace: a process that alone holds a VM's breakpoints, and outlives
// whoever started it.
//
//     CLI ── starts ──> introspector ("tracer"): reads the guest, says what to do at a hit
//      │                     │ hits, orders (a socket pair)
//      └──── starts ──> supervisor: QEMU's monitor and GDB server, nothing of the guest
//
// The GDB server could write the guest's memory, and give orders to QEMU's human monitor: who
// parses what a guest has written may not speak to it. Whatever ends the trace (its time, the end
// or the killing of the tracer or of the CLI, a tracer that does not answer while the guest stands
// still), the supervisor takes the breakpoints away, detaches and sees that the VM runs. That it
// has to is on the disk before it begins: should it be killed as well, the agent resumes the VM, or
// `underseer act VM resume` does.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>

#include "agent/exact_form.h"
#include "base/os.h"
#include "hypervisor/discover.h"
#include "jail/channel.h"
#include "jail/jail.h"

namespace underseer::agent {

// How long the guest may stand still for a tracer that does not answer.
inline constexpr std::chrono::milliseconds kLongestFreeze{500};
// More stops than this within a second are too many where nothing else is said: at a quarter to
// half a millisecond each the guest hardly gets anything done.
inline constexpr std::uint32_t kMaxStopsPerSecond = 2000;

// That a VM has, or may have, breakpoints: a file for each such VM, with something in it until they
// are gone, and locked as long as somebody lives who will see to that.
class TraceRecord {
  public:
    // Code::unavailable when another exact trace of this VM is under way.
    static Result<TraceRecord> make(const std::filesystem::path& state_dir,
                                    const hypervisor::Vm& vm);
    // Whether nobody will take away what this VM has.
    static bool is_owed(const std::filesystem::path& state_dir, const hypervisor::Vm& vm);
    // It has nothing any more.
    static void settle(const std::filesystem::path& state_dir, const hypervisor::Vm& vm);

    int fd() const { return file_.get(); }

  private:
    explicit TraceRecord(Fd file) : file_(std::move(file)) {}
    Fd file_;
};

class TraceSupervisor {
  public:
    // Starts it; nothing is done to the VM yet. Code::unavailable, with the reason, for VMs that
    // cannot be traced so. begin() does not wait for it: that it cannot do its work is told to its
    // tracer then.
    static Result<TraceSupervisor> start(const hypervisor::Vm& vm,
                                         const std::filesystem::path& state_dir,
                                         std::uint32_t max_stops = kMaxStopsPerSecond);
    static Result<TraceSupervisor> begin(const hypervisor::Vm& vm,
                                         const std::filesystem::path& state_dir,
                                         std::uint32_t max_stops);
    // It lives on, should it still have something to do.
    ~TraceSupervisor() { child_.let_go(); }
    TraceSupervisor(TraceSupervisor&&) = default;

    // The tracer's end of their line, once.
    Fd take_line() { return std::move(line_); }
    // Layers of the jail that this host did not allow.
    const std::vector<std::string>& missing_layers() const { return missing_layers_; }
    pid_t pid() const { return child_.pid(); }
    // It is to let the VM go now.
    void end();
    // What it has to say at its end, which it comes to by itself.
    Result<SupervisorReport> wait(std::chrono::milliseconds longest);
    // The same without waiting; nothing as long as it has not ended.
    std::optional<Result<SupervisorReport>> poll();

  private:
    TraceSupervisor(jail::Child child, jail::Channel channel, Fd line)
        : child_(std::move(child)), channel_(std::move(channel)), line_(std::move(line)) {}
    Result<std::string> next_frame(std::chrono::milliseconds longest);
    Result<void> take_hello(std::chrono::milliseconds longest);

    jail::Child child_;
    jail::Channel channel_;
    Fd line_;
    bool is_greeted_ = false;
    std::vector<std::string> missing_layers_;
};

// Why a VM cannot be traced exactly; "" when it can, as far as is known without asking it.
std::string why_no_exact_trace(const hypervisor::Vm& vm);

// The inside of the jail.
Result<void> run_supervisor(jail::Channel channel);

}  // namespace underseer::agent
