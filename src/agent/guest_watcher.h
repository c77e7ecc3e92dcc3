// GuestWatcher: the inside of a watch. What is compared, sampled and asked for signs, many times a
// second, within its share of a core; kept from one watch of a guest to the next.
#pragma once

#include <chrono>
#include <functional>
#include <vector>

#include "agent/introspection.h"
#include "agent/pace.h"
#include "detect/watches.h"

namespace underseer::agent {

class GuestWatcher {
  public:
    // Told while the watch goes on, at most once in kBetweenSigns.
    using Tell = std::function<Result<void>(guest_linux::Signs signs)>;

    // What is there now is right. `memory` must not be a cache; both must outlive this.
    GuestWatcher(guest_linux::Guest* guest, guest_memory::GuestMemory* memory, Tell tell);
    GuestWatcher(const GuestWatcher&) = delete;

    static Result<void> check(const WatchOrder& order);
    // Looks until there is news, or the time is over. Says which. Fails when nobody can be told.
    Result<bool> watch(const WatchOrder& order);
    // One look; whether it has news.
    Result<bool> look();
    // Until the next one is due.
    void wait() { pace_->wait(runners_.suspects()); }

    // Of the time since watch() began.
    WatchTally tally() const;
    std::vector<event::CheckReport> reports();

  private:
    using Clock = std::chrono::steady_clock;
    Result<void> look_for_signs(Clock::time_point now);

    detect::MemoryWatch memory_;
    detect::HiddenRunnerWatch runners_;
    guest_linux::Telltales telltales_;
    Tell tell_;
    std::optional<Pace> pace_;
    // Who makes news all the time must not keep the agent busy.
    std::chrono::nanoseconds after_news_{0};
    guest_linux::Signs untold_ = 0;
    Clock::time_point asked_, rolled_, told_;
};

}  // namespace underseer::agent
