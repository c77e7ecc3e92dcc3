// What an exact trace has seen, as it crosses the border and as --json shows it; and what its two
// processes say to each other.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "agent/trace_form.h"
#include "event/observation.h"

namespace underseer::agent {

struct ExactArgument {
    std::string name;  // as the kernel calls it; "" where it does not say
    std::uint64_t value = 0;
    std::string text;  // what it means: a string, flags, a socket's address; "" for a number

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"name", &ExactArgument::name},
                          Field{"value", &ExactArgument::value},
                          Field{"text", &ExactArgument::text}};
    }
};

// A system call, or one of a function that was asked for.
struct ExactCall {
    std::uint64_t at_ns = 0;   // since the trace began
    std::uint32_t pid = 0;     // of the thread
    std::uint32_t number = 0;  // of a system call
    std::string name;          // "" where we know none of that number
    // Of a function: the program or library that it is in, or "kernel"; and who calls it,
    // "main+0x1d (/bin/prog)", as far as that has a name.
    std::string file;
    std::uint64_t caller_address = 0;
    std::string caller;
    // Of a function all six that a register may hold, however many it takes.
    std::vector<ExactArgument> arguments;
    event::Observed<std::int64_t> result;
    std::string error;              // "ENOENT"
    std::uint64_t duration_ns = 0;  // up to its return, stops included; 0 where that was not seen

    static constexpr auto fields() {
        using event::Field;
        using C = ExactCall;
        return std::tuple{Field{"at_ns", &C::at_ns},
                          Field{"pid", &C::pid},
                          Field{"number", &C::number},
                          Field{"name", &C::name},
                          Field{"file", &C::file},
                          Field{"caller_address", &C::caller_address},
                          Field{"caller", &C::caller},
                          Field{"arguments", &C::arguments},
                          Field{"result", &C::result},
                          Field{"error", &C::error},
                          Field{"duration_ns", &C::duration_ns}};
    }
};

struct ExactSummary {
    std::uint32_t pid = 0;
    std::string comm;
    std::uint64_t start_time = 0;
    std::uint64_t duration_ns = 0;
    std::uint64_t calls = 0;
    std::uint64_t stops = 0;      // of all CPUs, for whichever process
    std::uint64_t others = 0;     // of them, for other processes
    std::uint64_t frozen_ns = 0;  // that the guest stood still for them
    std::uint64_t longest_freeze_ns = 0;
    std::vector<std::string> functions;  // that were traced: none: all system calls
    bool process_ended = false;
    bool over_ceiling = false;      // ended because of too many stops
    std::string ended;              // why the trace is over
    std::string trouble;            // what may be wrong with the VM now; "" when it runs on
    std::vector<std::string> gaps;  // what could not be seen

    static constexpr auto fields() {
        using event::Field;
        using S = ExactSummary;
        return std::tuple{Field{"pid", &S::pid},
                          Field{"comm", &S::comm},
                          Field{"start_time", &S::start_time},
                          Field{"duration_ns", &S::duration_ns},
                          Field{"calls", &S::calls},
                          Field{"stops", &S::stops},
                          Field{"others", &S::others},
                          Field{"frozen_ns", &S::frozen_ns},
                          Field{"longest_freeze_ns", &S::longest_freeze_ns},
                          Field{"functions", &S::functions},
                          Field{"process_ended", &S::process_ended},
                          Field{"over_ceiling", &S::over_ceiling},
                          Field{"ended", &S::ended},
                          Field{"trouble", &S::trouble},
                          Field{"gaps", &S::gaps}};
    }
};

// The first says that the breakpoints are there, with a summary of whom it is about; then parts
// come as calls return; the last one has the whole summary.
struct ExactPart {
    bool finished = false;
    std::vector<ExactCall> calls;
    ExactSummary summary;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"finished", &ExactPart::finished},
                          Field{"calls", &ExactPart::calls}, Field{"summary", &ExactPart::summary}};
    }
};

// All parts of one: what `trace --exact --json` prints. `sampled`: how it went on, one or none,
// when there were too many stops.
struct ExactReport {
    ExactSummary summary;
    std::vector<ExactCall> calls;
    std::vector<TraceReport> sampled;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"summary", &ExactReport::summary},
                          Field{"calls", &ExactReport::calls},
                          Field{"sampled", &ExactReport::sampled}};
    }
};

// ---- the supervisor ---------------------------------------------------------------------------

// Whose monitor it connects to, and what is too much.
struct SupervisorStart {
    std::string path;
    std::uint32_t pid = 0, user = 0, group = 0;
    std::uint32_t max_stops = 0;  // within a second

    static constexpr auto fields() {
        using event::Field;
        using S = SupervisorStart;
        return std::tuple{Field{"path", &S::path}, Field{"pid", &S::pid}, Field{"user", &S::user},
                          Field{"group", &S::group}, Field{"max_stops", &S::max_stops}};
    }
};

// What the supervisor says when all is over.
struct SupervisorReport {
    bool begun = false;   // else nothing was done to the VM
    std::string ended;    // why
    std::string trouble;  // what may be wrong with the VM now; "" when it runs on
    bool over_ceiling = false;
    std::uint64_t stops = 0, frozen_ns = 0, longest_freeze_ns = 0;

    static constexpr auto fields() {
        using event::Field;
        using R = SupervisorReport;
        return std::tuple{Field{"begun", &R::begun},
                          Field{"ended", &R::ended},
                          Field{"trouble", &R::trouble},
                          Field{"over_ceiling", &R::over_ceiling},
                          Field{"stops", &R::stops},
                          Field{"frozen_ns", &R::frozen_ns},
                          Field{"longest_freeze_ns", &R::longest_freeze_ns}};
    }
};

// What a tracer tells its supervisor: first how to begin, then what to do after each event.
struct BreakpointOrder {
    std::uint32_t for_ms = 0;           // of the first
    std::vector<std::uint64_t> insert;  // hardware breakpoints
    std::vector<std::uint64_t> remove;  // before that
    std::string end;                    // why the trace is over; "": go on

    static constexpr auto fields() {
        using event::Field;
        using O = BreakpointOrder;
        return std::tuple{Field{"for_ms", &O::for_ms}, Field{"insert", &O::insert},
                          Field{"remove", &O::remove}, Field{"end", &O::end}};
    }
};
// A processor has four (Intel SDM vol. 3B, 18.2).
inline constexpr std::size_t kMaxBreakpoints = 4;

// What a supervisor tells its tracer. All but `ended` want an order, and soon.
struct BreakpointEvent {
    enum class Kind : std::uint8_t {
        hit,      // the guest stands still
        nothing,  // for a while
        ended     // the guest runs without breakpoints, or `report` says why not
    };
    friend constexpr Kind last_enumerator(Kind) { return Kind::ended; }

    Kind kind = Kind::nothing;
    std::uint64_t rip = 0, rsp = 0, rax = 0;
    std::uint64_t gs_base = 0, kernel_gs_base = 0, cr3 = 0;  // hypervisor::CpuState
    std::vector<std::uint64_t> arguments;                    // rdi, rsi, rdx, rcx, r8, r9
    SupervisorReport report;

    static constexpr auto fields() {
        using event::Field;
        using E = BreakpointEvent;
        return std::tuple{
            Field{"kind", &E::kind},       Field{"rip", &E::rip},
            Field{"rsp", &E::rsp},         Field{"rax", &E::rax},
            Field{"gs_base", &E::gs_base}, Field{"kernel_gs_base", &E::kernel_gs_base},
            Field{"cr3", &E::cr3},         Field{"arguments", &E::arguments},
            Field{"report", &E::report}};
    }
};

}  // namespace underseer::agent
