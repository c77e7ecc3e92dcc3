// ConfirmedCheck: a check that one look can make. Live memory is torn and processes are caught in
// mid-step, so what a look shows is told only when the same is there in every one of several looks.
#pragma once

#include <set>
#include <string_view>
#include <utility>

#include "detect/check.h"

namespace underseer::detect {

class ConfirmedCheck final : public Check {
  public:
    static constexpr unsigned kLooks = 3;
    static constexpr std::chrono::milliseconds kPause{300};

    // What one look shows: outcome `unavailable` with its reason, or findings, or none. Findings
    // are added by add_finding(). Findings with a reason beside them: where they are not confirmed,
    // the answer is not clean but unavailable for that reason.
    using Inspect = event::CheckReport (*)(Snapshot& snapshot);

    ConfirmedCheck(std::string_view name, Inspect inspect) : name_(name), inspect_(inspect) {}

    void look(Snapshot& snapshot) override;
    bool done() const override;
    std::chrono::milliseconds pause() const override { return kPause; }
    event::CheckReport report(guest_linux::Guest& guest) override;

  private:
    using Condition = std::pair<std::string, std::string>;  // rule, key

    std::string_view name_;
    Inspect inspect_;
    event::CheckReport last_;        // of the last look that could be made, else of the last
    std::set<Condition> confirmed_;  // in every look since the first that could be made
    unsigned taken_ = 0;
    unsigned looks_ = 0;  // of them, those that could be made
};

// Adds as many as a report can tell; the others are counted and told as a gap by the check.
void add_finding(event::CheckReport& report, event::Finding finding);
// Then add_finding() keeps no more: one that costs something need not be made, and an empty one
// tells that there was more.
bool is_full(const event::CheckReport& report);
// A part of the guest that could not be looked at. Few of many are told.
void add_gap(event::CheckReport& report, std::string what);
// What cannot be said of the guest, where nothing that was found before can be hidden by it. Few of
// many are told.
void add_limit(event::CheckReport& report, std::string what);
// What belongs to somebody who could not be asked accuses nobody, and is not clean either; nor is
// what the guest may itself have made unreadable, or too much to be looked at. To be called last.
// `why` is empty where there is no such doubt.
void settle_doubt(event::CheckReport& report, const std::string& why);

}  // namespace underseer::detect
