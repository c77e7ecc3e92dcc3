#include "checks.h"

#include <algorithm>
#include <iterator>

#include "detect/decoy_kernel/decoy_kernel.h"

namespace underseer::cli {

Result<agent::Answer<event::CheckReport>> run_checks(Target& target, const Options& options) {
    agent::Answer<event::CheckReport> all;
    all.items.push_back(TRY(target.check_kernel()));
    auto hidden = TRY(target.ask<event::CheckReport>(
        {.topic = agent::Topic::hidden_processes, .deep = options.deep}));
    all.unreadable = hidden.unreadable;
    all.first_gap = std::move(hidden.first_gap);
    std::ranges::move(hidden.items, std::back_inserter(all.items));
    return all;
}

int outcome_of(const std::vector<event::CheckReport>& reports) {
    int status = 0;
    for (const event::CheckReport& report : reports) {
        if (report.outcome == event::Outcome::finding) return 1;
        if (report.outcome == event::Outcome::unavailable &&
            report.check != detect::DecoyKernelCheck::kName) {
            status = 10;
        }
    }
    return status;
}

}  // namespace underseer::cli
