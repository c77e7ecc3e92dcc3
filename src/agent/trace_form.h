// What a trace of a process has seen, as it crosses the border and as --json shows it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "event/observation.h"

namespace underseer::agent {

// What a thread was doing.
enum class ThreadState : std::uint8_t {
    on_cpu,  // where it is in its program only the CPU knows, until it stops
    ready,   // it waited for a CPU
    waiting  // it waited for something else
};
constexpr ThreadState last_enumerator(ThreadState) {
    return ThreadState::waiting;
}
std::string_view to_string(ThreadState state);

// Where it was: what it had been doing when it last left its CPU.
enum class ThreadMode : std::uint8_t {
    unknown,      // it runs, or ran while it was read
    user,         // in its program, interrupted
    system_call,  // in the kernel, at its own wish
    exception,    // in the kernel for a page that was not there, or the like
    kernel        // a kernel thread
};
constexpr ThreadMode last_enumerator(ThreadMode) {
    return ThreadMode::kernel;
}
std::string_view to_string(ThreadMode mode);

struct TraceArgument {
    std::string name;  // as the kernel calls it; "" where it does not say
    std::uint64_t value = 0;
    std::string file;  // of a descriptor that was open

    bool operator==(const TraceArgument&) const = default;
    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"name", &TraceArgument::name},
                          Field{"value", &TraceArgument::value},
                          Field{"file", &TraceArgument::file}};
    }
};

struct TraceCall {
    std::uint32_t number = 0;
    std::string name;        // "" where we know none of that number
    bool is_compat = false;  // of 32-bit programs, whose numbers are others
    std::vector<TraceArgument> arguments;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"number", &TraceCall::number}, Field{"name", &TraceCall::name},
                          Field{"compat", &TraceCall::is_compat},
                          Field{"arguments", &TraceCall::arguments}};
    }
};

struct TraceFrame {
    std::uint64_t address = 0;
    std::string symbol;     // "pipe_read+0x1a3"
    std::string module;     // "" for the kernel itself
    bool is_guess = false;  // a word of the stack that may be a return address, and may be a relic

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{
            Field{"address", &TraceFrame::address}, Field{"symbol", &TraceFrame::symbol},
            Field{"module", &TraceFrame::module}, Field{"guess", &TraceFrame::is_guess}};
    }
};

// A function of the program: the first one goes on there, and to the others a call returns there.
struct TraceUserFrame {
    std::uint64_t address = 0;
    std::string symbol;  // "read+0x13"; "" where no name is known
    std::string file;    // that is mapped there, "[vdso]", ..; "" where nothing has a name
    std::uint64_t offset_bytes = 0;  // in it; where it has no name, from the mapping's begin
    // Found by rbp, which not all code uses as a frame pointer: callers may be missing before it.
    bool by_frame_pointer = false;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"address", &TraceUserFrame::address},
                          Field{"symbol", &TraceUserFrame::symbol},
                          Field{"file", &TraceUserFrame::file},
                          Field{"offset_bytes", &TraceUserFrame::offset_bytes},
                          Field{"frame_pointer", &TraceUserFrame::by_frame_pointer}};
    }
};

// What a thread was seen doing, in all samples that saw the same.
struct TraceMoment {
    ThreadState state{};
    ThreadMode mode{};
    std::uint64_t samples = 0;
    std::uint64_t seen_ns = 0;     // from each of them to the next
    std::uint64_t longest_ns = 0;  // without a break
    event::Observed<TraceCall> call;
    std::vector<TraceFrame> stack;           // of the kernel, the innermost function first
    std::string stack_ended;                 // why it is not followed to its begin; "": it is
    std::vector<TraceUserFrame> user_stack;  // of the program, which has entered the kernel
    std::string user_stack_ended;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"state", &TraceMoment::state},
                          Field{"mode", &TraceMoment::mode},
                          Field{"samples", &TraceMoment::samples},
                          Field{"seen_ns", &TraceMoment::seen_ns},
                          Field{"longest_ns", &TraceMoment::longest_ns},
                          Field{"call", &TraceMoment::call},
                          Field{"stack", &TraceMoment::stack},
                          Field{"stack_ended", &TraceMoment::stack_ended},
                          Field{"user_stack", &TraceMoment::user_stack},
                          Field{"user_stack_ended", &TraceMoment::user_stack_ended}};
    }
};

struct TraceThread {
    std::uint32_t pid = 0;
    std::string comm;
    std::uint64_t samples = 0;
    // By the guest's own account, while it was traced; ticks of some milliseconds.
    std::uint64_t user_ns = 0, system_ns = 0;
    std::uint64_t switches = 0;  // how often it left its CPU
    bool ended = false;
    std::vector<TraceMoment> moments;  // the one with the most samples first

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"pid", &TraceThread::pid},
                          Field{"comm", &TraceThread::comm},
                          Field{"samples", &TraceThread::samples},
                          Field{"user_ns", &TraceThread::user_ns},
                          Field{"system_ns", &TraceThread::system_ns},
                          Field{"switches", &TraceThread::switches},
                          Field{"ended", &TraceThread::ended},
                          Field{"moments", &TraceThread::moments}};
    }
};

struct TraceSummary {
    std::uint32_t pid = 0;
    std::string comm;
    std::uint64_t start_time = 0;
    std::uint64_t duration_ns = 0;
    std::uint64_t samples = 0;    // of the process; each looks at all its threads
    std::uint64_t period_ns = 0;  // between two of them, on average
    std::uint64_t longest_pause_ns = 0;
    std::uint64_t torn = 0;     // looks at a thread that ran meanwhile, and say nothing
    std::uint64_t omitted = 0;  // looks that saw what there was no more room to tell
    bool process_ended = false;
    std::string ended;              // why the trace is over
    std::vector<std::string> gaps;  // what could not be seen

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"pid", &TraceSummary::pid},
                          Field{"comm", &TraceSummary::comm},
                          Field{"start_time", &TraceSummary::start_time},
                          Field{"duration_ns", &TraceSummary::duration_ns},
                          Field{"samples", &TraceSummary::samples},
                          Field{"period_ns", &TraceSummary::period_ns},
                          Field{"longest_pause_ns", &TraceSummary::longest_pause_ns},
                          Field{"torn", &TraceSummary::torn},
                          Field{"omitted", &TraceSummary::omitted},
                          Field{"process_ended", &TraceSummary::process_ended},
                          Field{"ended", &TraceSummary::ended},
                          Field{"gaps", &TraceSummary::gaps}};
    }
};

// One answer: the first item of it has the summary, those after it a thread each. Threads are told
// when the trace is over.
struct TracePart {
    bool finished = false;
    TraceSummary summary;
    std::vector<TraceThread> threads;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"finished", &TracePart::finished},
                          Field{"summary", &TracePart::summary},
                          Field{"threads", &TracePart::threads}};
    }
};

// All parts of one: what `trace --json` prints, and what is kept as evidence.
struct TraceReport {
    TraceSummary summary;
    std::vector<TraceThread> threads;

    // A thread that goes on in a further part becomes one.
    void add(TracePart part) {
        summary = std::move(part.summary);
        for (TraceThread& thread : part.threads) {
            if (!threads.empty() && threads.back().pid == thread.pid) {
                std::ranges::move(thread.moments, std::back_inserter(threads.back().moments));
            } else {
                threads.push_back(std::move(thread));
            }
        }
    }

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"summary", &TraceReport::summary},
                          Field{"threads", &TraceReport::threads}};
    }
};

// A trace is begin and then go_on until it is finished: a step takes about a second.
struct TraceOrder {
    bool begin = false;
    std::uint32_t for_ms = 0;
    std::uint32_t period_us = 0;
    // Of an exact one: which functions, instead of all system calls (FunctionCalls).
    std::vector<std::string> functions;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"begin", &TraceOrder::begin}, Field{"for_ms", &TraceOrder::for_ms},
                          Field{"period_us", &TraceOrder::period_us},
                          Field{"functions", &TraceOrder::functions}};
    }
};

inline constexpr std::uint32_t kMaxTraceMs = 600'000, kMinTraceMs = 10;
inline constexpr std::uint32_t kMinTracePeriodUs = 1'000, kMaxTracePeriodUs = 1'000'000;

}  // namespace underseer::agent
