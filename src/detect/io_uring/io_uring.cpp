#include "detect/io_uring/io_uring.h"

#include <fmt/format.h>

#include <map>

#include "detect/process_report.h"

namespace underseer::detect::io_uring {

namespace {

constexpr Rule kRules[] = {
    {.id = "dropped_program_uses_io_uring",
     .title = "A dropped program does its input and output by io_uring",
     .severity = event::Severity::medium,
     .confidence = 65,
     .technique = "T1562",
     .subject_kind = "process",
     .reads = "The io_uring state of every thread (task_struct.io_uring and the rings in it), and "
              "the program's file: in /tmp, /var/tmp, /dev or /run, deleted, or in memory only. "
              "What such a ring does is no system call, and tools that watch system calls miss it.",
     .misses = "A ring that was set up and closed again between two looks.",
     .benign = "A program that was built anew while it ran.",
     .advice = "Its files and connections are there all the same: underseer files and sockets with "
               "--pid."},
    {.id = "io_uring_in_use",
     .title = "A program does its input and output by io_uring",
     .severity = event::Severity::informational,
     .confidence = 95,
     .technique = "T1562",
     .subject_kind = "file",
     .reads = "As dropped_program_uses_io_uring, whatever the file.",
     .misses = "As dropped_program_uses_io_uring.",
     .benign = "Databases, web servers and runtimes use it for speed.",
     .advice = "Tools inside the guest that watch system calls do not see what it does."},
};
constexpr const Rule& kDropped = kRules[0];
constexpr const Rule& kInUse = kRules[1];

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    guest_linux::Kernel& kernel = snapshot.kernel();
    const auto state = kernel.field("task_struct", "io_uring");
    // io_uring_task.xa holds the rings (io_uring/tctx.c).
    const auto rings = kernel.field("io_uring_task", "xa.xa_head");
    if (const auto known = kernel.require({state, rings}); !known.has_value()) {
        return {.outcome = event::Outcome::unavailable, .reason = known.error().to_text()};
    }
    std::map<std::uint32_t, const event::Task*> users;  // by process
    event::CheckReport report = judge_tasks(
        snapshot, Among::threads,
        [&](const event::Task& task, event::CheckReport&) -> Result<void> {
            const GuestVirt tctx = TRY(kernel.read_pointer(GuestVirt{task.address}, state));
            if (!tctx || !TRY(kernel.read_pointer(tctx, rings))) return {};
            const event::Task* process = snapshot.process(task.tgid);
            users.try_emplace(task.tgid, process == nullptr ? &task : process);
            return {};
        });
    std::map<std::string, const event::Task*> programs;  // one finding each
    for (const auto& [pid, process] : users) {
        if (!process->exe.available()) {
            add_gap(report,
                    fmt::format("{} (pid {}): {}", process->comm, pid, process->exe.reason()));
            continue;
        }
        const std::string& exe = process->exe.value();
        if (is_dropped(exe)) {
            add_finding(report, about_process(kDropped, *process, snapshot));
        } else {
            programs.try_emplace(exe, process);
        }
    }
    for (const auto& [exe, process] : programs) {
        event::Finding finding = kInUse.about(exe, exe);
        finding.evidence = {{"process", process->comm, 0, {}}};
        add_finding(report, std::move(finding));
    }
    return report;
}

}  // namespace underseer::detect::io_uring
