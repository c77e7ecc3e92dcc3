#include "hypervisor/debugger.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <utility>

namespace underseer::hypervisor {

Debugger::Debugger(Fd monitor, GdbSockets sockets)
    : monitor_(std::move(monitor)),
      sockets_(std::move(sockets)),
      monitor_peer_(monitor_.get(), kLongestAnswer),
      server_(&monitor_peer_),
      socket_(sockets_.ours.get(), kLongestAnswer),
      stub_(&socket_) {}

Result<void> Debugger::attach() {
    monitor_peer_.renew(kLongestAnswer);
    TRY(server_.check());
    is_stopped();
    owed_ = true;
    TRY(server_.start(sockets_.theirs.get()));
    started_ = true;
    sockets_.theirs.reset();
    return stub_.greet();
}

Result<void> Debugger::insert(std::uint64_t address) {
    // Before it is there: what may be there is to be taken away.
    if (breakpoints_.insert(address).second) TRY(stub_.insert(address));
    return {};
}

Result<void> Debugger::remove(std::uint64_t address) {
    if (!breakpoints_.contains(address)) return {};
    TRY(stub_.remove(address));
    breakpoints_.erase(address);
    return {};
}

void Debugger::goes_on() {
    const auto passed = Clock::now() - stopped_at_;
    frozen_ += passed;
    longest_ = std::max<std::chrono::nanoseconds>(longest_, passed);
}

Result<void> Debugger::go_on(const Hit* hit) {
    if (hit != nullptr && breakpoints_.contains(hit->state.rip)) {
        const GdbStop stop = TRY(stub_.step_from(hit->cpu, hit->state.rip));
        if (stop.signal != GdbStop::kTrap) {
            others_stopped_it_ = true;
            breakpoints_.erase(hit->state.rip);
            return fail(Code::unavailable, "the VM was stopped by somebody else");
        }
        TRY(stub_.insert_and_go_on(hit->state.rip));
    } else {
        TRY(stub_.go_on());
    }
    goes_on();
    return {};
}

Result<std::optional<Debugger::Hit>> Debugger::take_hit() {
    const auto stop = TRY(stub_.stop_if_any());
    if (!stop) return std::optional<Hit>();
    is_stopped();
    if (stop->signal != GdbStop::kTrap) {
        others_stopped_it_ = true;
        return fail(Code::unavailable, "the VM was stopped by somebody else");
    }
    return std::optional(Hit{stop->cpu, TRY(stub_.registers(stop->cpu))});
}

Result<void> Debugger::check_running() {
    TRY(read_monitor());
    monitor_peer_.renew(kLongestAnswer);
    const std::string state = TRY(server_.vm_state());
    pollfd hit{hit_fd(), POLLIN, 0};
    if (state == "running" || has_hit() || ::poll(&hit, 1, 0) != 0) return {};
    return fail(Code::unavailable, "the VM stands still, and it is not said why: it is " + state);
}

Result<void> Debugger::read_monitor() {
    pollfd readable{monitor_.get(), POLLIN, 0};
    while (::poll(&readable, 1, 0) > 0) {
        monitor_peer_.renew(kLongestAnswer);
        TRY(server_.pass_over_events());
    }
    return {};
}

Result<void> Debugger::detach() {
    if (!std::exchange(owed_, false)) return {};
    Result<void> first;
    const auto attempt = [&](Result<void> done) {
        if (!done.has_value() && first.has_value()) first = std::move(done);
    };
    if (started_) {
        if (stub_.is_running()) {
            if (auto stop = stub_.interrupt(); stop.has_value()) {
                is_stopped();
            } else {
                attempt(fail(std::move(stop).error()));
            }
        }
        if (others_stopped_it_) {
            for (const std::uint64_t address : breakpoints_) attempt(stub_.remove(address));
        } else {
            attempt(stub_.detach());
            goes_on();
        }
    }
    attempt(read_monitor());
    monitor_peer_.renew(kLongestAnswer);
    attempt(server_.end());
    const auto state = server_.vm_state();
    if (!state.has_value()) {
        if (state.error().code == Code::gone) return {};  // the VM has ended
        attempt(fail(state.error()));
    } else if (*state != "running" && !others_stopped_it_) {
        attempt(fail(Code::unavailable, "the VM does not run again: it is " + *state));
    }
    if (first.has_value()) return {};
    return std::move(first).context(
        "taking the breakpoints away; 'underseer act VM resume' tries again");
}

}  // namespace underseer::hypervisor
