#include "trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "base/counted.h"
#include "exact.h"
#include "output.h"
#include "progress.h"
#include "target.h"

namespace underseer::cli {

namespace {

using agent::Question;
using agent::ThreadMode;
using agent::ThreadState;
using agent::Topic;
using agent::TraceArgument;
using agent::TraceCall;
using agent::TraceMoment;
using agent::TracePart;
using agent::TraceReport;
using agent::TraceSummary;
using agent::TraceThread;
using agent::TraceUserFrame;
using std::chrono::milliseconds;

constexpr milliseconds kPeriod{10};
constexpr int kNotAllSeen = 10;
constexpr std::size_t kToldCalls = 3;  // of one place, with other arguments
// Parts of one answer: each has some ten moments at least.
constexpr std::size_t kMaxTraceParts = limits::kMaxTracedMoments + 1;

std::string value_text(const TraceArgument& argument) {
    constexpr std::uint64_t kSmall = 4096;
    // AT_FDCWD in include/uapi/linux/fcntl.h: "from where the process is".
    constexpr std::int32_t kWorkingFolder = -100;
    const auto number = static_cast<std::int32_t>(argument.value);
    if (argument.name.ends_with("dfd") && number == kWorkingFolder) return "AT_FDCWD";
    if (!argument.file.empty()) return fmt::format("{}<{}>", number, argument.file);
    // Negative ones, of 64 bits or of 32: timeouts, "none".
    const bool is_negative =
        argument.value > ~std::uint64_t{0} - kSmall ||
        (argument.value >> 32 == 0 && number < 0 && number > -static_cast<std::int32_t>(kSmall));
    if (is_negative) return fmt::format("{}", number);
    return argument.value < kSmall ? fmt::format("{}", argument.value)
                                   : fmt::format("{:#x}", argument.value);
}

std::string what_of(const TraceMoment& moment) {
    const std::string state = moment.state == ThreadState::on_cpu  ? "on a CPU"
                              : moment.state == ThreadState::ready ? "ready, waits for a CPU"
                                                                   : "waits";
    switch (moment.mode) {
        case ThreadMode::unknown:
            return state;
        case ThreadMode::user:
            return state + ", in its program";
        case ThreadMode::system_call:
            return state + ", in";
        case ThreadMode::exception:
            return state + ", for a page of its memory";
        case ThreadMode::kernel:
            return state + ", in the kernel";
    }
    return state;
}

// Moments that differ in the arguments of the call only.
struct Place {
    const TraceMoment* first = nullptr;
    std::uint64_t samples = 0, seen_ns = 0, longest_ns = 0;
    std::vector<const TraceMoment*> moments;
};

std::string key_of(const TraceMoment& moment) {
    std::string key =
        fmt::format("{} {} ", static_cast<int>(moment.state), static_cast<int>(moment.mode));
    if (moment.call.available()) {
        key += fmt::format("{} {} ", moment.call.value().number, moment.call.value().is_compat);
    }
    for (const auto& frame : moment.stack) {
        key += fmt::format("{}{} ", frame.address, frame.is_guess ? "?" : "");
    }
    for (const auto& frame : moment.user_stack) key += fmt::format("{} ", frame.address);
    return key + moment.stack_ended + moment.user_stack_ended;
}

std::vector<Place> places_of(const TraceThread& thread) {
    std::vector<Place> places;
    std::map<std::string, std::size_t> index;
    for (const TraceMoment& moment : thread.moments) {
        const auto [at, is_new] = index.try_emplace(key_of(moment), places.size());
        if (is_new) places.push_back({.first = &moment});
        Place& place = places[at->second];
        place.samples += moment.samples;
        place.seen_ns += moment.seen_ns;
        place.longest_ns = std::max(place.longest_ns, moment.longest_ns);
        place.moments.push_back(&moment);
    }
    std::ranges::stable_sort(places, std::greater{}, &Place::samples);
    return places;
}

std::string frame_text(const TraceUserFrame& frame) {
    std::string text = frame.file.empty() ? fmt::format("{:#x}, in no known file", frame.address)
                       : frame.symbol.empty()
                           ? fmt::format("{}+{:#x}", frame.file, frame.offset_bytes)
                           : fmt::format("{}  ({})", frame.symbol, frame.file);
    if (frame.by_frame_pointer) text += ", by its frame pointer";
    return text;
}

constexpr std::string_view kIndent = "                    ";

void add_place(std::string& text, const Place& place, std::uint64_t all) {
    const TraceMoment& moment = *place.first;
    const double share =
        all == 0 ? 0 : 100 * static_cast<double>(place.samples) / static_cast<double>(all);
    std::string what = what_of(moment);
    if (moment.call.available()) what += " " + text_of(moment.call.value());
    text +=
        fmt::format("{:>6.1f} % {:>9}  {}\n", share, duration_text(place.seen_ns), printable(what));
    for (std::size_t i = 1; i < std::min(place.moments.size(), kToldCalls); ++i) {
        text += fmt::format("{}  or {}\n", kIndent,
                            printable(text_of(place.moments[i]->call.value_or({}))));
    }
    if (place.moments.size() > kToldCalls) {
        text += fmt::format("{}  or {} with other arguments\n", kIndent,
                            place.moments.size() - kToldCalls);
    }
    if (place.seen_ns > place.longest_ns && place.longest_ns != 0) {
        text += fmt::format("{}  longest {}\n", kIndent, duration_text(place.longest_ns));
    }
    const auto line = [&](std::string_view whose, const std::string& what_there) {
        text += fmt::format("{}  {:<7} {}\n", kIndent, whose, printable(what_there));
    };
    for (const auto& frame : moment.stack) {
        line("kernel", fmt::format("{}{}{}", frame.is_guess ? "? " : "", frame.symbol,
                                   frame.module.empty() ? "" : " [" + frame.module + "]"));
    }
    if (!moment.stack_ended.empty()) line("kernel", "ended: " + moment.stack_ended);
    for (const auto& frame : moment.user_stack) line("program", frame_text(frame));
    if (!moment.user_stack.empty() && !moment.user_stack_ended.empty()) {
        line("program", "ended: " + moment.user_stack_ended);
    }
}

// `asked`: what answers questions.
template <typename Asked>
Result<TraceReport> look(Asked& asked, std::uint32_t pid, milliseconds duration) {
    Question question{.topic = Topic::trace,
                      .one_pid = true,
                      .pid = pid,
                      .trace = {.begin = true,
                                .for_ms = static_cast<std::uint32_t>(duration.count()),
                                .period_us = static_cast<std::uint32_t>(
                                    std::chrono::microseconds(kPeriod).count())}};
    ProgressBar bar;
    for (;;) {
        auto answer = TRY(asked.template ask<TracePart>(question));
        if (answer.items.empty() || answer.items.size() > kMaxTraceParts) {
            return fail(Code::malformed, "the introspector sent no part of a trace");
        }
        const bool finished = answer.items.front().finished;
        TraceReport report;
        for (TracePart& part : answer.items) report.add(std::move(part));
        if (finished) return report;
        const auto passed = static_cast<std::uint64_t>(bar.seconds() * 1000);
        const auto all = static_cast<std::uint64_t>(duration.count());
        bar.show(
            std::min(passed, all), all,
            fmt::format("{} of {}, {}", duration_text(report.summary.duration_ns),
                        duration_text(all * 1'000'000), counted(report.summary.samples, "sample")));
        question.trace.begin = false;
    }
}

}  // namespace

std::string text_of(const TraceCall& call) {
    std::string name = call.name;
    if (name.empty()) name = fmt::format("{}_{}", call.is_compat ? "i386" : "syscall", call.number);
    std::string arguments;
    for (const TraceArgument& argument : call.arguments) {
        if (!arguments.empty()) arguments += ", ";
        if (!argument.name.empty()) arguments += argument.name + "=";
        arguments += value_text(argument);
    }
    return fmt::format("{}({})", name, arguments);
}

std::string text_of(const TraceReport& report) {
    const TraceSummary& summary = report.summary;
    std::string text =
        fmt::format("Process {} ({}): {} in {}", summary.pid, printable(summary.comm),
                    counted(summary.samples, "sample"), duration_text(summary.duration_ns));
    if (summary.samples > 1) {
        text += fmt::format(", one each {} (longest pause {})", duration_text(summary.period_ns),
                            duration_text(summary.longest_pause_ns));
    }
    text += fmt::format("; ended because {}\n", printable(summary.ended));
    for (const TraceThread& thread : report.threads) {
        text += "\n" + toned(Tone::bold,
                             fmt::format("Thread {} ({})", thread.pid, printable(thread.comm)));
        text += fmt::format(": CPU time {} user, {} system; left its CPU {}{}\n",
                            duration_text(thread.user_ns), duration_text(thread.system_ns),
                            counted(thread.switches, "time"), thread.ended ? "; has ended" : "");
        for (const Place& place : places_of(thread)) add_place(text, place, thread.samples);
    }
    const auto line = [&](const std::string& gap) { text += "  not seen: " + gap + "\n"; };
    if (!summary.gaps.empty() || summary.omitted != 0 || summary.torn != 0) text += "\n";
    for (const std::string& gap : summary.gaps) line(printable(gap));
    if (summary.omitted != 0) {
        std::size_t told = 0;
        for (const TraceThread& thread : report.threads) told += thread.moments.size();
        line(fmt::format("what {} saw, after {} different ones", counted(summary.omitted, "look"),
                         told));
    }
    if (summary.torn != 0) {
        text += fmt::format("  {} met a thread that was about to run: counted as on a CPU\n",
                            counted(summary.torn, "look"));
    }
    return text;
}

Result<TraceReport> sample(agent::Introspector& introspector, std::uint32_t pid,
                           milliseconds duration) {
    return look(introspector, pid, duration);
}

Result<int> trace(const Options& options) {
    constexpr milliseconds kDefaultDuration{10'000};
    if (!options.pid) {
        return fail(Code::invalid_argument,
                    "'trace' needs --pid N, a process of the guest; underseer ps lists them");
    }
    const milliseconds duration = options.duration.value_or(kDefaultDuration);
    if (duration < milliseconds(agent::kMinTraceMs) ||
        duration > milliseconds(agent::kMaxTraceMs)) {
        return fail(Code::invalid_argument,
                    fmt::format("--for: from {} ms to {} min", agent::kMinTraceMs,
                                agent::kMaxTraceMs / 60'000));
    }
    if (!options.exact && (options.syscalls || !options.functions.empty())) {
        return fail(Code::invalid_argument,
                    "--syscalls and --functions are of --exact: without it both are sampled");
    }
    if (options.syscalls && !options.functions.empty()) {
        return fail(Code::invalid_argument, "--syscalls and --functions: one of them at a time");
    }
    if (options.exact) return trace_exactly(options, duration);
    Target target = TRY(Target::open(options));
    const TraceReport report = TRY(look(target, *options.pid, duration));
    if (options.json) {
        print_json(report);
    } else {
        print(text_of(report));
    }
    const bool all_seen = report.summary.gaps.empty() && report.summary.omitted == 0;
    return all_seen ? 0 : kNotAllSeen;
}

}  // namespace underseer::cli
