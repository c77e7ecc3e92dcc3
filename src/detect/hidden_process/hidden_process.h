// Hidden processes: tasks that some kernel views show and others do not.
//
// Every task is expected in certain views: a process in the task list, the thread list, the pid
// IDR, the tree and a css_set; a further thread in all but the task list and the tree. A task that
// runs (run queue, current) or that any view shows, and that misses one where it is expected, is a
// candidate. Live memory is torn and processes come and go while it is read, so a candidate becomes
// a finding only when it is the same task, with the same members missing, in every one of several
// looks that are spread over time.
//
// Where it is asked for, RAM itself is searched for tasks as well. A live task that is found there
// is expected in the other views like any other; one that is not found there is no suspect.
//
// TRUST: every structure read here is the guest's. A lie can hide a task from this check only by
// making all views agree: where a view cannot be followed to its end, the answer is `unavailable`,
// or what the others show. A view that this kernel's model does not know is a gap in the coverage.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "detect/check.h"

namespace underseer::detect {

class HiddenProcessCheck final : public Check {
  public:
    static constexpr std::string_view kName = "hidden_process";  // of the check and its rule
    static const Rule kRule;
    // Looks that must agree, and the time the caller lets pass between two of them. A process that
    // is being forked or reaped is half-linked for as long as the guest does not schedule it, so
    // the span (two seconds in all) is well above a busy guest's scheduling latency.
    static constexpr unsigned kLooks = 5;
    static constexpr std::chrono::milliseconds kPause{500};

    // on_suspicion: when views still differ, or are broken, at the second look. A process that
    // comes or goes has come or gone by then.
    enum class SearchRam : std::uint8_t { never, on_suspicion, always };
    explicit HiddenProcessCheck(SearchRam search_ram = SearchRam::never)
        : search_ram_(search_ram) {}

    // Whether `finding` is one of this check about the task with that pid and task_struct.
    static bool is_about(const event::Finding& finding, std::uint32_t pid, GuestVirt task);

    // It takes another look as long as something is missing in a view, or a view is broken. Memory
    // in motion breaks them now and then, and a look with fewer of them vouches for less than the
    // next.
    void look(Snapshot& snapshot) override;
    std::chrono::milliseconds pause() const override { return kPause; }
    bool done() const override {
        return looks_ >= kLooks || taken_ >= 2 * kLooks ||
               (looks_ > 0 && candidates_.empty() && broken_.empty());
    }

    event::CheckReport report(guest_linux::Guest& guest) override;

  private:
    using ViewSet = std::uint32_t;  // one bit a TaskView
    // The same task in two looks: its address, pid and start time.
    struct Identity {
        GuestVirt address;
        std::uint32_t pid = 0;
        std::uint64_t start_time = 0;
        auto operator<=>(const Identity&) const = default;
    };
    struct Sighting {
        ViewSet shown = 0;
        ViewSet missing = 0;
        bool exiting = false;
        std::optional<std::uint64_t> ran_ns;  // its time on a CPU so far
    };

    static bool only_waits_to_end(const Sighting& before, const Sighting& now);
    void drop_unconfirmed(const std::map<Identity, Sighting>& now);
    event::Finding finding(guest_linux::Guest& guest, const Identity& who,
                           const Sighting& sighting) const;

    SearchRam search_ram_;
    std::optional<guest_linux::TaskPlaces> places_;  // once RAM was searched
    unsigned taken_ = 0;
    unsigned looks_ = 0;  // of them, since one in which all views were whole
    std::map<Identity, Sighting> candidates_;
    event::Coverage coverage_;
    std::string blind_;   // why the last look could compare nothing; "" when it could
    std::string broken_;  // which view the last look could not follow to its end, and why
};

}  // namespace underseer::detect
