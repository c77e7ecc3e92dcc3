#include "detect/confirmed_check.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/limits.h"

namespace underseer::detect {

namespace {

// Of one look. More than a report can tell, for those that are gone by the next look.
constexpr std::size_t kMaxSuspicions = 1000;
constexpr std::size_t kMaxGaps = 20;

// What is only informational leaves open whether there is more.
bool accuses(const event::CheckReport& report) {
    return !std::ranges::all_of(report.findings, event::is_informational);
}

void add_once(std::vector<std::string>& texts, std::string text) {
    if (texts.size() < kMaxGaps && std::ranges::find(texts, text) == texts.end()) {
        texts.push_back(std::move(text));
    }
}

}  // namespace

void add_finding(event::CheckReport& report, event::Finding finding) {
    report.outcome = event::Outcome::finding;
    if (!is_full(report)) {
        report.findings.push_back(std::move(finding));
    } else {
        add_gap(report, fmt::format("more than {} suspicions in one look", kMaxSuspicions));
    }
}

bool is_full(const event::CheckReport& report) {
    return report.findings.size() >= kMaxSuspicions;
}

void add_gap(event::CheckReport& report, std::string what) {
    add_once(report.coverage.gaps, std::move(what));
}

void add_limit(event::CheckReport& report, std::string what) {
    add_once(report.coverage.limits, std::move(what));
}

void settle_doubt(event::CheckReport& report, const std::string& why) {
    if (why.empty()) return;
    add_gap(report, why);
    if (report.reason.empty()) report.reason = why;
    if (!accuses(report)) report.outcome = event::Outcome::unavailable;
}

void ConfirmedCheck::look(Snapshot& snapshot) {
    event::CheckReport now = inspect_(snapshot);
    now.check = name_;
    ++taken_;
    // Not seeing is not knowing: it neither confirms nor clears anybody.
    if (now.outcome == event::Outcome::unavailable && looks_ > 0) return;
    last_ = std::move(now);
    if (last_.outcome == event::Outcome::unavailable) return;
    std::set<Condition> seen;
    for (const event::Finding& finding : last_.findings) {
        Condition condition{finding.rule, finding.key};
        if (looks_ == 0 || confirmed_.contains(condition)) seen.insert(std::move(condition));
    }
    confirmed_ = std::move(seen);
    ++looks_;
}

bool ConfirmedCheck::done() const {
    if (looks_ == 0) return taken_ >= kLooks;
    return taken_ >= 2 * kLooks || looks_ >= kLooks || confirmed_.empty();
}

event::CheckReport ConfirmedCheck::report(guest_linux::Guest&) {
    CHECK(taken_ > 0);
    event::CheckReport report = last_;
    if (report.outcome == event::Outcome::unavailable) {
        report.findings.clear();
        return report;
    }
    if (looks_ < kLooks && !confirmed_.empty()) {
        report.findings.clear();
        report.outcome = event::Outcome::unavailable;
        report.reason =
            fmt::format("what was seen could be looked at in {} of {} looks", looks_, kLooks);
        return report;
    }
    std::erase_if(report.findings, [&](const event::Finding& finding) {
        return !confirmed_.contains({finding.rule, finding.key});
    });
    if (report.findings.size() > limits::kMaxFindingsOfReport) {
        add_gap(report, fmt::format("{} findings: the first {} are told", report.findings.size(),
                                    limits::kMaxFindingsOfReport));
        report.findings.resize(limits::kMaxFindingsOfReport);
    }
    if (!report.reason.empty() && !accuses(report)) {
        // A look that had its doubts beside what was not confirmed.
        report.findings.clear();
        report.outcome = event::Outcome::unavailable;
        return report;
    }
    // Beside what it accuses of, a doubt is nobody's word; whoever takes that away again
    // (OddOneOut) has to know of it.
    if (!accuses(report)) report.reason.clear();
    report.outcome = report.findings.empty() ? event::Outcome::clean : event::Outcome::finding;
    return report;
}

}  // namespace underseer::detect
