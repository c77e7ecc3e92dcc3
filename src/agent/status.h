// What the agent says about itself and its instances: `underseer status`, and the control socket's
// requests and answers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "agent/introspection.h"
#include "event/finding.h"
#include "sigma/compile.h"

namespace underseer::agent {

enum class WatchState : std::uint8_t { attaching, watched, restarting, excluded, unreadable };
constexpr WatchState last_enumerator(WatchState) {
    return WatchState::unreadable;
}
std::string_view to_string(WatchState state);

// One check of one instance.
struct CheckStatus {
    std::string check;
    std::uint64_t period_ns = 0;  // between two, after the budget; 0: off
    std::uint64_t made = 0;       // how often
    std::uint64_t last_ns = 0;    // since the epoch; 0: never
    event::Outcome outcome = event::Outcome::unavailable;
    event::Severity severity = event::Severity::informational;  // the highest of its findings
    std::string reason;
    event::Coverage coverage;
    std::uint64_t blind_ns = 0;  // in which it could say nothing, the present stretch included
    std::uint64_t late_ns = 0;   // its looks came so much later, in all, than the policy says

    static constexpr auto fields() {
        using event::Field;
        using S = CheckStatus;
        return std::tuple{Field{"check", &S::check},       Field{"period_ns", &S::period_ns},
                          Field{"made", &S::made},         Field{"last", &S::last_ns},
                          Field{"outcome", &S::outcome},   Field{"severity", &S::severity},
                          Field{"reason", &S::reason},     Field{"coverage", &S::coverage},
                          Field{"blind_ns", &S::blind_ns}, Field{"late_ns", &S::late_ns}};
    }
};

struct InstanceStatus {
    event::Instance instance;
    std::uint32_t pid = 0;
    std::string vm_state;  // "running", "paused", .. as its manager says; "": nobody says
    WatchState state = WatchState::attaching;
    std::string why;                  // of excluded, unreadable, restarting
    std::string baseline;             // build id of the one its code is compared with; "": none is
    std::uint64_t checks = 0;         // looks, each of one or more checks
    std::uint64_t last_check_ns = 0;  // since the epoch; 0: never
    // The worst that a check said last: a finding, else that one is unavailable, and which and why.
    event::Outcome last_outcome = event::Outcome::unavailable;
    std::string last_reason;
    std::vector<CheckStatus> each;     // that the policy has made by itself
    WatchTally watch;                  // in all; its longest pause is that of the last watch
    std::uint64_t last_search_ns = 0;  // of all RAM, by schedule; since the epoch, 0: never
    // Whether the guest's CPUs run the kernel that is looked into, and why that is not known.
    event::Outcome kernel_outcome = event::Outcome::unavailable;
    std::string kernel_reason;
    std::uint64_t blind_ns = 0;      // in all, the present stretch included
    std::uint64_t watched_ns = 0;    // since the agent first saw it
    std::uint64_t cpu_ns = 0;        // that its workers took
    std::uint64_t last_cost_ns = 0;  // of the last look
    std::uint64_t period_ns = 0;     // the shortest of a check
    std::uint64_t resident_bytes = 0;
    std::uint32_t restarts = 0;  // of its worker
    std::uint32_t open_findings = 0;

    static constexpr auto fields() {
        using event::Field;
        using S = InstanceStatus;
        return std::tuple{Field{"instance", &S::instance},
                          Field{"pid", &S::pid},
                          Field{"vm_state", &S::vm_state},
                          Field{"state", &S::state},
                          Field{"why", &S::why},
                          Field{"baseline", &S::baseline},
                          Field{"checks", &S::checks},
                          Field{"last_check", &S::last_check_ns},
                          Field{"last_outcome", &S::last_outcome},
                          Field{"last_reason", &S::last_reason},
                          Field{"each", &S::each},
                          Field{"watch", &S::watch},
                          Field{"last_search", &S::last_search_ns},
                          Field{"kernel_outcome", &S::kernel_outcome},
                          Field{"kernel_reason", &S::kernel_reason},
                          Field{"blind_ns", &S::blind_ns},
                          Field{"watched_ns", &S::watched_ns},
                          Field{"cpu_ns", &S::cpu_ns},
                          Field{"last_cost_ns", &S::last_cost_ns},
                          Field{"period_ns", &S::period_ns},
                          Field{"resident_bytes", &S::resident_bytes},
                          Field{"restarts", &S::restarts},
                          Field{"open_findings", &S::open_findings}};
    }
};

struct AgentStatus {
    std::string version, host, agent;
    std::uint32_t pid = 0;
    std::uint64_t started_ns = 0;
    std::string policy;        // its path, "" for the built-in one
    std::string log;           // directory
    std::uint64_t logged = 0;  // events of this run
    std::string log_trouble;   // why nothing is logged at present; "" when all is well
    std::uint64_t resident_bytes = 0;
    std::uint32_t analyser_restarts = 0;
    std::string integrity;                      // "as installed", "no manifest", or what differs
    std::uint64_t rules = 0;                    // of events, that are matched by
    std::vector<sigma::Refusal> refused_rules;  // that are not, and why; few of many

    static constexpr auto fields() {
        using event::Field;
        using S = AgentStatus;
        return std::tuple{Field{"version", &S::version},
                          Field{"host", &S::host},
                          Field{"agent", &S::agent},
                          Field{"pid", &S::pid},
                          Field{"started", &S::started_ns},
                          Field{"policy", &S::policy},
                          Field{"log", &S::log},
                          Field{"logged", &S::logged},
                          Field{"log_trouble", &S::log_trouble},
                          Field{"resident_bytes", &S::resident_bytes},
                          Field{"analyser_restarts", &S::analyser_restarts},
                          Field{"integrity", &S::integrity},
                          Field{"rules", &S::rules},
                          Field{"refused_rules", &S::refused_rules}};
    }
};

// What came of an order, or would come of it.
struct ActionResult {
    std::string instance;  // its name
    std::string action;    // "pause"
    bool dry_run = false;
    std::string result;    // what is so now
    std::string evidence;  // of capture and dump: the folder in which it is kept; "" else

    static constexpr auto fields() {
        using event::Field;
        using R = ActionResult;
        return std::tuple{Field{"instance", &R::instance}, Field{"action", &R::action},
                          Field{"dry_run", &R::dry_run}, Field{"result", &R::result},
                          Field{"evidence", &R::evidence}};
    }
};

// What a client of the control socket asks. The answer has the form of an introspector's: items
// frames, then one end frame.
struct ControlRequest {
    enum class Kind : std::uint8_t {
        agent,
        instances,
        findings,
        question,
        act,
        baselines,
        keep_baseline,  // in parts; `baseline` with the last one
        drop_baseline   // of baseline.build_id
    };
    friend constexpr Kind last_enumerator(Kind) { return Kind::drop_baseline; }

    Kind kind = Kind::agent;
    std::string instance;  // of a question or an action: name, id or pid
    Question question;
    event::Action action{};
    bool dry_run = false;
    std::uint32_t pid = 0;  // of capture: the process that it is about; 0: none
    BaselineFacts baseline;
    BaselinePart part;  // of keep_baseline

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"kind", &ControlRequest::kind},
                          Field{"instance", &ControlRequest::instance},
                          Field{"question", &ControlRequest::question},
                          Field{"action", &ControlRequest::action},
                          Field{"dry_run", &ControlRequest::dry_run},
                          Field{"pid", &ControlRequest::pid},
                          Field{"baseline", &ControlRequest::baseline},
                          Field{"part", &ControlRequest::part}};
    }
};

}  // namespace underseer::agent
