// Checks: what can be judged of a guest. A check looks at it, several times where one look can be
// mistaken, and reports clean, a finding, or why it cannot say. all_checks() lists every one.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "detect/snapshot.h"
#include "event/finding.h"
#include "guest_linux/guest.h"

namespace underseer::detect {

// A thing to be found, and what a person should know about it before acting on it.
struct Rule {
    std::string_view id;  // stable: policies and logs name it
    std::string_view title;
    event::Severity severity = event::Severity::informational;
    std::uint8_t confidence = 0;  // percent
    std::string_view technique;   // MITRE ATT&CK
    std::string_view subject_kind;
    // For `underseer explain`: what the rule rests on, how it can be evaded, what else looks like
    // it, what to do.
    std::string_view reads, misses, benign, advice;

    // `key` is what makes it the same condition in the next look.
    event::Finding about(std::string subject, std::string key) const;
};

class Check {
  public:
    virtual ~Check() = default;

    // One look. Take looks, pause() apart, until done().
    virtual void look(Snapshot& snapshot) = 0;
    virtual bool done() const = 0;
    virtual std::chrono::milliseconds pause() const = 0;
    // REQUIRES: at least one look. `guest` reads the evidence of what was found.
    virtual event::CheckReport report(guest_linux::Guest& guest) = 0;
};

class EventRules;

struct CheckOptions {
    bool search_ram = false;            // of hidden_process: look at all RAM as well
    EventRules* event_rules = nullptr;  // of the check of that name; null: there are none
    bool knows_programs = false;        // of program_integrity: it has something to compare with
};

struct CheckKind {
    std::string_view name;              // of `check --only` and of the policy's key
    std::string_view summary;           // one line
    std::string_view counts;            // one of what Coverage::looked_at counts: "task"
    std::chrono::milliseconds every{};  // where the policy does not say
    std::span<const Rule> rules;
    std::unique_ptr<Check> (*make)(CheckOptions options);
    // What in the guest makes it worth a look before it is due.
    guest_linux::Signs signs = 0;
};
std::span<const CheckKind> all_checks();
std::span<const std::string_view> check_names();
// Null when there is none of that name.
const CheckKind* find_check(std::string_view name);
// Of a check, or of decoy_kernel, watched_memory or hidden_runner, which are none of all_checks().
// Empty when there is none.
std::span<const Rule> rules_of(std::string_view check);
// Whether findings by that rule are that check's. Those of event_rules are the operator's own, and
// known by their prefix.
bool is_rule_of(std::string_view rule, std::string_view check);

// Those of these names; all, where none is given: then event_rules and program_integrity only if
// there is something to judge by.
std::vector<std::unique_ptr<Check>> make_checks(std::span<const std::string> names,
                                                CheckOptions options = {});

// Looks with several checks at once until each is done. `sleep` lets time pass between looks.
std::vector<event::CheckReport> run(std::span<const std::unique_ptr<Check>> checks,
                                    guest_linux::Guest& guest,
                                    const std::function<void(std::chrono::milliseconds)>& sleep,
                                    Turn turn = Turn::in);

}  // namespace underseer::detect
