// CheckSchedule: which checks of one instance are due, and when the next are, within the share of a
// core that the policy gives them. Time comes in; no clock.
#pragma once

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "guest_linux/guest.h"
#include "policy/policy.h"

namespace underseer::agent {

class CheckSchedule {
  public:
    using Instant = std::chrono::steady_clock::time_point;
    // Checks that are due within this of each other are made in one look.
    static constexpr std::chrono::milliseconds kTogether{250};
    // What has given a sign is to be there by the look; and one look a second is enough of them.
    static constexpr std::chrono::milliseconds kLookAfterSign{250}, kBetweenLooksForSigns{1000};
    // What a guest in which nothing happens has not used of its share is there when something
    // does: of so long.
    static constexpr std::chrono::seconds kSaves{60};

    // As the policy says from now on. What is known of costs and last times stays.
    void follow(const policy::Inspection& inspection);
    // From `when` on, all are due.
    void begin(Instant when);

    // Never more than this, in percent of a core, whatever the policy says of one VM.
    void bound(double percent) { bound_percent_ = percent; }
    // Something has happened in the guest: who judges the like looks soon, as far as the share
    // allows.
    void stir(guest_linux::Signs signs, Instant now);
    // So much of the share, in percent of a core, goes to somebody else; half is always left.
    void leave(double percent) { left_to_others_ = percent; }
    // These are due now, whatever was paid for before: once for each time that something is seen.
    void hurry(std::span<const std::string_view> names, Instant now);

    // Nothing: no check is made by itself.
    std::optional<Instant> next() const;
    std::vector<std::string> due(Instant now) const;
    // Whether it is for signs alone that they are.
    bool is_out_of_turn(Instant now) const;
    // These were made together. They cost so much CPU time, and the budget holds for them as one.
    // Out of turn they are due as before all the same: less was looked at.
    void made(const std::vector<std::string>& names, Instant started, std::chrono::nanoseconds cost,
              bool out_of_turn = false);
    // Between two of a check, after the budget. Nothing: it is off.
    std::optional<std::chrono::milliseconds> period(const std::string& name) const;
    // How long in all the looks of a check have been later than the policy says.
    std::chrono::nanoseconds late(const std::string& name) const;
    // What costs so much may come again after this.
    std::chrono::milliseconds afforded(std::chrono::nanoseconds cost) const;

  private:
    struct Entry {
        std::string name;
        std::optional<std::chrono::milliseconds> every;
        guest_linux::Signs signs = 0;
        Instant due;  // by the policy
        Instant hurried;
        std::optional<Instant> early;      // for a sign
        Instant looked;                    // when it was last made
        std::chrono::nanoseconds cost{0};  // of the last look that it was part of
        std::chrono::nanoseconds late{0};
    };
    const Entry* find(const std::string& name) const;

    std::vector<Entry> entries_;
    double cpu_percent_ = 1.0, bound_percent_ = 1e9, left_to_others_ = 0;
    Instant paid_at_;  // when the last look is paid for
};

}  // namespace underseer::agent
