// Questions to an introspector and its answers: what crosses the border between the jailed process
// that reads a guest and the one that asked.
//
// One question is answered by any number of Items frames and then one End. The asking side trusts
// nothing: every frame is bounded, every value decoded with checks, the number of items capped.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "agent/baseline_form.h"
#include "agent/evidence_form.h"
#include "agent/trace_form.h"
#include "event/finding.h"
#include "event/observation.h"
#include "event/wire.h"

namespace underseer::agent {

enum class Topic : std::uint8_t {
    info,
    tasks,
    open_files,
    memory_maps,
    modules,
    sockets,
    mounts,
    interfaces,
    kernel_log,
    bpf_programs,
    bpf_maps,
    bpf_links,
    checks,         // one frame each
    decoy_kernel,   // needs Question::cpus
    symbol_file,    // the kernel model as an ISF, in parts of text
    ram_regions,    // where there is RAM; answered without looking for a kernel
    ram_bytes,      // what is in it, for a dump
    watch,          // a WatchTally and two reports, when there is news or the time is over
    scan,           // YARA over the memory of processes, in steps: Question::scan
    trace,          // what one process does, in steps: Question::trace; one frame each
    evidence,       // into the files that the worker was started with: a KeptFile for each
    baseline,       // how the guest's kernel was built, in parts: Question::baseline
    make_baseline,  // of a kernel's file or a package, read like an image: BaselineMadeParts
    see_code,       // the guest's kernel as it runs, for one of those: BaselineMadeParts
    exact_trace,    // every system call of one process, as they come: Question::trace's for_ms
    compile_rules,  // of events: texts in Question::scan, then none: TextParts of what they make
    event_rules,    // that the check of this name matches by, in parts: Question::event_rules
    programs,       // that packages have, in parts: Question::baseline
};
constexpr Topic last_enumerator(Topic) {
    return Topic::programs;
}

// How to watch: for so long, with a look each period, or as often as the share of a core allows.
struct WatchOrder {
    std::uint32_t for_ms = 0;
    std::uint32_t period_us = 0;
    std::uint32_t core_ppm = 0;                // parts of a million of a core's time
    std::vector<event::MemoryRegion> regions;  // besides what is always watched

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{
            Field{"for_ms", &WatchOrder::for_ms}, Field{"period_us", &WatchOrder::period_us},
            Field{"core_ppm", &WatchOrder::core_ppm}, Field{"regions", &WatchOrder::regions}};
    }
};

// What a watch has looked at, whether it has found something or not.
struct WatchTally {
    std::uint64_t looks = 0;
    std::uint64_t longest_pause_ns = 0;  // between two of them
    std::uint64_t late_ns = 0;           // in which the last one was more than 10 ms ago
    std::uint64_t samples = 0;           // of what the CPUs run
    std::uint64_t tasks_ran = 0;         // that were seen running, each once
    // Numbers that the guest's kernel has given to tasks meanwhile, and how many of those belong to
    // tasks that were not seen running and are gone again.
    std::uint64_t pids_used = 0, pids_unseen = 0;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"looks", &WatchTally::looks},
                          Field{"longest_pause_ns", &WatchTally::longest_pause_ns},
                          Field{"late_ns", &WatchTally::late_ns},
                          Field{"samples", &WatchTally::samples},
                          Field{"tasks_ran", &WatchTally::tasks_ran},
                          Field{"pids_used", &WatchTally::pids_used},
                          Field{"pids_unseen", &WatchTally::pids_unseen}};
    }
};

// A scan is rules (in as many questions as they need), compile, begin, and go_on until it is
// finished: none of these takes long. Only a worker that was started for it takes part.
enum class ScanStep : std::uint8_t { rules, compile, begin, go_on };
constexpr ScanStep last_enumerator(ScanStep) {
    return ScanStep::go_on;
}

// A part of a file of rules.
struct RuleText {
    std::string file;
    std::string text;
    bool continues = false;      // the file that the part before belongs to
    bool only_included = false;  // it is there for include directives

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"file", &RuleText::file}, Field{"text", &RuleText::text},
                          Field{"continues", &RuleText::continues},
                          Field{"only_included", &RuleText::only_included}};
    }
};

struct ScanRequest {
    ScanStep step = ScanStep::go_on;
    std::vector<RuleText> rules;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"step", &ScanRequest::step}, Field{"rules", &ScanRequest::rules}};
    }
};

struct Question {
    Topic topic = Topic::info;
    bool one_pid = false;
    std::uint32_t pid = 0;
    bool environment = false;  // of tasks
    bool threads = false;      // every thread, not only processes
    // Of checks: which (empty: all), and whether that of hidden processes searches all RAM.
    std::vector<std::string> checks;
    bool deep = false;
    bool out_of_turn = false;   // of checks: for a reason, and before they are due
    std::uint64_t address = 0;  // of ram_bytes: physical, and at most kMaxRamQuestion bytes
    std::uint64_t size_bytes = 0;
    WatchOrder watch;
    // The guest's CPUs a moment ago, when the asker knows: the kernel that they run is looked into.
    std::vector<event::CpuRegisters> cpus;
    ScanRequest scan;  // of Topic::scan
    TraceOrder trace;  // of both traces, with one_pid and pid
    EvidenceOrder evidence;
    BaselinePart baseline;
    BaselinePart event_rules;  // the parts are those of a baseline
    // With the last part of them: what is to be logged. It is kept until checks are asked for with
    // `takes_activities`: behind their reports comes an ActivityReport.
    std::vector<event::ActivityKind> activities;
    bool takes_activities = false;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"topic", &Question::topic},
                          Field{"one_pid", &Question::one_pid},
                          Field{"pid", &Question::pid},
                          Field{"environment", &Question::environment},
                          Field{"threads", &Question::threads},
                          Field{"checks", &Question::checks},
                          Field{"deep", &Question::deep},
                          Field{"out_of_turn", &Question::out_of_turn},
                          Field{"address", &Question::address},
                          Field{"size_bytes", &Question::size_bytes},
                          Field{"watch", &Question::watch},
                          Field{"cpus", &Question::cpus},
                          Field{"scan", &Question::scan},
                          Field{"trace", &Question::trace},
                          Field{"evidence", &Question::evidence},
                          Field{"baseline", &Question::baseline},
                          Field{"event_rules", &Question::event_rules},
                          Field{"activities", &Question::activities},
                          Field{"takes_activities", &Question::takes_activities}};
    }
};

// The first frame to an introspector: what its fds are. (Guest memory's RamSlice, described.)
struct SliceForm {
    std::uint64_t begin = 0, size_bytes = 0, offset = 0;
    std::uint32_t source = 0;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"begin", &SliceForm::begin},
                          Field{"size_bytes", &SliceForm::size_bytes},
                          Field{"offset", &SliceForm::offset}, Field{"source", &SliceForm::source}};
    }
};

struct IntrospectorStart {
    std::string name;
    bool image = false;
    std::uint64_t image_bytes = 0;
    std::uint32_t fd_count = 0;
    std::vector<SliceForm> layout, alternative;
    bool scans = false;
    std::vector<OutputForm> outputs;  // their files follow the memory's
    bool is_supervised = false;       // the line to a supervisor of breakpoints follows them

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"name", &IntrospectorStart::name},
                          Field{"image", &IntrospectorStart::image},
                          Field{"image_bytes", &IntrospectorStart::image_bytes},
                          Field{"fd_count", &IntrospectorStart::fd_count},
                          Field{"layout", &IntrospectorStart::layout},
                          Field{"alternative", &IntrospectorStart::alternative},
                          Field{"scans", &IntrospectorStart::scans},
                          Field{"outputs", &IntrospectorStart::outputs},
                          Field{"is_supervised", &IntrospectorStart::is_supervised}};
    }
};
// A part of a long text; the parts in their order are the whole.
struct TextPart {
    std::string text;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"text", &TextPart::text}};
    }
};

// What rules that were compiled amount to; with errors, there are none.
struct RuleProblem {
    std::string file;
    std::uint32_t line = 0;  // 0: the file as a whole
    std::string message;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"file", &RuleProblem::file}, Field{"line", &RuleProblem::line},
                          Field{"message", &RuleProblem::message}};
    }
};
struct CompiledRules {
    std::uint64_t rules = 0;
    std::vector<RuleProblem> errors;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"rules", &CompiledRules::rules},
                          Field{"errors", &CompiledRules::errors}};
    }
};

// What one step of a scan has brought.
struct ScanPart {
    std::vector<event::MemoryMatch> matches;
    event::ScanCoverage coverage;  // of all steps so far
    std::uint64_t processes = 0;   // that there are
    bool finished = false;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{
            Field{"matches", &ScanPart::matches}, Field{"coverage", &ScanPart::coverage},
            Field{"processes", &ScanPart::processes}, Field{"finished", &ScanPart::finished}};
    }
};
// Rules go over in questions of about this size.
inline constexpr std::size_t kMaxRuleTextInQuestion = 256u << 10;

// One region of RAM.
struct RamExtent {
    std::uint64_t begin = 0;
    std::uint64_t size_bytes = 0;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"begin", &RamExtent::begin},
                          Field{"size_bytes", &RamExtent::size_bytes}};
    }
};

// A stretch of RAM, all of it read alike: with `bytes`, all zeros, or not to be had.
enum class RamState : std::uint8_t { bytes, zeros, absent, failed };
constexpr RamState last_enumerator(RamState) {
    return RamState::failed;
}
struct RamPart {
    std::uint64_t begin = 0;
    std::uint64_t size_bytes = 0;
    RamState state = RamState::failed;
    std::string bytes;  // of RamState::bytes: size_bytes of them
    std::string why;    // of RamState::failed

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"begin", &RamPart::begin},
                          Field{"size_bytes", &RamPart::size_bytes},
                          Field{"state", &RamPart::state}, Field{"bytes", &RamPart::bytes},
                          Field{"why", &RamPart::why}};
    }
};
inline constexpr std::uint64_t kMaxRamQuestion = 1u << 20;

// signs: of a watch that goes on: what has moved (guest_linux::Signs).
enum class FrameKind : std::uint8_t { items, end, signs };
constexpr FrameKind last_enumerator(FrameKind) {
    return FrameKind::signs;
}

// The last frame of an answer.
struct AnswerEnd {
    bool failed = false;
    std::uint8_t code = 0;  // underseer::Code when failed
    std::string error;
    std::uint32_t unreadable = 0;  // entries that could not be read
    std::string first_gap;         // why, of the first of them
    // Of the guest's kernel, when nobody has said how that was built: its build id, and which of
    // the ways to run it this is (guest_linux/seen_code.h; "": that is not known).
    std::string lacks_baseline, code_variant;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"failed", &AnswerEnd::failed},
                          Field{"code", &AnswerEnd::code},
                          Field{"error", &AnswerEnd::error},
                          Field{"unreadable", &AnswerEnd::unreadable},
                          Field{"first_gap", &AnswerEnd::first_gap},
                          Field{"lacks_baseline", &AnswerEnd::lacks_baseline},
                          Field{"code_variant", &AnswerEnd::code_variant}};
    }
};

// Items frames are filled up to this, well below limits::kMaxFrameBytes.
inline constexpr std::size_t kItemsFrameBytes = 256u << 10;

}  // namespace underseer::agent
