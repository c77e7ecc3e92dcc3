#include "detect/findings/odd_one_out.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/limits.h"
#include "detect/confirmed_check.h"
#include "detect/kernel_code/kernel_code.h"
#include "detect/moment_text.h"

namespace underseer::detect {

namespace {

std::string guests(std::size_t count) {
    return fmt::format("{} {}", count, count == 1 ? "guest" : "guests");
}

// What one that differs has told, as it is in those that do not: the other way round, and without
// the addresses that the first one has.
event::Finding turned(event::Finding finding) {
    for (event::Evidence& item : finding.evidence) item.address = 0;
    if (finding.evidence.size() >= 2) {
        std::swap(finding.evidence[0], finding.evidence[1]);
        finding.evidence[0].name = "as in other guests";
        finding.evidence[1].name = "now";
    }
    return finding;
}

}  // namespace

std::map<std::string, OddOneOut::Votes> OddOneOut::count(const Reference& reference) const {
    std::map<std::string, Votes> votes;
    std::size_t others = 0;
    for (const auto& [instance, compared] : instances_) {
        // One that was kept anew under the same id is another.
        if (compared.with != reference) continue;
        // What the first one is like stands in what all were compared with.
        const bool is_first = instance == reference.instance;
        if (!is_first) ++others;
        for (const auto& [key, finding] : compared.differences) {
            Votes& of_place = votes[key];
            ++of_place.otherwise;
            if (!is_first) ++of_place.others_otherwise;
            if (of_place.told == nullptr) of_place.told = &finding;
        }
    }
    for (auto& [key, of_place] : votes) of_place.as_seen = 1 + others - of_place.others_otherwise;
    return votes;
}

void OddOneOut::judge(const std::string& instance, const Reference& reference,
                      event::CheckReport& report) {
    if (report.check != kernel_code::kName || report.outcome == event::Outcome::unavailable) return;
    forget(instance);
    if (reference.id.empty()) return;
    Compared& own = instances_[instance];
    own.with = reference;
    std::erase_if(report.findings, [&](event::Finding& finding) {
        if (finding.rule != kernel_code::kUnlikeFirstSeen) return false;
        const std::string key = finding.key;
        own.differences.emplace(key, std::move(finding));
        return true;
    });
    const std::string first =
        fmt::format("{}, {} UTC", reference.name,
                    time_text(std::chrono::system_clock::time_point(
                        std::chrono::duration_cast<std::chrono::system_clock::duration>(
                            std::chrono::nanoseconds(reference.seen_ns)))));
    for (const auto& [key, votes] : count(reference)) {
        const bool differs = own.differences.contains(key);
        const bool is_odd = (votes.otherwise > votes.as_seen) != differs;
        if (!is_odd || report.findings.size() >= limits::kMaxFindingsOfReport) continue;
        event::Finding finding = differs ? own.differences.at(key) : turned(*votes.told);
        const std::size_t alike = differs ? votes.otherwise : votes.as_seen,
                          unlike = differs ? votes.as_seen : votes.otherwise;
        finding.evidence.push_back(
            {"compared",
             fmt::format("{} like this, {} not", guests(alike), guests(unlike)),
             0,
             {}});
        finding.evidence.push_back({"first seen", first, 0, {}});
        add_finding(report, std::move(finding));
    }
    if (!std::ranges::all_of(report.findings, event::is_informational)) return;
    // Another doubt, which the findings that were taken away stood before.
    if (!report.reason.empty()) {
        report.outcome = event::Outcome::unavailable;
    } else if (report.findings.empty()) {
        report.outcome = event::Outcome::clean;
    }
}

void OddOneOut::forget(const std::string& instance) {
    instances_.erase(instance);
}

}  // namespace underseer::detect
