#include "detect/findings/finding_ledger.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "detect/check.h"

namespace underseer::detect {

namespace {

using event::Change;
using event::FindingChange;

// Evidence may differ from look to look in its raw bytes without anything having changed.
bool says_the_same(const event::Finding& left, const event::Finding& right) {
    const auto texts = [](const event::Finding& finding) {
        std::string all = finding.subject;
        for (const event::Evidence& item : finding.evidence) all += '\n' + item.name + item.text;
        return all;
    };
    return left.severity == right.severity && texts(left) == texts(right);
}

event::Finding flood(const std::string& check) {
    return {.rule = "finding_flood",
            .title = "More findings than can be told one by one",
            .severity = event::Severity::high,
            .confidence = 100,
            .subject_kind = "check",
            .subject =
                fmt::format("{}: more than {} at once", check, FindingLedger::kMaxOpenOfInstance),
            .key = check,
            .advice = "Look at the instance itself: underseer check lists all of them."};
}

}  // namespace

void FindingLedger::restore(event::OpenFinding open) {
    const Key key{open.finding.rule, open.finding.key};
    const std::uint64_t told = open.last_seen;
    instances_[open.instance_id].insert_or_assign(key, Entry{std::move(open), told, 0});
}

void FindingLedger::see(const std::string& instance_id, const event::Finding& finding,
                        std::uint64_t now_ns, Entries& entries,
                        std::vector<FindingChange>& changes) {
    const auto [at, fresh] = entries.try_emplace({finding.rule, finding.key});
    Entry& entry = at->second;
    entry.absent_looks = 0;
    entry.open.last_seen = now_ns;
    ++entry.open.count;
    if (fresh) {
        entry.open.uid = fmt::format("{}:{}:{}@{}", instance_id, finding.rule, finding.key, now_ns);
        entry.open.instance_id = instance_id;
        entry.open.finding = finding;
        entry.open.first_seen = now_ns;
        entry.told_ns = now_ns;
        changes.push_back({Change::opened, entry.open, {}});
        return;
    }
    const bool changed = finding.severity != event::Severity::informational &&
                         !says_the_same(entry.open.finding, finding);
    entry.open.finding = finding;
    if (!changed && now_ns - entry.told_ns < kRepeatNs) return;
    entry.told_ns = now_ns;
    changes.push_back({Change::updated, entry.open, {}});
}

void FindingLedger::miss(const event::CheckReport& report, std::uint64_t now_ns, Entries& entries,
                         std::vector<FindingChange>& changes) {
    // Where a look had gaps, what it did not show may be in them. Not so in its limits.
    if (report.partial || !report.coverage.gaps.empty()) return;
    std::set<Key> seen;
    for (const event::Finding& finding : report.findings) seen.insert({finding.rule, finding.key});
    for (auto it = entries.begin(); it != entries.end();) {
        Entry& entry = it->second;
        const event::Finding& finding = entry.open.finding;
        const bool of_this_check = is_rule_of(finding.rule, report.check) ||
                                   (finding.rule == "finding_flood" && finding.key == report.check);
        const bool may_come_again = finding.severity == event::Severity::informational &&
                                    now_ns - entry.open.last_seen < kRepeatNs;
        if (!of_this_check || seen.contains(it->first) || ++entry.absent_looks < kLooksToClose ||
            may_come_again) {
            ++it;
            continue;
        }
        changes.push_back({Change::closed, std::move(entry.open), "it is not there any more"});
        it = entries.erase(it);
    }
}

std::vector<FindingChange> FindingLedger::report(const std::string& instance_id,
                                                 const event::CheckReport& report,
                                                 std::uint64_t now_ns) {
    std::vector<FindingChange> changes;
    if (report.outcome == event::Outcome::unavailable) return changes;
    Entries& entries = instances_[instance_id];
    miss(report, now_ns, entries, changes);
    for (const event::Finding& finding : report.findings) {
        const bool known = entries.contains({finding.rule, finding.key});
        if (known || entries.size() < kMaxOpenOfInstance) {
            see(instance_id, finding, now_ns, entries, changes);
        } else {
            see(instance_id, flood(report.check), now_ns, entries, changes);
            break;
        }
    }
    if (entries.empty()) instances_.erase(instance_id);
    return changes;
}

std::vector<FindingChange> FindingLedger::end(const std::string& instance_id,
                                              const std::string& why, std::uint64_t) {
    std::vector<FindingChange> changes;
    const auto found = instances_.find(instance_id);
    if (found == instances_.end()) return changes;
    for (auto& [key, entry] : found->second) {
        changes.push_back({Change::closed, std::move(entry.open), why});
    }
    instances_.erase(found);
    return changes;
}

std::vector<event::OpenFinding> FindingLedger::open() const {
    std::vector<event::OpenFinding> all;
    for (const auto& [instance, entries] : instances_) {
        for (const auto& [key, entry] : entries) all.push_back(entry.open);
    }
    return all;
}

}  // namespace underseer::detect
