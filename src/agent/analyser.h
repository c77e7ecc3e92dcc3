// The analyser: the jailed process that decodes what introspectors report and keeps the findings'
// life, and the handle on it. One per host: it sees all instances. What it says is validated by the
// agent, which stamps the instance; it can only ever speak of what was asked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "agent/introspection.h"
#include "detect/judgement.h"
#include "event/finding.h"
#include "jail/channel.h"
#include "jail/jail.h"

namespace underseer::agent {

// A rule that came at run time: findings by it have this severity.
struct RuleSeverity {
    std::string rule;
    event::Severity severity{};

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"rule", &RuleSeverity::rule},
                          Field{"severity", &RuleSeverity::severity}};
    }
};

struct AnalyserInput {
    enum class Kind : std::uint8_t { restore, report, end, rules, activities };
    friend constexpr Kind last_enumerator(Kind) { return Kind::activities; }

    Kind kind = Kind::report;
    std::uint64_t ticket = 0;  // comes back with the verdict
    std::uint64_t time_ns = 0;
    std::string instance_id;
    std::string check;  // that was asked for
    // Of kind report a CheckReport in wire form, of kind activities an ActivityReport: the agent
    // does not decode them.
    std::string report;
    detect::Reference compared_with;           // of kernel_code
    std::vector<event::OpenFinding> restored;  // kind restore
    std::string why;                           // kind end
    std::vector<RuleSeverity> rules;           // kind rules: all that hold from now on

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"kind", &AnalyserInput::kind},
                          Field{"ticket", &AnalyserInput::ticket},
                          Field{"time_ns", &AnalyserInput::time_ns},
                          Field{"instance_id", &AnalyserInput::instance_id},
                          Field{"check", &AnalyserInput::check},
                          Field{"report", &AnalyserInput::report},
                          Field{"compared_with", &AnalyserInput::compared_with},
                          Field{"restored", &AnalyserInput::restored},
                          Field{"why", &AnalyserInput::why},
                          Field{"rules", &AnalyserInput::rules}};
    }
};

// What a report amounts to, after the changes it caused.
struct AnalyserVerdict {
    std::uint64_t ticket = 0;
    bool malformed = false;  // the introspector sent what is no report
    event::Outcome outcome = event::Outcome::unavailable;
    event::Severity severity = event::Severity::informational;  // the highest of its findings
    std::string reason;
    event::Coverage coverage;
    bool partial = false;  // as the report's

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"ticket", &AnalyserVerdict::ticket},
                          Field{"malformed", &AnalyserVerdict::malformed},
                          Field{"outcome", &AnalyserVerdict::outcome},
                          Field{"severity", &AnalyserVerdict::severity},
                          Field{"reason", &AnalyserVerdict::reason},
                          Field{"coverage", &AnalyserVerdict::coverage},
                          Field{"partial", &AnalyserVerdict::partial}};
    }
};

// An answer is any number of items frames, each with FindingChanges (about activities: one, with
// the ActivityReport), and one end frame with the AnalyserVerdict.

// The inside of the jail: judges what comes over the channel until it closes.
Result<void> run_analyser(jail::Channel channel);

}  // namespace underseer::agent
