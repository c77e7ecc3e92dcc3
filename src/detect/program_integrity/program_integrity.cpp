#include "detect/program_integrity/program_integrity.h"

#include <fmt/format.h>

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "base/counted.h"
#include "base/limits.h"
#include "detect/process_report.h"

namespace underseer::detect::program_integrity {

namespace {

using guest_linux::KnownPrograms;
using guest_linux::ProgramComparison;

constexpr std::size_t kShownProcesses = 5, kShownPages = 8;

constexpr Rule kRules[] = {
    {.id = "program_unlike_package",
     .title = "Program or library that is not as its package has it",
     .severity = event::Severity::high,
     .confidence = 90,
     .technique = "T1554",
     .subject_kind = "file",
     .reads =
         "Each file that a process has mapped to be executed, once: by its build id the file of a "
         "package that is known (underseer baseline make, or check --baseline), and of that all "
         "pages that are loaded, code and data, by their SHA-256 against those in the guest's page "
         "cache, which are what every process of that program executes. A page that is mapped to "
         "be executed and that the package's file does not load is told too.",
     .misses =
         "Pages that are not in memory, which nobody executes meanwhile; programs of packages that "
         "are not known; scripts, and what interpreters load. Who gives a changed file another "
         "build id is told by program_not_of_package only, and under another path not at all. What "
         "a process has changed in its own copy of a page is told by process_code.",
     .benign = "A program that was built again with other options and has kept its build id, or "
               "that prelink or patchelf has changed.",
     .advice =
         "Take the file out of the guest's disk and compare it with the package's (cmp -l; dpkg "
         "--verify asks files that an intruder can write to): at the offsets that are told they "
         "differ, or the page cache alone was written to. Who could write there? Save the guest's "
         "memory first (underseer act VM capture)."},
    {.id = "program_not_of_package",
     .title = "Program where a known package has another one",
     .severity = event::Severity::informational,
     .confidence = 50,
     .technique = "T1554",
     .subject_kind = "file",
     .reads = "The path of each file that a process outside of containers executes, and that is "
              "not deleted: where a known package has a file of that path, it should have one of "
              "the build ids that are known for it.",
     .misses = "A program under a path that no known package has.",
     .benign = "Another version of the package than those that are known: guests are updated. A "
               "file system that is mounted below a folder of another name.",
     .advice = "If the guest runs another version, make a baseline of that one too (underseer "
               "baseline make); if the finding stays, the file is not that package's. One that has "
               "nearly all pages as the package has them and is no other version was changed."},
};
enum : std::size_t { kUnlike, kNotOf };

// A file that is executed, by whomever.
struct Executed {
    std::string path;
    std::vector<const event::Task*> processes;  // few of many
    std::uint64_t process_count = 0;
    bool outside_containers = false;
    // In pages of the file: from, and behind the last.
    std::set<std::pair<std::uint64_t, std::uint64_t>> mapped;
};
using Files = std::map<std::uint64_t, Executed>;  // by struct address_space

bool in_container(const event::Task& process) {
    return process.container_id.available() && !process.container_id.value().empty();
}

Result<void> add_files(const event::Task& process, Snapshot& snapshot, Files& files,
                       event::CheckReport& report) {
    const auto areas = TRY(snapshot.guest().mapped_files(GuestVirt{process.address}, process.pid));
    if (areas.unreadable > 0) {
        add_gap(report,
                fmt::format("{} (pid {}): {}", process.comm, process.pid, areas.first_error));
    }
    for (const auto& [area, mapping] : areas.items) {
        if (!mapping || area.permissions.find('x') == std::string::npos) continue;
        if (files.size() >= limits::kMaxExecutedFiles && !files.contains(mapping.value)) {
            return fail(Code::limit, fmt::format("processes execute more than {} files",
                                                 limits::kMaxExecutedFiles));
        }
        Executed& file = files[mapping.value];
        if (file.path.empty()) file.path = area.path;
        if (file.processes.empty() || file.processes.back() != &process) ++file.process_count;
        if (file.processes.size() < kShownProcesses &&
            (file.processes.empty() || file.processes.back() != &process)) {
            file.processes.push_back(&process);
        }
        file.outside_containers |= !in_container(process);
        const std::uint64_t first = area.offset_bytes / kPageSize;
        if (file.mapped.size() < limits::kMaxElfSegments) {
            file.mapped.emplace(first, first + (area.end - area.begin) / kPageSize);
        }
    }
    return {};
}

event::Finding about_file(const Rule& rule, const Executed& file) {
    event::Finding finding = rule.about(file.path, file.path);
    std::string processes;
    for (const event::Task* process : file.processes) {
        if (!processes.empty()) processes += ", ";
        processes += fmt::format("{} (pid {})", process->comm, process->pid);
    }
    if (file.process_count > file.processes.size()) {
        processes += fmt::format(" and {} more", file.process_count - file.processes.size());
    }
    finding.pid = file.processes.front()->pid;
    finding.evidence = {{"executed by", std::move(processes), 0, {}}};
    return finding;
}

std::string pages_text(const std::vector<std::uint64_t>& pages, std::uint64_t count) {
    std::string text;
    for (std::size_t i = 0; i < pages.size() && i < kShownPages; ++i) {
        text += fmt::format("{}{:#x}", i == 0 ? "" : ", ", pages[i] * kPageSize);
    }
    return count > kShownPages ? text + " .." : text;
}

// Of a file whose build id is known: pages that are executed though it does not load them.
Result<std::vector<std::uint64_t>> foreign_pages(Snapshot& snapshot, KnownPrograms& known,
                                                 GuestVirt mapping, const Executed& file,
                                                 const std::string& build_id) {
    std::vector<std::uint64_t> foreign;
    guest_linux::PageCache cache(&snapshot.kernel());
    for (const auto& [first, end] : file.mapped) {
        const auto pages = TRY(cache.pages_of(mapping, first, end));
        for (const guest_linux::FileRun& run : pages.runs) {
            for (std::uint64_t i = 0; i < run.pages && foreign.size() < kShownPages; ++i) {
                if (!known.loads(build_id, run.index + i)) foreign.push_back(run.index + i);
            }
        }
    }
    return foreign;
}

// What of the files could not be compared.
struct Uncompared {
    std::uint64_t unknown = 0;
};

Result<void> judge_file(Snapshot& snapshot, KnownPrograms& known, GuestVirt mapping,
                        const Executed& file, std::uint64_t& budget, Uncompared& uncompared,
                        event::CheckReport& report) {
    guest_linux::Kernel& kernel = snapshot.kernel();
    const bool is_at_path =
        file.outside_containers && !is_deleted(file.path) && known.has_path(file.path);
    const auto build_id = TRY(known.build_id_of(kernel, mapping));
    if (!build_id) {
        // It may be one of those that are known, or not.
        if (is_at_path) return fail(Code::unavailable, "its beginning is not in memory");
        ++uncompared.unknown;
        return {};
    }
    if (const auto found = TRY(known.compare(kernel, mapping, *build_id, budget))) {
        const auto foreign = TRY(foreign_pages(snapshot, known, mapping, file, *build_id));
        if (found->unlike_count == 0 && foreign.empty()) return {};
        event::Finding finding = about_file(kRules[kUnlike], file);
        finding.evidence.push_back(
            {"package",
             fmt::format("{}: {} (build id {})", found->package, found->path, *build_id),
             0,
             {}});
        if (found->unlike_count > 0) {
            finding.evidence.push_back(
                {"pages unlike",
                 fmt::format("{} of {} in memory, at {} of the file", found->unlike_count,
                             found->compared, pages_text(found->unlike, found->unlike_count)),
                 0,
                 {}});
        }
        if (!foreign.empty()) {
            finding.evidence.push_back({"not loaded",
                                        fmt::format("by the package's file: what is executed at {}",
                                                    pages_text(foreign, foreign.size())),
                                        0,
                                        {}});
        }
        add_finding(report, std::move(finding));
        return {};
    }
    if (!is_at_path) {
        ++uncompared.unknown;
        return {};
    }
    const auto nearest = TRY(known.compare_with_path(kernel, mapping, file.path, budget));
    event::Finding finding = about_file(kRules[kNotOf], file);
    finding.evidence.push_back({"build id", build_id->empty() ? "none" : *build_id, 0, {}});
    if (nearest) {
        finding.evidence.push_back(
            {"known here",
             fmt::format("{}: {} of {} pages in memory are as that has them", nearest->package,
                         nearest->compared - nearest->unlike_count, nearest->compared),
             0,
             {}});
    }
    add_finding(report, std::move(finding));
    return {};
}

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    KnownPrograms* known = snapshot.guest().known_programs();
    if (known == nullptr || known->empty()) {
        event::CheckReport report{.outcome = event::Outcome::unavailable};
        report.reason =
            "nobody has told what the programs of packages are: underseer baseline "
            "make PACKAGE.. (or check --baseline PACKAGE)";
        return report;
    }
    Files files;
    event::CheckReport report =
        judge_tasks(snapshot, Among::processes,
                    [&](const event::Task& process, event::CheckReport& found) -> Result<void> {
                        if (!has_program(process)) return {};
                        return add_files(process, snapshot, files, found);
                    });
    if (report.outcome == event::Outcome::unavailable) return report;
    std::uint64_t budget = limits::kMaxProgramPages;
    Uncompared uncompared;
    std::string doubt, trouble;
    std::uint64_t failed = 0;
    for (const auto& [mapping, file] : files) {
        const auto judged =
            judge_file(snapshot, *known, GuestVirt{mapping}, file, budget, uncompared, report);
        if (judged.has_value()) continue;
        const std::string text = fmt::format("{}: {}", file.path, judged.error().to_text());
        add_gap(report, text);
        ++failed;
        trouble = text;
        // No honest program is too much to be looked at.
        if (judged.error().code == Code::limit) doubt = text;
    }
    if (uncompared.unknown > 0) {
        add_limit(report, fmt::format("{} of {} that are executed are of no package that is known",
                                      uncompared.unknown, counted(files.size(), "file")));
    }
    // Where nothing can be compared, nothing is clean.
    if (doubt.empty() && failed == files.size()) doubt = trouble;
    settle_doubt(report, doubt);
    return report;
}

}  // namespace underseer::detect::program_integrity
