#include "agent/findings.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "agent/paths.h"
#include "agent/recorder.h"
#include "base/limits.h"
#include "base/os.h"
#include "detect/check.h"
#include "detect/hidden_process/hidden_process.h"
#include "event/wire.h"

namespace underseer::agent {

namespace {

using namespace std::chrono_literals;

constexpr auto kAnalyserDeadline = 30s;
constexpr std::size_t kMaxFileBytes = 64u << 20;
constexpr const char* kUnreadable = "the introspector's report cannot be read: ";

Result<StartedWorker> new_analyser() {
    auto [ours, theirs] = TRY(jail::Channel::pair());
    const int fds[] = {theirs.fd()};
    return StartedWorker{TRY(jail::Child::exec_worker("analyser", fds)), std::move(ours)};
}

}  // namespace

Findings::Findings(EventLoop* loop, std::filesystem::path file, std::string host,
                   Callbacks callbacks)
    : loop_(loop),
      file_(std::move(file)),
      host_(std::move(host)),
      callbacks_(std::move(callbacks)) {
    read_file_of_run_before();
}

Findings::~Findings() {
    loop_->cancel(writing_);
}

void Findings::start_analyser() {
    analyser_ = std::make_unique<JobRunner>(
        loop_, JobRunner::Callbacks{
                   .start = new_analyser,
                   .ready =
                       [this](const std::vector<std::string>& missing) {
                           for (const std::string& layer : missing) {
                               callbacks_.trouble("this host does not allow a layer of the jail: " +
                                                  layer);
                           }
                           restore();
                           callbacks_.analyser_ready();
                       },
                   .lost =
                       [this](const Error& why, std::chrono::milliseconds wait) {
                           callbacks_.analyser_lost(
                               fmt::format("the analyser was lost: {}; again in {} "
                                           "ms",
                                           why.to_text(), wait.count()));
                       }});
    analyser_->start();
}

void Findings::restore() {
    constexpr std::size_t kFrameBytes = limits::kMaxFrameBytes / 2;
    AnalyserInput input{.kind = AnalyserInput::Kind::restore};
    std::size_t bytes = 0;
    for (const auto& [uid, finding] : open_) {
        bytes += event::encode(finding).size();
        input.restored.push_back(finding);
        if (bytes > kFrameBytes) {
            submit(std::exchange(input, {.kind = AnalyserInput::Kind::restore}));
            bytes = 0;
        }
    }
    submit(std::move(input));
}

void Findings::close_orphans() {
    if (!analyser_ || !analyser_->ready()) return;
    std::set<std::string> ended;
    for (const auto& [uid, finding] : open_) {
        if (!callbacks_.is_here(finding.instance_id)) ended.insert(finding.instance_id);
    }
    for (const std::string& id : ended) {
        submit({.kind = AnalyserInput::Kind::end,
                .time_ns = Recorder::now_ns(),
                .instance_id = id,
                .why = "the VM ended while it was not watched"});
    }
}

void Findings::submit(AnalyserInput input) {
    input.ticket = next_ticket_++;
    const std::uint64_t ticket = input.ticket, time_ns = input.time_ns;
    using Kind = AnalyserInput::Kind;
    const bool is_judged = input.kind == Kind::report, is_told = input.kind == Kind::activities;
    const std::string id = input.instance_id, check = input.check;
    const std::string frame = event::encode(input);
    if (frame.size() > limits::kMaxFrameBytes) {
        return callbacks_.not_judged(id, check, std::string(kUnreadable) + "it is too long",
                                     time_ns);
    }
    const bool taken = analyser_->submit(
        {.question = frame,
         .deadline = kAnalyserDeadline,
         .on_frame =
             [this, ticket, is_judged, is_told, id, check, time_ns](std::string_view answer,
                                                                    bool last) {
                 event::Decoder decoder{as_bytes(answer.substr(1))};
                 if (last) {
                     const auto verdict = decoder.get<AnalyserVerdict>();
                     if (!verdict.has_value() || verdict->ticket != ticket) return false;
                     if (is_judged || verdict->malformed) took(*verdict, id, check, time_ns);
                     return true;
                 }
                 if (is_told) {
                     const auto seen = decoder.get<event::ActivityReport>();
                     if (seen.has_value()) callbacks_.did(id, *seen);
                     return seen.has_value();
                 }
                 while (!decoder.at_end()) {
                     const auto change = decoder.get<event::FindingChange>();
                     // It was asked about one instance and may speak of no other.
                     if (!change.has_value() || change->open.instance_id != id) return false;
                     take(*change);
                 }
                 return true;
             },
         .on_failure =
             [this, id, check](const Error& why) {
                 callbacks_.not_judged(id, check, "the analyser was lost: " + why.to_text(),
                                       Recorder::now_ns());
             }});
    if (!taken) {
        callbacks_.not_judged(id, check, "too many reports wait for the analyser", time_ns);
    }
}

void Findings::took(const AnalyserVerdict& verdict, const std::string& instance_id,
                    const std::string& check, std::uint64_t time_ns) {
    if (verdict.malformed) {
        return callbacks_.not_judged(instance_id, check, std::string(kUnreadable) + verdict.reason,
                                     time_ns);
    }
    callbacks_.judged(instance_id, check, verdict, time_ns);
    // Seen again without anything to say about it: status still shows when.
    if (verdict.outcome != event::Outcome::finding) return;
    for (auto& [uid, open] : open_) {
        const bool of_check = detect::is_rule_of(open.finding.rule, check);
        if (open.instance_id == instance_id && of_check) open.last_seen = time_ns;
    }
}

void Findings::take(const event::FindingChange& change) {
    if (change.change == event::Change::closed) {
        open_.erase(change.open.uid);
    } else {
        open_[change.open.uid] = change.open;
    }
    const auto named = instances_.find(change.open.instance_id);
    callbacks_.changed(
        named == instances_.end()
            ? event::Instance{.host = host_, .kind = "vm", .id = change.open.instance_id}
            : named->second,
        change);
    if (writing_ == 0) {
        // In the same round of the loop as its event: an agent that is killed right after must not
        // tell the finding a second time when it is started again.
        writing_ = loop_->after(0ms, [this] {
            writing_ = 0;
            write_file();
        });
    }
}

Findings::Count Findings::count(const std::string& instance_id) const {
    Count count;
    for (const auto& [uid, open] : open_) {
        if (open.instance_id != instance_id) continue;
        ++count.open;
        count.hidden_process |= open.finding.rule == detect::HiddenProcessCheck::kName;
    }
    return count;
}

// What was open goes on under its uid. The log has it too; this is only for speed, and without it a
// finding is opened anew.
void Findings::read_file_of_run_before() {
    const auto bytes = read_file(file_, kMaxFileBytes);
    if (!bytes.has_value()) return;
    event::Decoder decoder{as_bytes(*bytes)};
    auto open = decoder.get<std::vector<event::OpenFinding>>();
    auto instances = decoder.get<std::vector<event::Instance>>();
    if (!open.has_value() || !instances.has_value()) {
        return callbacks_.trouble(
            fmt::format("{} cannot be read; open findings are opened anew", file_.native()));
    }
    for (event::OpenFinding& finding : *open) open_[finding.uid] = std::move(finding);
    for (event::Instance& instance : *instances) instances_[instance.id] = std::move(instance);
}

void Findings::write_file() {
    std::vector<event::OpenFinding> open;
    std::vector<event::Instance> instances;
    for (const auto& [uid, finding] : open_) open.push_back(finding);
    std::erase_if(instances_, [&](const auto& entry) {
        const bool needed = callbacks_.is_here(entry.first) ||
                            std::ranges::any_of(open, [&](const event::OpenFinding& finding) {
                                return finding.instance_id == entry.first;
                            });
        return !needed;
    });
    for (const auto& [id, instance] : instances_) instances.push_back(instance);
    event::Encoder encoder;
    encoder.put(open);
    encoder.put(instances);
    const auto written = replace_file(file_, as_bytes(encoder.bytes()));
    if (!written.has_value()) callbacks_.trouble(written.error().to_text());
}

}  // namespace underseer::agent
