#include "detect/check.h"

#include <algorithm>

namespace underseer::detect {

using std::chrono::milliseconds;

event::Finding Rule::about(std::string subject, std::string key) const {
    event::Finding finding;
    finding.rule = id;
    finding.title = title;
    finding.severity = severity;
    finding.confidence = confidence;
    finding.technique = technique;
    finding.subject_kind = subject_kind;
    finding.subject = std::move(subject);
    finding.key = std::move(key);
    finding.advice = advice;
    return finding;
}

std::vector<event::CheckReport> run(std::span<const std::unique_ptr<Check>> checks,
                                    guest_linux::Guest& guest,
                                    const std::function<void(milliseconds)>& sleep, Turn turn) {
    // Times count from the first look.
    std::vector<milliseconds> due(checks.size(), milliseconds(0));
    for (milliseconds now(0);;) {
        Snapshot snapshot(&guest, turn);
        for (std::size_t i = 0; i < checks.size(); ++i) {
            if (checks[i]->done() || due[i] > now) continue;
            checks[i]->look(snapshot);
            due[i] = now + checks[i]->pause();
        }
        auto next = milliseconds::max();
        for (std::size_t i = 0; i < checks.size(); ++i) {
            if (!checks[i]->done()) next = std::min(next, due[i]);
        }
        if (next == milliseconds::max()) break;
        sleep(next - now);
        now = next;
    }
    std::vector<event::CheckReport> reports;
    for (const auto& check : checks) {
        reports.push_back(check->report(guest));
        reports.back().partial = turn == Turn::out_of;
    }
    return reports;
}

}  // namespace underseer::detect
