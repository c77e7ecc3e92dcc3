#include "exact.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <string.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/counted.h"
#include "output.h"
#include "target.h"
#include "trace.h"

namespace underseer::cli {

namespace {

using agent::ExactArgument;
using agent::ExactCall;
using agent::ExactPart;
using agent::ExactReport;
using agent::ExactSummary;
using std::chrono::milliseconds;

constexpr int kNotEveryCallSeen = 10;
// A supervisor that is to end has the monitor's and the GDB server's answers to wait for.
constexpr milliseconds kLongestEnd{15'000};

std::string text_of(const ExactArgument& argument) {
    constexpr std::uint64_t kSmallNumber = 65'536;
    if (!argument.text.empty()) return argument.text;
    const auto number = static_cast<std::int32_t>(argument.value);
    const bool is_negative = argument.value > ~std::uint64_t{0} - kSmallNumber ||
                             (argument.value >> 32 == 0 && number < 0 &&
                              number > -static_cast<std::int32_t>(kSmallNumber));
    if (is_negative) return fmt::format("{}", number);
    return argument.value < kSmallNumber ? fmt::format("{}", argument.value)
                                         : fmt::format("{:#x}", argument.value);
}

void warn(const hypervisor::Vm& vm, milliseconds duration, const Options& options) {
    fmt::print(stderr,
               "underseer: for up to {} each {} in {} stops all its CPUs for a moment, twice; its "
               "memory is not written to. More than {} stops in a second end it.\n",
               duration_text(static_cast<std::uint64_t>(duration.count()) * 1'000'000),
               options.functions.empty() ? "system call of any process" : "call of the functions",
               printable(vm.label()), options.stops.value_or(agent::kMaxStopsPerSecond));
}

// Waits until the VM runs without breakpoints, and says what may be wrong with it; "" when nothing.
std::string wait_until_free(ExactTarget& target, const Options& options) {
    const auto report = target.supervisor.wait(kLongestEnd);
    std::string trouble = report.has_value() ? report->trouble : report.error().to_text();
    if (!trouble.empty()) {
        const auto done = put_right(target.vm, options);
        if (!done.has_value()) return trouble + "; " + done.error().to_text();
        fmt::print(stderr, "underseer: {}; {} was {}\n", printable(trouble),
                   printable(target.vm.label()), printable(*done));
    } else {
        agent::TraceRecord::settle(options.state_dir, target.vm);
    }
    return "";
}

}  // namespace

std::string text_of(const ExactCall& call) {
    std::string text =
        fmt::format("[pid {}] {}(", call.pid,
                    call.name.empty() ? fmt::format("syscall_{}", call.number) : call.name);
    for (std::size_t i = 0; i < call.arguments.size(); ++i) {
        text += (i == 0 ? "" : ", ") + text_of(call.arguments[i]);
    }
    const std::string caller = call.caller.empty() ? "" : ", called by " + call.caller;
    if (!call.result.available()) {
        return fmt::format("{}) = ? ({}){}", text, call.result.reason(), caller);
    }
    const std::int64_t result = call.result.value();
    if (!call.error.empty()) {
        return fmt::format("{}) = -1 {} ({})", text, call.error,
                           ::strerrordesc_np(static_cast<int>(-result)));
    }
    constexpr std::int64_t kSmallResult = 1ll << 31;
    return result < kSmallResult ? fmt::format("{}) = {}{}", text, result, caller)
                                 : fmt::format("{}) = {:#x}{}", text, result, caller);
}

std::string text_of(const ExactSummary& summary) {
    std::string text = fmt::format(
        "Process {} ({}): {} in {}; {} of the VM, {} of them for other processes, longest {}, "
        "together {}; ended because {}\n",
        summary.pid, printable(summary.comm),
        counted(summary.calls, summary.functions.empty() ? "system call" : "call"),
        duration_text(summary.duration_ns), counted(summary.stops, "stop"), summary.others,
        duration_text(summary.longest_freeze_ns), duration_text(summary.frozen_ns),
        printable(summary.ended));
    for (const std::string& function : summary.functions) {
        text += "  traced: " + printable(function) + "\n";
    }
    for (const std::string& gap : summary.gaps) {
        text += "  not seen: " + printable(gap) + "\n";
    }
    return text;
}

Result<int> trace_exactly(const Options& options, milliseconds duration) {
    ExactTarget target = TRY(open_exact(options));
    warn(target.vm, duration, options);
    ExactReport report;
    bool begun = false, finished = false;
    const auto take = [&](ExactPart part) {
        if (!std::exchange(begun, true) && !part.finished) {
            const auto& functions = part.summary.functions;
            fmt::print(stderr, "underseer: tracing {} of process {} ({})\n",
                       functions.empty() ? "system calls"
                                         : printable(fmt::format("{}", fmt::join(functions, ", "))),
                       part.summary.pid, printable(part.summary.comm));
        }
        for (ExactCall& call : part.calls) {
            if (!options.json) print(printable(text_of(call)) + "\n");
            // More than that and one that lies tells.
            if (options.json && report.calls.size() < 2 * limits::kMaxExactCalls) {
                report.calls.push_back(std::move(call));
            }
        }
        std::fflush(stdout);  // as they come, wherever that leads
        if (part.finished) report.summary = std::move(part.summary);
        finished |= part.finished;
    };
    auto traced = target.introspector.ask_each<ExactPart>(
        {.topic = agent::Topic::exact_trace,
         .one_pid = true,
         .pid = *options.pid,
         .cpus = target.cpus,
         .trace = {.begin = true,
                   .for_ms = static_cast<std::uint32_t>(duration.count()),
                   .functions = options.functions}},
        take);
    // A tracer that is alive would keep its supervisor.
    if (!traced.has_value()) target.introspector.process().kill();
    if (const std::string trouble = wait_until_free(target, options); !trouble.empty()) {
        return fail(Code::unavailable, trouble);
    }
    TRY(traced);
    if (!finished) return fail(Code::malformed, "the introspector sent no end of a trace");
    const ExactSummary& summary = report.summary;
    const milliseconds passed(summary.duration_ns / 1'000'000);
    const milliseconds left = duration - std::min(duration, passed);
    if (summary.over_ceiling && left >= milliseconds(agent::kMinTraceMs)) {
        fmt::print(stderr, "underseer: {}; it goes on by samples, and nothing is stopped\n",
                   printable(summary.ended));
        report.sampled.push_back(TRY(sample(target.introspector, *options.pid, left)));
    }
    if (options.json) {
        print_json(report);
    } else {
        print("\n" + text_of(summary));
        for (const agent::TraceReport& sampled : report.sampled) print("\n" + text_of(sampled));
    }
    return summary.gaps.empty() && !summary.over_ceiling ? 0 : kNotEveryCallSeen;
}

}  // namespace underseer::cli
