// Sigma rules over what happens in a guest: each program that is started, connection that is made
// and module that is loaded is judged once, when it is first seen, and what a rule says of it holds
// for as long as it is there. On request each is also told by itself.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "detect/check.h"
#include "event/finding.h"
#include "sigma/match.h"

namespace underseer::detect {

// The rules, and what of one guest they have judged by now. Outlives the checks.
class EventRules {
  public:
    static constexpr std::string_view kName = "event_rules";
    // Percent: what somebody else has written as a rule says what was seen, and not that it is an
    // attack.
    static constexpr std::uint8_t kConfidence = 70;

    void know(sigma::Matcher matcher) {
        matcher_ = std::move(matcher);
        forget_guest();
    }
    // These are to be told one by one, whatever the rules say of them.
    void log(const std::vector<event::ActivityKind>& kinds);
    bool has_work() const;
    // Another guest is looked into from now on.
    void forget_guest();

    event::CheckReport look(Snapshot& snapshot);
    // What is new since the first look, and was not taken yet.
    event::ActivityReport take_activities() { return std::exchange(activities_, {}); }

  private:
    // A program that runs: when a process starts another one, it is another.
    struct Run {
        std::uint64_t task = 0, pid = 0, start_time = 0, execs = 0;

        auto operator<=>(const Run&) const = default;
    };
    struct Connection {
        std::uint64_t task = 0, pid = 0, socket = 0;
        std::string ends;

        auto operator<=>(const Connection&) const = default;
    };
    using Module = std::pair<std::uint64_t, std::string>;  // address of its struct module, name
    struct Judgement {
        std::vector<event::Finding> findings;
        bool is_settled = false;  // else it is judged again: not all was to be known
        bool is_logged = false;
        bool has_ended = false;  // a process of which nothing is left to be judged
    };
    // What is known about each that is there.
    template <typename Key>
    using Judged = std::map<Key, Judgement>;
    class Look;

    // One who is not asked for is not looked at, and at first all that is there is known.
    struct Logged {
        bool wanted = false, begun = false;
    };

    sigma::Matcher matcher_;
    std::array<Logged, 3> logged_{};  // by event::ActivityKind
    event::ActivityReport activities_;
    Judged<Run> processes_;
    Judged<Connection> connections_;
    Judged<Module> modules_;
};

std::unique_ptr<Check> make_event_rules_check(EventRules* rules);

}  // namespace underseer::detect
