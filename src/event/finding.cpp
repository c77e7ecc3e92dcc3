#include "event/finding.h"

namespace underseer::event {

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
