#include "checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/counted.h"
#include "baseline.h"
#include "detect/decoy_kernel/decoy_kernel.h"
#include "event_rules.h"
#include "output.h"

namespace underseer::cli {

Result<agent::Answer<event::CheckReport>> run_checks(Target& target, const Options& options) {
    TRY(use_baselines(target, options));
    TRY(use_event_rules(target, options));
    agent::Answer<event::CheckReport> all;
    std::vector<std::string> wanted = options.only;
    const auto decoy = std::ranges::find(wanted, detect::DecoyKernelCheck::kName);
    if (wanted.empty() || decoy != wanted.end()) {
        all.items.push_back(TRY(target.check_kernel()));
        if (decoy != wanted.end()) wanted.erase(decoy);
        if (wanted.empty() && !options.only.empty()) return all;
    }
    auto rest = TRY(target.ask<event::CheckReport>(
        {.topic = agent::Topic::checks, .checks = std::move(wanted), .deep = options.deep}));
    all.unreadable = rest.unreadable;
    all.first_gap = std::move(rest.first_gap);
    std::ranges::move(rest.items, std::back_inserter(all.items));
    // A doubt beside what was found: nobody here takes that away again.
    for (event::CheckReport& report : all.items) {
        if (report.outcome == event::Outcome::finding) report.reason.clear();
    }
    return all;
}

FindingCounts count_findings(const std::vector<event::CheckReport>& reports) {
    FindingCounts counts;
    for (const event::CheckReport& report : reports) {
        for (const event::Finding& finding : report.findings) {
            ++(event::is_informational(finding) ? counts.informational : counts.alarming);
        }
    }
    return counts;
}

std::string text_of(const FindingCounts& counts) {
    std::string text = counts.alarming == 0 ? "no finding" : counted(counts.alarming, "finding");
    if (counts.informational > 0) text += fmt::format(", {} informational", counts.informational);
    return text;
}

int outcome_of(const std::vector<event::CheckReport>& reports) {
    if (count_findings(reports).alarming > 0) return 1;
    int status = 0;
    for (const event::CheckReport& report : reports) {
        if (report.outcome == event::Outcome::unavailable &&
            report.check != detect::DecoyKernelCheck::kName) {
            status = 10;
        }
    }
    return status;
}

}  // namespace underseer::cli
