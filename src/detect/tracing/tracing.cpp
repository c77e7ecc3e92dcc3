#include "detect/tracing/tracing.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <set>

#include "detect/process_report.h"

namespace underseer::detect::tracing {

namespace {

constexpr std::size_t kMaxNames = 10;

constexpr Rule kRules[] = {
    {.id = "traced_by_dropped_program",
     .title = "A dropped program traces other processes",
     .severity = event::Severity::high,
     .confidence = 75,
     .technique = "T1055.008",
     .subject_kind = "process",
     .reads =
         "For every thread whether it is traced and by whom (task_struct.ptrace, .parent), and "
         "the tracer's program: a file in /tmp, /var/tmp, /dev or /run, one that was deleted, "
         "or one in memory only.",
     .misses = "A tracer that has detached: what it wrote stays. Writing by process_vm_writev() or "
               "/proc/PID/mem needs no tracing.",
     .benign = "A debugger that somebody has just built in such a folder.",
     .advice = "The traced processes may run foreign code: look at their maps (underseer maps "
               "--pid), and save the memory of both."},
    {.id = "traced_process",
     .title = "A process is traced",
     .severity = event::Severity::informational,
     .confidence = 90,
     .technique = "T1055.008",
     .subject_kind = "file",
     .reads = "As traced_by_dropped_program, whatever the tracer; one finding for each tracer's "
              "program.",
     .misses = "As traced_by_dropped_program.",
     .benign = "Debuggers, strace, crash handlers, build tools that watch file accesses.",
     .advice = "Is somebody debugging in this instance?"},
};
constexpr const Rule& kByDropped = kRules[0];
constexpr const Rule& kTraced = kRules[1];

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    guest_linux::Kernel& kernel = snapshot.kernel();
    const auto ptrace = kernel.field("task_struct", "ptrace");
    const auto parent = kernel.field("task_struct", "parent");
    const auto tgid = kernel.field("task_struct", "tgid");
    if (const auto known = kernel.require({ptrace, parent}); !known.has_value()) {
        return {.outcome = event::Outcome::unavailable, .reason = known.error().to_text()};
    }
    // One finding a tracer, or a tracer's program, however many it traces.
    std::map<std::uint32_t, std::set<std::string>> traced;
    std::set<std::string> programs;
    event::CheckReport report = judge_tasks(
        snapshot, Among::threads,
        [&](const event::Task& task, event::CheckReport&) -> Result<void> {
            const GuestVirt at{task.address};
            if (TRY(kernel.read(at, ptrace)) == 0) return {};
            const GuestVirt by = TRY(kernel.read_pointer(at, parent));
            auto& names = traced[static_cast<std::uint32_t>(TRY(kernel.read(by, tgid)))];
            if (names.size() < kMaxNames) names.insert(task.comm);
            return {};
        });
    for (const auto& [pid, names] : traced) {
        const event::Task* tracer = snapshot.process(pid);
        if (tracer == nullptr) {
            add_gap(report, fmt::format("the tracer, pid {}, is in no list", pid));
            continue;
        }
        if (!tracer->exe.available()) {
            add_gap(report, fmt::format("the tracer, {} (pid {}): {}", tracer->comm, pid,
                                        tracer->exe.reason()));
            continue;
        }
        const std::string& exe = tracer->exe.value();
        const bool dropped = is_dropped(exe);
        if (!dropped && !programs.insert(exe).second) continue;
        event::Finding finding = dropped ? about_process(kByDropped, *tracer, snapshot)
                                         : about_program(kTraced, exe, *tracer, snapshot);
        finding.evidence.push_back({"traces", fmt::format("{}", fmt::join(names, ", ")), 0, {}});
        add_finding(report, std::move(finding));
    }
    return report;
}

}  // namespace underseer::detect::tracing
