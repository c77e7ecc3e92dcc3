#include "detect/process_code/process_code.h"

#include <fmt/format.h>

#include <map>
#include <set>

#include "detect/process_report.h"

namespace underseer::detect::process_code {

namespace {

using guest_linux::AlteredPage;
using guest_linux::CodeArea;

constexpr std::string_view kElf(
    "\x7f"
    "ELF");
constexpr std::size_t kInstructions = 3;

constexpr std::string_view kSave =
    "Save its memory before it is ended (underseer dump): what was put in is nowhere else. Who "
    "could write there: its own user, root, a debugger (underseer ps, tree)?";

constexpr Rule kRules[] = {
    {.id = "altered_program_code",
     .title = "Code of a program that differs from its file",
     .severity = event::Severity::high,
     .confidence = 85,
     .technique = "T1055",
     .subject_kind = "process",
     .reads =
         "Each page of a process that can be executed and belongs to a file, against that "
         "file's page in the guest's own page cache: a page that the process has its own copy "
         "of must have the same bytes. The code that the kernel gives to each process (the vDSO) "
         "is compared with the kernel's.",
     .misses =
         "A file that was altered itself, pages that are not in memory, and code that was put "
         "elsewhere.",
     .benign = "Programs with relocations in their code (DT_TEXTREL), and some that patch "
               "themselves for their CPU.",
     .advice = kSave},
    {.id = "program_in_memory",
     .title = "Program or library in memory that no file is behind",
     .severity = event::Severity::high,
     .confidence = 80,
     .technique = "T1620",
     .subject_kind = "process",
     .reads = "The first bytes of each executable mapping without a file: those of an ELF image.",
     .misses = "An image whose header was wiped.",
     .benign = "Some packers of programs, and runtimes that load libraries from an archive.",
     .advice = kSave},
    {.id = "breakpoints_in_program",
     .title = "Breakpoints in the code of a program",
     .severity = event::Severity::informational,
     .confidence = 90,
     .technique = "T1055.008",
     .subject_kind = "file",
     .reads = "As altered_program_code, where all that differs are one-byte breakpoints; one "
              "finding for each file, whichever processes run it.",
     .misses = "As altered_program_code, and those of a process that is traced: see "
               "traced_process.",
     .benign = "Uprobes of perf, bpftrace and the like, and what a debugger has left.",
     .advice = "Is somebody debugging or tracing in this instance?"},
    {.id = "writable_program_code",
     .title = "Program with memory that is writable and executable",
     .severity = event::Severity::informational,
     .confidence = 60,
     .technique = "T1055",
     .subject_kind = "file",
     .reads = "Mappings of each process that are writable and executable, with pages in them.",
     .misses = "Memory that is made executable only after it was written.",
     .benign = "Runtimes that compile while they run: Java, JavaScript, .NET, regular expressions.",
     .advice = "Does this program compile code while it runs?"},
};
enum : std::size_t { kAltered, kInMemory, kBreakpoints, kWritable };

// What shows it, about `finding`.
event::Finding with_page(event::Finding finding, const CodeArea& area, const AlteredPage& page) {
    guest_linux::Disassembler disassembler;
    const auto shown = [&](const char* name, const std::string& bytes) {
        return event::Evidence{name, disassembler.text(as_bytes(bytes), page.at, kInstructions),
                               page.at.value, bytes};
    };
    finding.evidence.push_back(
        {"mapped from",
         fmt::format("{} + {:#x}", area.area.path,
                     area.area.offset_bytes + (page.at.value - area.area.begin)),
         0,
         {}});
    finding.evidence.push_back(shown("in the file", page.before));
    finding.evidence.push_back(shown("in memory", page.after));
    return finding;
}

// `with_breakpoints`: files of which that was told; null where it need not be.
void judge_area(const event::Task& process, const CodeArea& area, Snapshot& snapshot,
                std::set<std::string>* with_breakpoints, event::CheckReport& report) {
    for (const AlteredPage& page : area.altered) {
        if (page.only_breakpoints) {
            const std::string& file = area.area.path;
            if (with_breakpoints == nullptr || !with_breakpoints->insert(file).second) continue;
            add_finding(report,
                        with_page(about_program(kRules[kBreakpoints], file, process, snapshot),
                                  area, page));
        } else {
            event::Finding finding = about_process(kRules[kAltered], process, snapshot);
            finding.key += fmt::format(":{:x}", page.at.value);
            add_finding(report, with_page(std::move(finding), area, page));
        }
    }
    if (area.head.starts_with(kElf)) {
        event::Finding finding = about_process(kRules[kInMemory], process, snapshot);
        finding.key += fmt::format(":{:x}", area.area.begin);
        finding.evidence.push_back(
            {"mapping",
             fmt::format("{} KiB, {} {}", (area.area.end - area.area.begin) >> 10,
                         area.area.permissions, area.area.path),
             area.area.begin, area.head});
        add_finding(report, std::move(finding));
    }
}

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    std::map<std::string, const event::Task*> writable;  // by program: one finding each
    std::set<std::string> with_breakpoints;
    const auto ptrace = snapshot.kernel().field("task_struct", "ptrace");
    std::uint64_t unknown = 0;
    event::CheckReport report = judge_tasks(
        snapshot, Among::processes,
        [&](const event::Task& process, event::CheckReport& found) -> Result<void> {
            if (!has_program(process) || !snapshot.concerns(process)) return {};
            const auto areas =
                TRY(snapshot.guest().user_code(GuestVirt{process.address}, process.pid));
            if (areas.unreadable > 0) {
                add_gap(found, fmt::format("{} (pid {}): {}", process.comm, process.pid,
                                           areas.first_error));
            }
            // Where that is not known, they are told.
            const bool is_traced = ptrace.known() && TRY(snapshot.kernel().read(
                                                         GuestVirt{process.address}, ptrace)) != 0;
            for (const CodeArea& area : areas.items) {
                unknown += area.unknown;
                judge_area(process, area, snapshot, is_traced ? nullptr : &with_breakpoints, found);
                const bool writes = area.area.permissions.find('w') != std::string::npos;
                if (writes && area.pages > 0 && process.exe.available()) {
                    writable.try_emplace(process.exe.value(), &process);
                }
            }
            return {};
        });
    if (unknown > 0) {
        add_gap(report, fmt::format("{} pages of code are copies of pages that are not in memory",
                                    unknown));
    }
    // Not beside a doubt, which they would cover.
    if (report.outcome == event::Outcome::unavailable) return report;
    for (const auto& [exe, process] : writable) {
        event::Finding finding = kRules[kWritable].about(exe, exe);
        finding.evidence = {
            {"process", fmt::format("{} (pid {})", process->comm, process->pid), 0, {}}};
        add_finding(report, std::move(finding));
    }
    return report;
}

}  // namespace underseer::detect::process_code
