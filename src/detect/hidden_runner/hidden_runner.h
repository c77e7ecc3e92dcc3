// Hidden processes caught running: what the CPUs run is sampled many times a second, and each task
// that runs is looked for in the kernel's lists. One that is in them only in part is told, though
// it may have ended before anybody could walk them.
//
// The check hidden_process compares whole lists, five times over two seconds. This one knows the
// task itself, and asks its own links; who hides in a copy of a list that leads back to itself is
// for the other.
//
// Live memory is torn, and a task on its way in or out is in some lists only. So it must be the
// same task, missing in the same list, in each of several samples, with time on a CPU in between.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "detect/check.h"
#include "guest_linux/guest.h"

namespace underseer::detect {

// Kept over many looks at one guest, and so none of all_checks().
class HiddenRunnerWatch {
  public:
    static constexpr std::string_view kName = "hidden_runner";
    static std::span<const Rule> rules();
    static constexpr unsigned kSamples = 3;
    static constexpr std::chrono::milliseconds kSpan{12};
    using Moment = std::chrono::steady_clock::time_point;

    // What was sampled since begin(); of the pids, since the report before.
    struct Tally {
        std::uint64_t samples = 0;      // of all CPUs
        std::uint64_t ran = 0;          // tasks that were seen running, each once
        std::uint64_t pids_used = 0;    // how far the kernel has counted
        std::uint64_t pids_unseen = 0;  // of those, the ones that were neither seen nor are there
    };

    // `memory` is read at each sample, and must not be a cache; both must outlive this.
    HiddenRunnerWatch(guest_linux::Guest* guest, guest_memory::GuestMemory* memory);
    HiddenRunnerWatch(const HiddenRunnerWatch&) = delete;

    // Begins a report.
    void begin(Moment now);
    // True when report() has something to tell that it has not told yet.
    bool sample(Moment now);
    // Somebody runs who is not in all lists: to be called more often for a while.
    bool suspects() const { return !suspects_.empty(); }
    event::CheckReport report(std::chrono::system_clock::time_point wall_now, Moment now);
    // Of the time up to report().
    const Tally& tally() const { return tally_; }

  private:
    struct Identity {
        GuestVirt address;
        std::uint32_t pid = 0;
        std::uint64_t start_time = 0;
        auto operator<=>(const Identity&) const = default;
    };
    struct Suspect {
        guest_linux::RunningTask task;
        std::uint32_t missing = 0;
        unsigned samples = 0;
        Moment first{}, last{};
        std::uint64_t ran_at_first = 0;
        bool told = false;
        std::string when;  // for people, as it was told first

        bool is_confirmed() const;
    };

    void count_pids(event::CheckReport& report);
    event::Finding finding(const Identity& who, const Suspect& suspect) const;

    guest_linux::Guest* guest_;
    std::optional<guest_linux::RunningTasks> running_;
    std::string why_not_;  // there is no running_
    std::vector<guest_linux::RunningTask> sample_;
    std::map<Identity, Moment> known_;  // found in all lists, and when last
    std::map<Identity, Suspect> suspects_;
    std::unordered_set<std::uint32_t> seen_pids_;  // since begin()
    std::uint64_t unreadable_ = 0;                 // samples of one CPU
    std::string last_error_;
    Moment begun_{};
    std::optional<std::uint32_t> next_pid_;  // at the last report, or the first begin()
    Tally tally_;
};

}  // namespace underseer::detect
