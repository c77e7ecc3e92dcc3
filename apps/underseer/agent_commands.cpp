#include "agent_commands.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>

#include "agent/agent_client.h"
#include "agent/paths.h"
#include "base/counted.h"
#include "detect/check.h"
#include "event_log/reader.h"
#include "event_log/verify.h"
#include "json/value.h"
#include "output.h"

namespace underseer::cli {

namespace {

using agent::AgentClient;
using agent::AgentStatus;
using agent::ControlRequest;
using agent::InstanceStatus;
using agent::WatchState;

Result<AgentClient> connect(const Options& options) {
    return AgentClient::connect(options.run_dir / agent::kControlSocketName);
}

template <typename T>
Result<std::vector<T>> ask(AgentClient& client, ControlRequest::Kind kind) {
    return TRY(client.ask<T>({.kind = kind})).items;
}

std::uint64_t now_ns() {
    return static_cast<std::uint64_t>(
        std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count());
}

std::string ago(std::uint64_t then_ns) {
    if (then_ns == 0) return "never";
    const std::uint64_t now = now_ns();
    return duration_text(now > then_ns ? now - then_ns : 0) + " ago";
}

// What the last look amounts to, in one word and its reason.
std::string result_text(const InstanceStatus& status) {
    const bool moves = status.vm_state.empty() || status.vm_state == "running";
    const std::string paused = moves ? "" : status.vm_state + "; ";
    if (status.state != WatchState::watched) {
        return fmt::format("{}{}{}{}", paused, to_string(status.state),
                           status.why.empty() ? "" : ": ", status.why);
    }
    std::string text = paused + std::string(to_string(status.last_outcome));
    if (!status.last_reason.empty()) text += ": " + status.last_reason;
    std::size_t gaps = 0;
    for (const agent::CheckStatus& one : status.each)
        gaps += one.coverage.gaps.size() + one.coverage.limits.size();
    if (gaps > 0) text += fmt::format(" ({})", counted(gaps, "gap"));
    if (status.kernel_outcome != event::Outcome::clean) {
        text += fmt::format("; decoy kernel: {}{}{}", to_string(status.kernel_outcome),
                            status.kernel_reason.empty() ? "" : ": ", status.kernel_reason);
    }
    return text;
}

std::uint64_t tasks_of(const InstanceStatus& status) {
    std::uint64_t most = 0;
    for (const agent::CheckStatus& one : status.each) {
        const detect::CheckKind* kind = detect::find_check(one.check);
        if (kind != nullptr && kind->counts == "task")
            most = std::max(most, one.coverage.looked_at);
    }
    return most;
}

void print_status(const AgentStatus& agent, const std::vector<InstanceStatus>& instances) {
    fmt::print("Agent {} on {}, pid {}, since {} UTC ({})\n", agent.version, printable(agent.host),
               agent.pid, time_text(agent.started_ns), ago(agent.started_ns));
    fmt::print("Policy     {}\n", agent.policy.empty() ? "built-in" : printable(agent.policy));
    fmt::print("Log        {} ({} of this run, key {})\n", printable(agent.log),
               counted(agent.logged, "event"), printable(agent.agent));
    if (!agent.log_trouble.empty()) {
        print(toned(Tone::bad, "           NOT LOGGING: " + printable(agent.log_trouble)) + "\n");
    }
    fmt::print("Integrity  {}\n", printable(agent.integrity));
    fmt::print("Memory     {}{}\n\n", size_text(agent.resident_bytes),
               agent.analyser_restarts > 0
                   ? "; the analyser was restarted " + counted(agent.analyser_restarts, "time")
                   : "");
    Table table({{"NAME"},
                 {"PID", Align::right},
                 {"FINDINGS", Align::right},
                 {"LAST CHECK", Align::right},
                 {"TASKS", Align::right},
                 {"BLIND", Align::right},
                 {"CPU", Align::right},
                 {"RSS", Align::right},
                 {"EVERY", Align::right},
                 {"KERNEL"},
                 {"RESULT"}});
    for (const InstanceStatus& status : instances) {
        const double share = status.watched_ns == 0 ? 0
                                                    : 100.0 * static_cast<double>(status.blind_ns) /
                                                          static_cast<double>(status.watched_ns);
        const double cpu = status.watched_ns == 0 ? 0
                                                  : 100.0 * static_cast<double>(status.cpu_ns) /
                                                        static_cast<double>(status.watched_ns);
        table.add({status.instance.name, std::to_string(status.pid),
                   std::to_string(status.open_findings), ago(status.last_check_ns),
                   std::to_string(tasks_of(status)),
                   fmt::format("{} ({:.1f} %)", duration_text(status.blind_ns), share),
                   fmt::format("{:.2f} %", cpu), size_text(status.resident_bytes),
                   status.period_ns == 0 ? "off" : duration_text(status.period_ns),
                   status.instance.kernel, result_text(status)});
    }
    print_table(table);
    if (table.empty()) {
        print(
            "No VM runs on this host. One that starts is taken in by itself; `underseer demo` "
            "(./dev run --demo)\nstarts a small one to look at.\n");
    }
}

void print_status_json(const AgentStatus& agent, const std::vector<InstanceStatus>& instances) {
    std::string text;
    json::Writer writer(&text, json::Style::pretty);
    writer.begin_object().key("agent");
    event::JsonForm(&writer).put(agent);
    writer.key("instances");
    event::JsonForm(&writer).put(instances);
    writer.end_object();
    fmt::print("{}\n", text);
}

// ---- the log ----------------------------------------------------------------------------------

std::string text_at(const json::Value& event, std::string_view key) {
    const auto value = event.find(key);
    if (!value) return "";
    auto text = value->as_string();
    return text.has_value() ? *text : "";
}

// One event as one line: when, how bad, where, what.
void print_event(std::string_view bytes, bool json) {
    if (json) return fmt::print("{}\n", bytes);
    const auto event = json::Value::parse(bytes);
    if (!event.has_value()) {
        return fmt::print("(no JSON) {}\n", printable(bytes));
    }
    std::uint64_t time_ms = 0;
    if (const auto time = event->find("time")) time_ms = time->as_uint().value_or(0);
    const std::string severity = text_at(*event, "severity");
    const Tone tone = severity == "Critical" || severity == "High" ? Tone::bad
                      : severity == "Medium"                       ? Tone::warning
                                                                   : Tone::plain;
    fmt::print("{}  {}  {:<24}  {}\n", time_text(time_ms * 1'000'000),
               toned(tone, fmt::format("{:<13}", printable(severity))),
               printable(text_at(*event, "class_name") + "/" + text_at(*event, "activity_name")),
               printable(text_at(*event, "message")));
}

Result<int> show(const Options& options, bool follow) {
    const auto directory = agent::log_path(options.state_dir, options.bulk ? "bulk" : "critical");
    auto reader = TRY(event_log::Reader::open(directory).context(
        "opening the log (an agent's state directory is named with --state)"));
    for (;;) {
        const auto event = reader.next();
        if (!event.has_value()) {
            fmt::print(stderr, "underseer: {}\n", printable(event.error().to_text()));
            continue;
        }
        if (*event) {
            print_event((*event)->bytes, options.json);
            continue;
        }
        if (!follow) return 0;
        std::fflush(stdout);
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
}

void print_verdict(const std::filesystem::path& directory, const event_log::VerifyReport& report) {
    const Tone tone = report.state == event_log::LogState::intact     ? Tone::good
                      : report.state == event_log::LogState::tampered ? Tone::bad
                                                                      : Tone::warning;
    fmt::print("{}: {}\n", printable(directory.native()),
               toned(tone, std::string(to_string(report.state))));
    print(printable_lines(report.to_text()));
}

void verdict_json(json::Writer& writer, const std::filesystem::path& directory,
                  const event_log::VerifyReport& report) {
    writer.begin_object()
        .member("directory", directory.native())
        .member("state", to_string(report.state))
        .member("agent", report.agent)
        .member("log", report.log)
        .member("segments", report.segments)
        .member("epochs", report.epochs)
        .member("batches", report.batches)
        .member("events", report.events)
        .member("first_seq", report.first_seq)
        .member("last_seq", report.last_seq)
        .member("unclean_ends", report.unclean_ends)
        .member("being_written", report.being_written);
    if (report.first_bad) {
        writer.key("first_bad")
            .begin_object()
            .member("file", report.first_bad->file)
            .member("line", report.first_bad->line)
            .member("offset", report.first_bad->offset)
            .member("seq", report.first_bad->seq)
            .member("what", report.first_bad->what)
            .end_object();
    }
    writer.key("notes").begin_array();
    for (const std::string& note : report.notes) writer.value(note);
    writer.end_array().end_object();
}

Result<int> verify(const Options& options) {
    const auto key_path =
        options.key.empty() ? agent::public_key_path(options.state_dir) : options.key;
    const auto key = TRY(crypto::load_public_key(key_path).context(
        "the public enrolment key that the log is verified against (--key FILE)"));
    std::vector<std::filesystem::path> directories;
    if (!options.argument.empty()) {
        directories.emplace_back(options.argument);
    } else {
        for (const char* name : {"critical", "bulk"}) {
            directories.push_back(agent::log_path(options.state_dir, name));
        }
    }
    int status = 0;
    std::string text;
    json::Writer writer(&text, json::Style::pretty);
    writer.begin_array();
    for (const auto& directory : directories) {
        const auto report = event_log::verify(directory, key);
        if (options.json) {
            verdict_json(writer, directory, report);
        } else {
            print_verdict(directory, report);
        }
        // The worst of several: tampered before anything else.
        const int code = report.exit_code();
        if (code == 1 || (status != 1 && code > status)) status = code;
    }
    writer.end_array();
    if (options.json) fmt::print("{}\n", text);
    return status;
}

}  // namespace

Result<int> status(const Options& options) {
    auto client = TRY(connect(options));
    for (;;) {
        const auto agents = TRY(ask<AgentStatus>(client, ControlRequest::Kind::agent));
        auto instances = TRY(ask<InstanceStatus>(client, ControlRequest::Kind::instances));
        if (agents.size() != 1) return fail(Code::malformed, "the agent sent no status");
        std::ranges::sort(instances, {},
                          [](const InstanceStatus& item) { return item.instance.name; });
        if (options.watch && on_terminal()) print("\x1b[H\x1b[2J");
        if (options.json) {
            print_status_json(agents.front(), instances);
        } else {
            print_status(agents.front(), instances);
        }
        if (!options.watch) return 0;
        std::fflush(stdout);
        std::this_thread::sleep_for(std::chrono::seconds(1));
    }
}

Result<int> findings(const Options& options) {
    auto client = TRY(connect(options));
    auto open = TRY(ask<event::OpenFinding>(client, ControlRequest::Kind::findings));
    std::ranges::stable_sort(open, std::greater{},
                             [](const event::OpenFinding& item) { return item.finding.severity; });
    const bool alarming = std::ranges::any_of(open, [](const event::OpenFinding& item) {
        return !event::is_informational(item.finding);
    });
    if (options.json) {
        print_json(open);
        return alarming ? 1 : 0;
    }
    for (const event::OpenFinding& item : open) {
        const event::Finding& finding = item.finding;
        const Tone tone = event::is_informational(finding) ? Tone::plain : Tone::bad;
        fmt::print("{} [{}, {}]\n", toned(tone, printable(finding.title)),
                   to_string(finding.severity), printable(finding.technique));
        fmt::print(
            "  {}: {}\n  instance      {}\n  first seen    {} UTC\n  last seen     {} UTC, "
            "{}\n",
            printable(finding.subject_kind), printable(finding.subject),
            printable(item.instance_id), time_text(item.first_seen), time_text(item.last_seen),
            counted(item.count, "time"));
        for (const event::Evidence& piece : finding.evidence) {
            fmt::print("  {:<14}{}{}\n", printable(piece.name), printable(piece.text),
                       piece.address == 0 ? "" : fmt::format(" at {:#x}", piece.address));
        }
        fmt::print("  {}\n\n", printable(finding.advice));
    }
    if (open.empty()) print("No finding is open.\n");
    return alarming ? 1 : 0;
}

Result<int> act(const Options& options) {
    const auto action = event::action_of(options.argument);
    if (!action) {
        return fail(Code::invalid_argument,
                    fmt::format("there is no action '{}'; wants pause, resume, isolate, reconnect, "
                                "kill, capture or dump",
                                options.argument));
    }
    if (options.pid && *action != event::Action::capture) {
        return fail(Code::invalid_argument,
                    "--pid is of capture: the other actions are done to a VM");
    }
    auto client = TRY(connect(options));
    if (event::keeps_evidence(*action) && !options.dry_run && ::isatty(STDERR_FILENO) != 0) {
        fmt::print(stderr,
                   "Evidence of {} is gathered; that takes some seconds, and longer for all "
                   "of its memory.\n",
                   printable(options.target));
    }
    const auto results = TRY(client.ask<agent::ActionResult>({.kind = ControlRequest::Kind::act,
                                                              .instance = options.target,
                                                              .action = *action,
                                                              .dry_run = options.dry_run,
                                                              .pid = options.pid.value_or(0)}))
                             .items;
    if (options.json) {
        print_json(results);
        return 0;
    }
    for (const agent::ActionResult& one : results) {
        fmt::print("{}: {}\n", printable(one.instance), printable(one.result));
    }
    return 0;
}

Result<int> log(const Options& options) {
    if (options.target == "show") return show(options, false);
    if (options.target == "follow") return show(options, true);
    if (options.target == "verify") return verify(options);
    return fail(Code::invalid_argument,
                "'log' wants show, follow or verify: underseer log show [--bulk] [--json]");
}

}  // namespace underseer::cli
