#include "agent/guest_watcher.h"

#include <utility>

namespace underseer::agent {

namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

constexpr milliseconds kLongestWatch{60'000}, kShortestWatch{1};
constexpr std::chrono::microseconds kShortestPeriod{500};
// News that come right after news may wait so long: they cost a report each.
constexpr milliseconds kBetweenNews{250};
// Signs make a check come sooner by seconds: they need not be looked for as often as the rest, and
// what they cost is little beside it.
constexpr milliseconds kSignsEvery{20}, kBetweenSigns{200};
// Who begins is on the roll at once, and is no sign of his own any more.
constexpr milliseconds kRollEvery{500}, kRollAfterSign{200};

}  // namespace

GuestWatcher::GuestWatcher(guest_linux::Guest* guest, guest_memory::GuestMemory* memory, Tell tell)
    : memory_(guest, memory, Clock::now()),
      runners_(guest, memory),
      telltales_(guest->telltales(memory)),
      tell_(std::move(tell)) {}

Result<void> GuestWatcher::check(const WatchOrder& order) {
    const milliseconds length(order.for_ms);
    if (length < kShortestWatch || length > kLongestWatch || order.core_ppm == 0 ||
        std::chrono::microseconds(order.period_us) < kShortestPeriod) {
        return fail(Code::invalid_argument, "this is no way to watch");
    }
    return {};
}

Result<bool> GuestWatcher::watch(const WatchOrder& order) {
    const auto begin = Clock::now();
    memory_.begin(begin);
    memory_.monitor(order.regions, begin);
    runners_.begin(begin);
    telltales_.follow_chains();
    const auto news_from = begin + std::exchange(after_news_, nanoseconds(0));
    pace_.emplace(std::chrono::microseconds(order.period_us),
                  static_cast<double>(order.core_ppm) / 1e6);
    bool news = false;
    for (;;) {
        news |= TRY(look());
        if (news && Clock::now() >= news_from) break;
        if (Clock::now() - begin >= milliseconds(order.for_ms)) break;
        wait();
    }
    if (news) after_news_ = kBetweenNews;
    return news;
}

Result<bool> GuestWatcher::look() {
    const bool changed = memory_.poll(Clock::now());
    const bool ran = runners_.sample(Clock::now());
    TRY(look_for_signs(Clock::now()));
    return changed || ran;
}

Result<void> GuestWatcher::look_for_signs(Clock::time_point now) {
    if (now - asked_ < kSignsEvery) return {};
    asked_ = now;
    untold_ |= telltales_.poll();
    const bool began = (untold_ & guest_linux::kSignOfTasks) != 0;
    if (now - rolled_ >= (began ? kRollAfterSign : kRollEvery)) {
        rolled_ = now;
        untold_ |= telltales_.call_the_roll();
    }
    if (untold_ == 0 || now - told_ < kBetweenSigns) return {};
    told_ = now;
    return tell_(std::exchange(untold_, 0));
}

WatchTally GuestWatcher::tally() const {
    const detect::HiddenRunnerWatch::Tally& runners = runners_.tally();
    return {.looks = memory_.polls(),
            .longest_pause_ns = static_cast<std::uint64_t>(memory_.longest_pause().count()),
            .late_ns = static_cast<std::uint64_t>(memory_.late().count()),
            .samples = runners.samples,
            .tasks_ran = runners.ran,
            .pids_used = runners.pids_used,
            .pids_unseen = runners.pids_unseen};
}

std::vector<event::CheckReport> GuestWatcher::reports() {
    std::vector<event::CheckReport> reports;
    reports.push_back(memory_.report(std::chrono::system_clock::now(), Clock::now()));
    reports.push_back(runners_.report(std::chrono::system_clock::now(), Clock::now()));
    return reports;
}

}  // namespace underseer::agent
