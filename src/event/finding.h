// Instance, Finding, Coverage and Decision: what the analysis module says about what was seen.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "event/fields.h"

namespace underseer::event {

// One watched VM (or container, or image), in the words of the operator.
struct Instance {
    std::string host;
    std::string kind;  // "vm", "container", "image"
    std::string id;    // stable: the VM's UUID, the image's path
    std::string name;
    std::string tenant;
    std::string app_instance_id;  // MEC appInstanceId
    std::string app_d_id;         // MEC appDId
    std::vector<std::string> labels;
    std::string image;   // file of its first disk, as the VMM names it; "" if there is none
    std::string kernel;  // release, as the guest says; "" as long as it is not known
    std::uint64_t start_time = 0;

    bool operator==(const Instance&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"host", &Instance::host},
                          Field{"kind", &Instance::kind},
                          Field{"id", &Instance::id},
                          Field{"name", &Instance::name},
                          Field{"tenant", &Instance::tenant},
                          Field{"app_instance_id", &Instance::app_instance_id},
                          Field{"app_d_id", &Instance::app_d_id},
                          Field{"labels", &Instance::labels},
                          Field{"image", &Instance::image},
                          Field{"kernel", &Instance::kernel},
                          Field{"start_time", &Instance::start_time}};
    }
};

// Fixed per rule.
enum class Severity : std::uint8_t { informational, low, medium, high, critical };
constexpr Severity last_enumerator(Severity) {
    return Severity::critical;
}
std::string_view to_string(Severity severity);

enum class Outcome : std::uint8_t { clean, finding, unavailable };
constexpr Outcome last_enumerator(Outcome) {
    return Outcome::unavailable;
}
std::string_view to_string(Outcome outcome);

// What can be done to an instance.
enum class Action : std::uint8_t {
    pause,  // its CPUs stop, its memory stays
    resume,
    isolate,  // its network cards lose their link
    reconnect,
    kill,     // as pulling the plug
    capture,  // what there is to know of it, and of what a finding is about, is kept as evidence
    dump,     // and all of its memory
    run,      // a program of the operator's own is told; by policy only
};
constexpr Action last_enumerator(Action) {
    return Action::run;
}
// Of those the ones that leave the instance as it is.
constexpr bool keeps_evidence(Action action) {
    return action == Action::capture || action == Action::dump;
}
std::string_view to_string(Action action);
// Of those that need no more than their name.
std::optional<Action> action_of(std::string_view name);

// Memory of a guest's kernel that somebody wants watched: `size_bytes` from `offset` behind a
// symbol on; 0: to the next symbol.
struct MemoryRegion {
    std::string symbol;
    std::uint64_t offset = 0, size_bytes = 0;

    bool operator==(const MemoryRegion&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"symbol", &MemoryRegion::symbol},
                          Field{"offset", &MemoryRegion::offset},
                          Field{"size_bytes", &MemoryRegion::size_bytes}};
    }
};

enum class ActivityKind : std::uint8_t { process_start, connection, module_load };
constexpr ActivityKind last_enumerator(ActivityKind) {
    return ActivityKind::module_load;
}
std::string_view to_string(ActivityKind kind);
std::optional<ActivityKind> activity_kind_of(std::string_view name);

// What a guest was seen to do: a program that runs, a connection, a module, which the look before
// had not seen. What is not known is empty, as in observations.
struct Activity {
    ActivityKind kind{};
    std::uint32_t pid = 0, parent_pid = 0;  // of a connection, who holds it
    std::uint64_t start_time = 0;           // of that process, nanoseconds since boot
    std::string name, executable, command_line, user, container_id;
    std::string parent_executable, parent_command_line;
    std::string protocol, local_address, remote_address;
    std::uint32_t local_port = 0, remote_port = 0;
    bool is_incoming = false;  // of a connection, where that is known
    std::string module, taints;

    bool operator==(const Activity&) const = default;
    static constexpr auto fields() {
        using A = Activity;
        return std::tuple{Field{"kind", &A::kind},
                          Field{"pid", &A::pid},
                          Field{"parent_pid", &A::parent_pid},
                          Field{"start_time", &A::start_time},
                          Field{"name", &A::name},
                          Field{"executable", &A::executable},
                          Field{"command_line", &A::command_line},
                          Field{"user", &A::user},
                          Field{"container_id", &A::container_id},
                          Field{"parent_executable", &A::parent_executable},
                          Field{"parent_command_line", &A::parent_command_line},
                          Field{"protocol", &A::protocol},
                          Field{"local_address", &A::local_address},
                          Field{"remote_address", &A::remote_address},
                          Field{"local_port", &A::local_port},
                          Field{"remote_port", &A::remote_port},
                          Field{"is_incoming", &A::is_incoming},
                          Field{"module", &A::module},
                          Field{"taints", &A::taints}};
    }
};

// What one look has seen of that.
struct ActivityReport {
    std::vector<Activity> activities;
    std::uint64_t untold = 0;  // more that there were

    static constexpr auto fields() {
        return std::tuple{Field{"activities", &ActivityReport::activities},
                          Field{"untold", &ActivityReport::untold}};
    }
};

// One piece of what a finding rests on.
struct Evidence {
    std::string name;           // "shown by", "task_struct"
    std::string text;           // for people
    std::uint64_t address = 0;  // guest-virtual, 0 when it has none
    std::string bytes;          // raw bytes at that address, "" when none were kept

    bool operator==(const Evidence&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"name", &Evidence::name}, Field{"text", &Evidence::text},
                          Field{"address", &Evidence::address}, Field{"bytes", &Evidence::bytes}};
    }
};

// What was and what was not looked at. A clean outcome says nothing without it.
struct Coverage {
    std::uint64_t looked_at = 0;
    std::uint64_t unreadable = 0;
    // Each: what could not be looked at, and why. What was found before may be there yet.
    std::vector<std::string> gaps;
    // Each: what this check cannot say of this guest, and why. Nothing that was found before hides
    // there, so it keeps no finding open.
    std::vector<std::string> limits;

    bool operator==(const Coverage&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"looked_at", &Coverage::looked_at},
                          Field{"unreadable", &Coverage::unreadable},
                          Field{"gaps", &Coverage::gaps}, Field{"limits", &Coverage::limits}};
    }
};

struct Finding {
    std::string rule;  // "hidden_process"
    std::string title;
    Severity severity = Severity::informational;
    std::uint8_t confidence = 0;  // percent
    std::string technique;        // ATT&CK: "T1014"
    std::string subject_kind;     // "process"
    std::string subject;          // "sleep (pid 77)"
    std::uint32_t pid = 0;        // of the process that it is about; 0: it is about something else
    std::string key;  // what makes it the same condition in the next check: pid, start time, ..
    std::vector<Evidence> evidence;
    std::string advice;  // what to do next

    bool operator==(const Finding&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"rule", &Finding::rule},
                          Field{"title", &Finding::title},
                          Field{"severity", &Finding::severity},
                          Field{"confidence", &Finding::confidence},
                          Field{"technique", &Finding::technique},
                          Field{"subject_kind", &Finding::subject_kind},
                          Field{"subject", &Finding::subject},
                          Field{"pid", &Finding::pid},
                          Field{"key", &Finding::key},
                          Field{"evidence", &Finding::evidence},
                          Field{"advice", &Finding::advice}};
    }
};

// Told, kept and closed as any other, but nothing to be woken for: it changes no verdict and no
// exit status, and raises no suspicion.
constexpr bool is_informational(const Finding& finding) {
    return finding.severity == Severity::informational;
}

// The highest of them; informational when there is none.
Severity highest_severity(const std::vector<Finding>& findings);

// A finding over its life: one condition that lasts is one finding, however often it is seen.
struct OpenFinding {
    std::string uid;                              // for good: over restarts of the agent too
    std::string instance_id;                      // Instance::id
    Finding finding;                              // as last seen
    std::uint64_t first_seen = 0, last_seen = 0;  // nanoseconds since the epoch
    std::uint64_t count = 0;                      // how often it was seen

    bool operator==(const OpenFinding&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"uid", &OpenFinding::uid},
                          Field{"instance_id", &OpenFinding::instance_id},
                          Field{"finding", &OpenFinding::finding},
                          Field{"first_seen", &OpenFinding::first_seen},
                          Field{"last_seen", &OpenFinding::last_seen},
                          Field{"count", &OpenFinding::count}};
    }
};

enum class Change : std::uint8_t { opened, updated, closed };
constexpr Change last_enumerator(Change) {
    return Change::closed;
}
std::string_view to_string(Change change);

struct FindingChange {
    Change change = Change::opened;
    OpenFinding open;
    std::string reason;  // of closing: "not there any more", "the VM has ended"

    bool operator==(const FindingChange&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"change", &FindingChange::change},
                          Field{"open", &FindingChange::open},
                          Field{"reason", &FindingChange::reason}};
    }
};

// What one check says after one look (and its confirmation).
struct CheckReport {
    std::string check;
    Outcome outcome = Outcome::unavailable;
    std::string reason;  // why unavailable
    std::vector<Finding> findings;
    Coverage coverage;
    // Of a look out of turn, which reads anew only what has changed: it tells what there is, and
    // not that anything is gone or clean.
    bool partial = false;

    bool operator==(const CheckReport&) const = default;
    static constexpr auto fields() {
        return std::tuple{
            Field{"check", &CheckReport::check},       Field{"outcome", &CheckReport::outcome},
            Field{"reason", &CheckReport::reason},     Field{"findings", &CheckReport::findings},
            Field{"coverage", &CheckReport::coverage}, Field{"partial", &CheckReport::partial}};
    }
};

}  // namespace underseer::event
