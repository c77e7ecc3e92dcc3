#include "detect/program_files/program_files.h"

#include "detect/process_report.h"

namespace underseer::detect::program_files {

namespace {

// runc runs a copy of itself until the container's program takes its place
// (libcontainer/dmz/cloned_binary_linux.go).
constexpr std::string_view kRuncCopy = "/memfd:runc_cloned:";

constexpr Rule kRules[] = {
    {.id = "memory_only_program",
     .title = "Program that was never a file",
     .severity = event::Severity::high,
     .confidence = 85,
     .technique = "T1620",
     .subject_kind = "process",
     .reads = "The file that each process runs: one that memfd_create() made is in no file system.",
     .misses = "A program whose memory was replaced after it had been started from a file, and one "
               "that calls itself runc's copy and is started anew twice a minute.",
     .benign = "runc runs such a copy of itself for the moment in which a container starts: in its "
               "first half minute it is not told.",
     .advice = "Save its memory before it is ended: the program is nowhere else (underseer dump; "
               "underseer maps, files and sockets with --pid)."},
    {.id = "deleted_program",
     .title = "Program whose file was deleted",
     .severity = event::Severity::medium,
     .confidence = 70,
     .technique = "T1070.004",
     .subject_kind = "process",
     .reads = "The file that each process runs: it is in no folder any more, and it was in none of "
              "the system's.",
     .misses = "A program that overwrites its file.",
     .benign = "A program that was built anew while it ran.",
     .advice = "The guest still holds the file: /proc/PID/exe inside, or underseer dump. Look at "
               "what the process holds open (underseer files, sockets with --pid)."},
    {.id = "replaced_program",
     .title = "Program that runs on after its file was replaced",
     .severity = event::Severity::informational,
     .confidence = 50,
     .technique = "T1070.004",
     .subject_kind = "process",
     .reads = "As deleted_program, for files in the system's folders.",
     .misses = "As deleted_program.",
     .benign = "An upgrade replaces the file of a service that is not started again.",
     .advice = "Start the service again, for the upgrade to hold."},
};
constexpr const Rule& kMemoryOnly = kRules[0];
constexpr const Rule& kDeletedProgram = kRules[1];
constexpr const Rule& kReplaced = kRules[2];

Result<bool> starts_a_container(const event::Task& process, std::string_view exe,
                                Snapshot& snapshot) {
    if (!exe.starts_with(kRuncCopy)) return false;
    if (!process.start_time.available()) {
        return fail(Code::unavailable, process.start_time.reason());
    }
    const std::uint64_t now = TRY(snapshot.kernel().wall_clock());
    return now < process.start_time.value() + kContainerStartNs;
}

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    return judge_tasks(
        snapshot, Among::processes,
        [&](const event::Task& process, event::CheckReport& report) -> Result<void> {
            if (!process.exe.available()) return fail(Code::unavailable, process.exe.reason());
            const std::string& exe = process.exe.value();
            if (exe.starts_with(kMemfd)) {
                if (TRY(starts_a_container(process, exe, snapshot))) return {};
                add_finding(report, about_process(kMemoryOnly, process, snapshot));
            } else if (is_deleted(exe)) {
                add_finding(report, about_process(is_system(exe) ? kReplaced : kDeletedProgram,
                                                  process, snapshot));
            }
            return {};
        });
}

}  // namespace underseer::detect::program_files
