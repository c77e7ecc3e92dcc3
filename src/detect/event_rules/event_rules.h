// Sigma rules over what happens in a guest: each program that is started, connection that is made
// and module that is loaded is judged once, when it is first seen, and what a rule says of it holds
// for as long as it is there.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <string>
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
    bool has_rules() const { return !matcher_.rules().empty(); }
    // Another guest is looked into from now on.
    void forget_guest() { processes_.clear(), connections_.clear(), modules_.clear(); }

    event::CheckReport look(Snapshot& snapshot);

  private:
    // A program that runs: when a process starts another one, it is another.
    struct Run {
        std::uint64_t task = 0, pid = 0, start_time = 0, execs = 0;

        auto operator<=>(const Run&) const = default;
    };
    struct Connection {
        std::uint64_t socket = 0, task = 0, pid = 0;
        std::string ends;

        auto operator<=>(const Connection&) const = default;
    };
    using Module = std::pair<std::uint64_t, std::string>;  // address of its struct module, name
    // What was found about each that is there.
    template <typename Key>
    using Judged = std::map<Key, std::vector<event::Finding>>;
    class Look;

    sigma::Matcher matcher_;
    Judged<Run> processes_;
    Judged<Connection> connections_;
    Judged<Module> modules_;
};

std::unique_ptr<Check> make_event_rules_check(EventRules* rules);

}  // namespace underseer::detect
