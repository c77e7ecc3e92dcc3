// The inside of the supervisor.
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>

#include "agent/trace_supervisor.h"
#include "event/wire.h"
#include "hypervisor/debugger.h"

namespace underseer::agent {

namespace {

using hypervisor::Debugger;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kTracerFd = jail::kFirstWorkerFd + 1, kRecordFd = kTracerFd + 1;
constexpr std::uint64_t kMaxSupervisorMemory = 256ull << 20;
// A tracer looks for the guest's kernel first.
constexpr milliseconds kLongestUntilBegun{60'000};
constexpr milliseconds kLookAround{200};
constexpr milliseconds kRateWindow{1000};

class Supervisor {
  public:
    Supervisor(jail::Channel owner, jail::Channel tracer, Debugger* debugger,
               std::uint32_t max_stops)
        : owner_(std::move(owner)),
          tracer_(std::move(tracer)),
          debugger_(debugger),
          max_stops_(max_stops) {}

    // Holds the VM's breakpoints for as long as somebody wants them, and lets it go.
    SupervisorReport run() {
        auto over = hold();
        report_.ended = over.has_value() ? std::move(*over) : over.error().to_text();
        if (const auto free = debugger_->detach(); !free.has_value()) {
            report_.trouble = free.error().to_text();
        }
        const auto ns = [](std::chrono::nanoseconds time) {
            return static_cast<std::uint64_t>(time.count());
        };
        report_.frozen_ns = ns(debugger_->frozen());
        report_.longest_freeze_ns = ns(debugger_->longest_freeze());
        return report_;
    }

    // Whoever still listens.
    void tell(const SupervisorReport& report) {
        (void)tracer_.post(
            event::encode(BreakpointEvent{.kind = BreakpointEvent::Kind::ended, .report = report}));
        (void)owner_.send(event::encode(report));
    }

  private:
    // Why it is over; an error is one more reason.
    Result<std::string> hold() {
        const BreakpointOrder start = TRY(next_order(kLongestUntilBegun, "begin"));
        if (!start.end.empty()) return start.end;
        const auto length = milliseconds(std::min(start.for_ms, kMaxTraceMs));
        const auto attached = debugger_->attach();
        report_.begun = debugger_->is_owed();
        TRY(attached);
        TRY(obey(start));
        TRY(debugger_->go_on());
        const auto end = Clock::now() + length;
        auto looked_at = Clock::now();
        for (;;) {
            const auto now = Clock::now();
            if (now >= end) return std::string("the time is over");
            if (now - looked_at >= kLookAround) {
                const BreakpointOrder order = TRY(ask({.kind = BreakpointEvent::Kind::nothing}));
                if (!order.end.empty()) return order.end;
                TRY(debugger_->check_running());
                looked_at = Clock::now();
            }
            pollfd fds[] = {{debugger_->hit_fd(), POLLIN, 0},
                            {debugger_->monitor_fd(), POLLIN, 0},
                            {tracer_.fd(), POLLIN, 0},
                            {owner_.fd(), POLLIN, 0}};
            const auto wait = std::min<Clock::duration>(kLookAround, end - now);
            const bool has_hit = debugger_->has_hit();
            const auto wait_ms = static_cast<int>(std::chrono::ceil<milliseconds>(wait).count());
            (void)::poll(fds, std::size(fds), has_hit ? 0 : 1 + wait_ms);
            if (fds[3].revents != 0) return std::string(kNotWanted);
            if (fds[2].revents != 0) return std::string(kNoTracer);
            if (fds[1].revents != 0) TRY(debugger_->read_monitor());
            if (!has_hit && fds[0].revents == 0) continue;
            const auto over = TRY(hit());
            if (!over.empty()) return over;
        }
    }

    // A stop, and what comes of it; why it is over, or "".
    Result<std::string> hit() {
        const auto hit = TRY(debugger_->take_hit());
        if (!hit) return std::string();
        ++report_.stops;
        if (Clock::now() - second_ >= kRateWindow) {
            second_ = Clock::now();
            stops_before_ = report_.stops;
        }
        if (report_.stops - stops_before_ > max_stops_) {
            report_.over_ceiling = true;
            return fmt::format("there were more than {} stops in a second", max_stops_);
        }
        const hypervisor::CpuState& cpu = hit->state;
        const BreakpointOrder order =
            TRY(ask({.kind = BreakpointEvent::Kind::hit,
                     .rip = cpu.rip,
                     .rsp = cpu.rsp,
                     .rax = cpu.rax,
                     .gs_base = cpu.gs_base,
                     .kernel_gs_base = cpu.kernel_gs_base,
                     .cr3 = cpu.cr3,
                     .arguments = {cpu.rdi, cpu.rsi, cpu.rdx, cpu.rcx, cpu.r8, cpu.r9}}));
        if (!order.end.empty()) return order.end;
        TRY(obey(order));
        TRY(debugger_->go_on(&*hit));
        return std::string();
    }

    Result<void> obey(const BreakpointOrder& order) {
        for (const std::uint64_t address : order.remove) TRY(debugger_->remove(address));
        for (const std::uint64_t address : order.insert) {
            TRY(debugger_->insert(address));
            if (debugger_->breakpoints() > kMaxBreakpoints) {
                return fail(Code::limit, "the tracer wants more breakpoints than a CPU has");
            }
        }
        return {};
    }

    Result<BreakpointOrder> ask(const BreakpointEvent& event) {
        TRY(tracer_.post(event::encode(event)));
        return next_order(kLongestFreeze, "answer");
    }

    Result<BreakpointOrder> next_order(milliseconds longest, std::string_view what) {
        const auto deadline = Clock::now() + longest;
        for (;;) {
            const bool open = TRY(tracer_.fill());
            if (const auto frame = TRY(tracer_.next())) {
                return event::decode<BreakpointOrder>(as_bytes(*frame));
            }
            if (!open) return fail(Code::unavailable, kNoTracer);
            const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now());
            pollfd fds[] = {{tracer_.fd(), POLLIN, 0}, {owner_.fd(), POLLIN, 0}};
            if (left.count() <= 0 ||
                ::poll(fds, std::size(fds), static_cast<int>(left.count())) == 0) {
                return fail(Code::unavailable, fmt::format("the tracer does not {} within {} ms",
                                                           what, longest.count()));
            }
            if (fds[1].revents != 0) {
                return fail(Code::unavailable, kNotWanted);
            }
        }
    }

    static constexpr const char* kNoTracer = "the tracer has ended";
    static constexpr const char* kNotWanted = "whoever asked for it has ended, or ended it";

    jail::Channel owner_, tracer_;
    Debugger* debugger_;
    std::uint32_t max_stops_;
    SupervisorReport report_;
    Clock::time_point second_{};
    std::uint64_t stops_before_ = 0;
};

}  // namespace

Result<void> run_supervisor(jail::Channel channel) {
    ::signal(SIGPIPE, SIG_IGN);
    const std::string frame = TRY(channel.receive());
    const auto start = TRY(event::decode<SupervisorStart>(as_bytes(frame)));
    Fd monitor = TRY(hypervisor::connect_qmp({.path = start.path,
                                              .pid = static_cast<pid_t>(start.pid),
                                              .user = start.user,
                                              .group = start.group}));
    auto sockets = TRY(hypervisor::GdbSockets::make());
    const jail::SupervisorFds fds{.channel = channel.fd(),
                                  .tracer = kTracerFd,
                                  .monitor = monitor.get(),
                                  .gdb = sockets.ours.get(),
                                  .record = kRecordFd};
    const int keep[] = {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO,        fds.channel, fds.tracer,
                        fds.monitor,  fds.gdb,       sockets.theirs.get(), fds.record};
    const auto missing = TRY(jail::close_jail(
        jail::supervisor_policy(fds),
        {.die_with_parent = false, .max_memory_bytes = kMaxSupervisorMemory, .polled_fds = 4},
        keep));
    TRY(channel.send(event::encode(missing)));
    Debugger debugger(std::move(monitor), std::move(sockets));
    Supervisor supervisor(std::move(channel), jail::Channel(Fd(kTracerFd)), &debugger,
                          start.max_stops);
    const SupervisorReport report = supervisor.run();
    if (report.trouble.empty()) (void)!::ftruncate(kRecordFd, 0);
    supervisor.tell(report);
    return {};
}

}  // namespace underseer::agent
