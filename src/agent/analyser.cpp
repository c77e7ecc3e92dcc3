#include "agent/analyser.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "detect/findings/finding_ledger.h"

namespace underseer::agent {

namespace {

constexpr std::uint64_t kMaxAnalyserMemory = 512ull << 20;
// Texts that end up in events and on screens; the rest of a report's size is bounded by its frame.
constexpr std::size_t kMaxReasonBytes = 4096;

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
    for (;;) {
        auto frame = channel.receive();
        if (!frame.has_value() && frame.error().code == Code::not_found) return {};
        if (!frame.has_value()) return fail(std::move(frame).error());
        auto input = TRY(event::decode<AnalyserInput>(as_bytes(*frame)));
        AnalyserVerdict verdict{.ticket = input.ticket};
        std::vector<event::FindingChange> changes;
        if (input.kind == AnalyserInput::Kind::restore) {
            for (event::OpenFinding& open : input.restored) ledger.restore(std::move(open));
        } else if (input.kind == AnalyserInput::Kind::end) {
            changes = ledger.end(input.instance_id, input.why, input.time_ns);
        } else if (auto report = event::decode<event::CheckReport>(as_bytes(input.report));
                   !report.has_value()) {
            verdict.malformed = true;
            verdict.reason = report.error().to_text();
        } else if (std::ranges::any_of(report->findings, [](const event::Finding& finding) {
                       return event::encode(finding).size() > kItemsFrameBytes;
                   })) {
            verdict.malformed = true;
            verdict.reason = "a finding in it is too long";
        } else {
            changes = ledger.report(input.instance_id, *report, input.time_ns);
            verdict.check = std::move(report->check);
            verdict.outcome = report->outcome;
            verdict.reason = report->reason.substr(0, kMaxReasonBytes);
            verdict.coverage = std::move(report->coverage);
        }
        TRY(send_changes(channel, changes));
        event::Encoder end;
        end.put(FrameKind::end);
        end.put(verdict);
        TRY(channel.send(end.take()));
    }
}

}  // namespace underseer::agent
