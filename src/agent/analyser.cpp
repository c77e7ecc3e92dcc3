#include "agent/analyser.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <utility>

#include "detect/check.h"
#include "detect/watches.h"

namespace underseer::agent {

namespace {

constexpr std::uint64_t kMaxAnalyserMemory = 512ull << 20;
// Texts that end up in events and on screens; the rest of a report's size is bounded by its frame.
constexpr std::size_t kMaxReasonBytes = 4096;

// Of one activity, in wire form.
constexpr std::size_t kMaxActivityBytes = 16 * limits::kMaxActivityTextBytes;

using RuleSeverities = std::map<std::string, event::Severity, std::less<>>;

// The operator's own rules. A look that began before they were changed still tells by the old ones.
struct EventRuleSeverities {
    RuleSeverities now, before;

    bool has(const std::string& rule, event::Severity severity) const {
        return is_in(now, rule, severity) || is_in(before, rule, severity);
    }
    void change(std::vector<RuleSeverity> rules) {
        before = std::exchange(now, {});
        for (RuleSeverity& one : rules) now.emplace(std::move(one.rule), one.severity);
    }

  private:
    static bool is_in(const RuleSeverities& rules, const std::string& rule,
                      event::Severity severity) {
        const auto known = rules.find(rule);
        return known != rules.end() && known->second == severity;
    }
};

bool is_severity_of(const event::Finding& finding, std::string_view check,
                    const EventRuleSeverities& of_events) {
    if (check == detect::EventRules::kName) return of_events.has(finding.rule, finding.severity);
    const auto rules = detect::rules_of(check);
    const auto known = std::ranges::find(rules, finding.rule, &detect::Rule::id);
    return known != rules.end() && known->severity == finding.severity;
}

// An introspector reads what attackers write, and may be theirs: it may speak of what it was asked
// about, by that check's rules, and a rule's severity is not its to choose. "" when all is well.
std::string what_is_wrong(const event::CheckReport& report, std::string_view check,
                          const EventRuleSeverities& of_events) {
    if (report.check != check) return fmt::format("asked for {}, it is of another check", check);
    for (const event::Finding& finding : report.findings) {
        if (!detect::is_rule_of(finding.rule, check)) {
            return fmt::format("a finding that is none of {}'s", check);
        }
        if (!is_severity_of(finding, check, of_events)) {
            return "a severity that is not its rule's";
        }
        if (event::encode(finding).size() > kItemsFrameBytes) return "a finding in it is too long";
    }
    return "";
}

bool is_too_long(const event::ActivityReport& report) {
    return report.activities.size() > limits::kMaxActivitiesOfReport ||
           std::ranges::any_of(report.activities, [](const event::Activity& activity) {
               return event::encode(activity).size() > kMaxActivityBytes;
           });
}

Result<void> send_changes(jail::Channel& channel,
                          const std::vector<event::FindingChange>& changes) {
    event::Encoder frame;
    frame.put(FrameKind::items);
    for (const event::FindingChange& change : changes) {
        const std::string bytes = event::encode(change);
        if (frame.bytes().size() + bytes.size() > kItemsFrameBytes) {
            TRY(channel.send(frame.take()));
            frame = {};
            frame.put(FrameKind::items);
        }
        frame.put_raw(bytes);
    }
    return channel.send(frame.take());
}

}  // namespace

Result<void> run_analyser(jail::Channel channel) {
    const auto policy = jail::analyser_policy(channel.fd());
    const int keep[] = {STDERR_FILENO, channel.fd()};
    const auto missing =
        TRY(jail::close_jail(policy, {.max_memory_bytes = kMaxAnalyserMemory}, keep));
    TRY(channel.send(event::encode(missing)));
    detect::FindingLedger ledger;
    detect::OddOneOut odd_ones;
    EventRuleSeverities of_events;
    for (;;) {
        auto frame = channel.receive();
        if (!frame.has_value() && frame.error().code == Code::not_found) return {};
        if (!frame.has_value()) return fail(std::move(frame).error());
        auto input = TRY(event::decode<AnalyserInput>(as_bytes(*frame)));
        AnalyserVerdict verdict{.ticket = input.ticket};
        std::vector<event::FindingChange> changes;
        if (input.kind == AnalyserInput::Kind::restore) {
            for (event::OpenFinding& open : input.restored) ledger.restore(std::move(open));
        } else if (input.kind == AnalyserInput::Kind::rules) {
            of_events.change(std::move(input.rules));
        } else if (input.kind == AnalyserInput::Kind::end) {
            changes = ledger.end(input.instance_id, input.why, input.time_ns);
            odd_ones.forget(input.instance_id);
        } else if (input.kind == AnalyserInput::Kind::activities) {
            const auto seen = event::decode<event::ActivityReport>(as_bytes(input.report));
            if (seen.has_value() && !is_too_long(*seen)) {
                event::Encoder items;
                items.put(FrameKind::items);
                items.put(*seen);
                TRY(channel.send(items.take()));
            } else {
                verdict.malformed = true;
                verdict.reason = seen.has_value() ? "it is too long" : seen.error().to_text();
            }
        } else if (auto report = event::decode<event::CheckReport>(as_bytes(input.report));
                   !report.has_value()) {
            verdict.malformed = true;
            verdict.reason = report.error().to_text();
        } else if (std::string wrong = what_is_wrong(*report, input.check, of_events);
                   !wrong.empty()) {
            verdict.malformed = true;
            verdict.reason = std::move(wrong);
        } else {
            odd_ones.judge(input.instance_id, input.compared_with, *report);
            if (report->outcome == event::Outcome::finding) report->reason.clear();
            changes = ledger.report(input.instance_id, *report, input.time_ns);
            verdict.outcome = report->outcome;
            verdict.severity = event::highest_severity(report->findings);
            verdict.reason = report->reason.substr(0, kMaxReasonBytes);
            verdict.coverage = std::move(report->coverage);
            verdict.partial = report->partial;
        }
        if (!changes.empty()) TRY(send_changes(channel, changes));
        event::Encoder end;
        end.put(FrameKind::end);
        end.put(verdict);
        TRY(channel.send(end.take()));
    }
}

}  // namespace underseer::agent
