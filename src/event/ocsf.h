// The events that the agent logs, as OCSF 1.9 JSON objects on one line (schema.ocsf.io; the classes
// used and what we put where: docs/events.md). What OCSF has no place for stands under
// "unmapped".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "event/finding.h"

namespace underseer::event {

// Who logs.
struct Source {
    std::string host;   // host name
    std::string agent;  // the agent's id: key id of its enrolment key
};

using Details = std::vector<std::pair<std::string, std::string>>;

// Nanoseconds since the epoch; OCSF wants milliseconds, which is done here.
using TimeNs = std::uint64_t;

// Detection Finding (2004): Create, Update or Close. `suppressed` is the operator's reason, "" when
// nobody suppressed it.
std::string finding_event(const Source& source, TimeNs time, const Instance& instance,
                          const FindingChange& change, bool alert, std::string_view suppressed);

// Application Lifecycle (6002) of the agent itself.
enum class AgentActivity : std::uint8_t { start = 3, stop = 4, restart = 5 };
struct ProgramHash {
    std::string path;
    std::string sha256;  // hexadecimal, or why there is none
};
std::string agent_event(const Source& source, TimeNs time, AgentActivity activity,
                        std::string_view message, const Details& details,
                        const std::vector<ProgramHash>& programs);

// Device Inventory Info (5001): an instance was seen for the first time, changed, or ended.
std::string instance_event(const Source& source, TimeNs time, const Instance& instance,
                           std::string_view message, const Details& details);

// Scan Activity (6007): what is and what is not looked at.
enum class ScanActivity : std::uint8_t { started = 1, completed = 2, error = 6, resumed = 8 };
std::string scan_event(const Source& source, TimeNs time, const Instance& instance,
                       ScanActivity activity, std::string_view check, std::string_view message,
                       const Coverage& coverage, const Details& details);

// Process Activity (1007), Network Activity (4001) or Kernel Extension Activity (1002): what a
// guest was seen to do.
std::string activity_event(const Source& source, TimeNs time, const Instance& instance,
                           const Activity& activity);

// API Activity (6003): a person or program asked the agent for something.
struct Asker {
    std::uint32_t user = 0;
    std::uint32_t process = 0;
    std::string role;
};
std::string access_event(const Source& source, TimeNs time, const Asker& asker,
                         const Instance& instance, std::string_view operation, bool granted,
                         std::string_view message);

// Remediation Activity (7001): something was done to an instance, or could not be done.
struct ActionTaken {
    Action action{};
    bool done = false;
    std::string result;          // what is so now, or why it is not
    std::string because;         // who or what asked for it, for people
    std::string finding_uid;     // that policy answered with it; "" when a person asked
    std::optional<Asker> asker;  // who asked; nothing when it was policy
    // Of capture and dump: where the evidence is, and the SHA-256 of its signed list.
    std::string evidence, evidence_sha256;
};
std::string action_event(const Source& source, TimeNs time, const Instance& instance,
                         const ActionTaken& taken);

// Device Config State Change (5019): the policy that is in force.
std::string policy_event(const Source& source, TimeNs time, std::string_view message,
                         const Details& details);

}  // namespace underseer::event
