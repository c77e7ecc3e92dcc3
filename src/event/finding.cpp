#include "event/finding.h"

#include <algorithm>

namespace underseer::event {

Severity highest_severity(const std::vector<Finding>& findings) {
    Severity highest = Severity::informational;
    for (const Finding& finding : findings) highest = std::max(highest, finding.severity);
    return highest;
}

std::string_view to_string(Severity severity) {
    switch (severity) {
        case Severity::informational:
            return "informational";
        case Severity::low:
            return "low";
        case Severity::medium:
            return "medium";
        case Severity::high:
            return "high";
        case Severity::critical:
            return "critical";
    }
    return "unknown";
}

std::string_view to_string(Outcome outcome) {
    switch (outcome) {
        case Outcome::clean:
            return "clean";
        case Outcome::finding:
            return "finding";
        case Outcome::unavailable:
            return "unavailable";
    }
    return "unknown";
}

std::string_view to_string(ActivityKind kind) {
    switch (kind) {
        case ActivityKind::process_start:
            return "process_start";
        case ActivityKind::connection:
            return "connection";
        case ActivityKind::module_load:
            return "module_load";
    }
    return "unknown";
}

std::optional<ActivityKind> activity_kind_of(std::string_view name) {
    for (const ActivityKind kind :
         {ActivityKind::process_start, ActivityKind::connection, ActivityKind::module_load}) {
        if (to_string(kind) == name) return kind;
    }
    return std::nullopt;
}

std::string_view to_string(Action action) {
    switch (action) {
        case Action::pause:
            return "pause";
        case Action::resume:
            return "resume";
        case Action::isolate:
            return "isolate";
        case Action::reconnect:
            return "reconnect";
        case Action::kill:
            return "kill";
        case Action::capture:
            return "capture";
        case Action::dump:
            return "dump";
        case Action::run:
            return "run";
    }
    return "unknown";
}

std::optional<Action> action_of(std::string_view name) {
    for (const Action action : {Action::pause, Action::resume, Action::isolate, Action::reconnect,
                                Action::kill, Action::capture, Action::dump}) {
        if (to_string(action) == name) return action;
    }
    return std::nullopt;
}

std::string_view to_string(Change change) {
    switch (change) {
        case Change::opened:
            return "opened";
        case Change::updated:
            return "updated";
        case Change::closed:
            return "closed";
    }
    return "unknown";
}

}  // namespace underseer::event
