// The operator's policy: what is watched how often, who may ask, what is done about a finding. A
// TOML file (docs/policy.md); pure decisions over it.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "event/finding.h"

namespace underseer::policy {

// Names instances by one of their properties: "name:web-*", "uuid:8f1c..", "tenant:acme",
// "app:<appInstanceId>", "label:gpu", "image:/srv/debian-*", "kernel:6.1.*". `*` and `?` stand for
// any text and any character.
class InstancePattern {
  public:
    enum class Property : std::uint8_t { name, id, tenant, app_instance, label, image, kernel };

    static Result<InstancePattern> parse(std::string_view text);
    bool matches(const event::Instance& instance) const;
    // The guest itself says it, and only once it is looked into.
    bool is_of_guest() const { return property_ == Property::kernel; }
    std::string to_text() const;

  private:
    Property property_ = Property::name;
    std::string glob_;
};

// A finding that is expected: it is logged, and nobody is woken.
struct Suppression {
    std::string rule;                         // glob
    std::optional<InstancePattern> instance;  // nothing: every instance
    std::string subject = "*";                // glob over Finding::subject
    std::string reason;
    std::chrono::system_clock::time_point until;  // it always ends
};

// What is done to an instance as soon as there is such a finding.
struct Response {
    std::string rule;                         // glob
    std::optional<InstancePattern> instance;  // nothing: every instance
    std::string subject = "*";                // glob over Finding::subject
    std::vector<event::Action> actions;       // one after the other
    std::string program;                      // that is told then; "": none
};

// What a local user may do over the control socket.
enum class Role : std::uint8_t {
    none,
    viewer,     // status, findings, the log
    examiner,   // and read guest memory (processes, files, ..)
    responder,  // and pause, cut off and end instances
};
std::string_view to_string(Role role);

struct Principal {
    bool group = false;  // else a user
    std::uint32_t id = 0;
    std::string name;  // as the file has it
};

enum class OnMismatch : std::uint8_t { report, refuse };

// How often something is done; nothing: never by itself.
using Period = std::optional<std::chrono::milliseconds>;

// What is looked at in an instance, and how often.
struct Inspection {
    // Of each check that the file names.
    std::map<std::string, Period, std::less<>> check_every;
    // How often that for hidden processes also searches all RAM; otherwise only on suspicion or
    // request.
    Period deep_search_every;
    // How often it is looked at by the watch. At most half of cpu_percent goes there.
    Period watch_every = std::chrono::milliseconds(8);
    // Share of one core that all this may take, in percent. A check that costs more is run less
    // often, and status says so.
    double cpu_percent = 1.0;

    bool operator==(const Inspection&) const = default;
    // Nothing: the check is not made by itself. `standard` where the file does not say.
    Period period_of(std::string_view check, std::chrono::milliseconds standard) const;
};

// What differs from that in some instances: only what is set here.
struct InspectionChange {
    std::optional<InstancePattern> instance;  // nothing: every instance
    std::map<std::string, Period, std::less<>> check_every;
    std::optional<Period> deep_search_every, watch_every;
    std::optional<double> cpu_percent;
};

// What else is kept an eye on in some instances.
struct Monitor {
    std::optional<InstancePattern> instance;  // nothing: every instance
    std::vector<event::MemoryRegion> memory;
    std::vector<event::ActivityKind> events;

    bool watches_the_same(const Monitor& other) const {
        return memory == other.memory && events == other.events;
    }
};

struct Policy {
    std::string path;  // where it came from; "" for the built-in one

    std::chrono::milliseconds discover_every{1000};
    Inspection inspection;
    std::vector<InspectionChange> inspection_changes;  // a later one has the last word
    std::vector<Monitor> monitors;
    // Share of one core that all VMs of the host may take together, in percent; each has an equal
    // part of it.
    double host_cpu_percent = 100.0;

    std::vector<InstancePattern> only;     // empty: all instances are watched
    std::vector<InstancePattern> exclude;  // never looked into; wins over `only`
    std::vector<Principal> viewers, examiners, responders;
    bool redact_environment = true;  // values of environment variables, in answers to users

    OnMismatch on_mismatch = OnMismatch::report;  // programs or policy that the manifest refutes
    std::uint64_t log_segment_bytes = 64u << 20;
    std::uint64_t log_keep_bytes = 4ull << 30;  // older segments go

    // What the evidence of one instance may take; nothing is removed by itself.
    std::uint64_t evidence_keep_bytes = 4ull << 30;
    // How long the process that a finding is about is traced for its evidence; nothing: not.
    std::optional<std::chrono::milliseconds> evidence_trace = std::chrono::milliseconds(3000);
    // Exactly as well, with at most so many stops of the VM within a second; 0: not.
    std::uint64_t evidence_exact_stops = 0;

    // Files and folders of Sigma rules; nothing: where they are by default.
    std::optional<std::vector<std::string>> sigma_rules;

    std::vector<Suppression> suppressions;
    std::vector<Response> responses;
};

// Code::malformed with "FILE:LINE:COLUMN: key: what is wrong and what would be right". `checks` are
// those that there are: each is a key.
Result<Policy> parse(std::string_view toml, std::string path,
                     std::span<const std::string_view> checks);
// Code::permission when others than root (or the calling user) may write the file: whoever writes
// the policy decides what is seen.
Result<Policy> load(const std::string& path, std::span<const std::string_view> checks);

// Why an instance is not looked into; "" when it is.
std::string excluded(const Policy& policy, const event::Instance& instance);

Inspection inspection_of(const Policy& policy, const event::Instance& instance);
// All that any section says of it, each once.
Monitor monitor_of(const Policy& policy, const event::Instance& instance);

// What is done about a finding.
struct Decision {
    bool alert = false;      // somebody is told now
    std::string suppressed;  // the reason, when a suppression holds; it is logged all the same
    // What is to be done, in this order: nothing about what is suppressed.
    std::vector<event::Action> actions;
    std::vector<std::string> programs;  // to be told then
};
Decision decide(const Policy& policy, const event::Instance& instance,
                const event::Finding& finding, std::chrono::system_clock::time_point now);

// The most that this local user may do. Root may do everything.
Role role_of(const Policy& policy, std::uint32_t user, const std::vector<std::uint32_t>& groups);

// Whether `text` has the form of `glob`. Linear in text * glob.
bool glob_matches(std::string_view glob, std::string_view text);

// "10s", "500ms", "5m", "1h", "1d".
Result<std::chrono::milliseconds> parse_duration(std::string_view text);

}  // namespace underseer::policy
