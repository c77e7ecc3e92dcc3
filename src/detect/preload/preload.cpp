#include "detect/preload/preload.h"

#include <fmt/format.h>

#include <array>
#include <map>

#include "detect/process_report.h"

namespace underseer::detect::preload {

namespace {

constexpr std::size_t kMaxLibraries = 100;  // of one guest
constexpr std::array<std::string_view, 2> kVariables{"LD_PRELOAD=", "LD_AUDIT="};

constexpr Rule kRules[] = {
    {.id = "preloaded_foreign_library",
     .title = "Library from outside of the system is forced into programs",
     .severity = event::Severity::medium,
     .confidence = 70,
     .technique = "T1574.006",
     .subject_kind = "file",
     .reads = "LD_PRELOAD and LD_AUDIT in the environment that each process was started with, and "
              "/etc/ld.so.preload as the guest has it in memory: a path that is in none of the "
              "system's folders.",
     .misses = "A process that has written over its environment, the ld.so.preload of containers, "
               "and programs that are linked statically.",
     .benign = "Developers' tools that bring their own library (profilers, sanitizers, fakeroot).",
     .advice = "Look at the library: who wrote it, and what does it replace? Processes that run "
               "with it see what it lets them see."},
    {.id = "preloaded_library",
     .title = "Library is forced into programs",
     .severity = event::Severity::informational,
     .confidence = 90,
     .technique = "T1574.006",
     .subject_kind = "file",
     .reads =
         "As preloaded_foreign_library, for the system's folders and for names without a path.",
     .misses = "As preloaded_foreign_library.",
     .benign = "eatmydata, faketime, jemalloc, stdbuf.",
     .advice = "Is this library meant to be in these processes?"},
};
constexpr const Rule& kForeign = kRules[0];
constexpr const Rule& kPreloaded = kRules[1];

// Of "LD_PRELOAD=/a.so:/b.so c.so" (ld.so(8): separated by spaces, colons or lines).
template <typename Use>
void for_each_library(std::string_view list, Use&& use) {
    while (!list.empty()) {
        const std::size_t end = std::min(list.find_first_of(" :\t\n"), list.size());
        if (end > 0) use(list.substr(0, end));
        list.remove_prefix(std::min(end + 1, list.size()));
    }
}

// As ld.so takes them out of its file: from # to the end of the line.
std::string without_comments(std::string text) {
    for (std::size_t at = text.find('#'); at != std::string::npos; at = text.find('#', at)) {
        const std::size_t end = std::min(text.find('\n', at), text.size());
        text.replace(at, end - at, 1, ' ');
    }
    return text;
}

struct Use {
    const event::Task* first = nullptr;  // null: every program
    std::string variable;
};

// ld.so(8): what every program that is linked dynamically loads first.
constexpr std::string_view kSystemWide = "/etc/ld.so.preload";
constexpr std::size_t kMaxFileBytes = 64u << 10;

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    // One finding a library, however many processes have it.
    std::map<std::string, Use> libraries;
    event::CheckReport report = judge_tasks(
        snapshot, Among::processes,
        [&](const event::Task& process, event::CheckReport& gaps) -> Result<void> {
            if (!has_program(process)) return {};
            const auto read = TRY(
                snapshot.guest().task(GuestVirt{process.address},
                                      {.user_memory = false, .environment = true, .paths = false}));
            if (!read.environment.available()) {
                return fail(Code::unavailable, read.environment.reason());
            }
            for (const std::string& word : read.environment.value()) {
                for (const std::string_view variable : kVariables) {
                    if (!word.starts_with(variable)) continue;
                    for_each_library(std::string_view(word).substr(variable.size()),
                                     [&](std::string_view library) {
                                         if (libraries.size() >= kMaxLibraries) {
                                             return add_gap(gaps, "more libraries than are told");
                                         }
                                         libraries.try_emplace(
                                             std::string(library),
                                             Use{&process, std::string(variable.substr(
                                                               0, variable.size() - 1))});
                                     });
                }
            }
            return {};
        });
    const auto file = snapshot.guest().cached_file(kSystemWide, kMaxFileBytes);
    if (!file.has_value()) add_gap(report, file.error().to_text());
    if (file.has_value() && *file) {
        for_each_library(without_comments(**file), [&](std::string_view library) {
            if (libraries.size() >= kMaxLibraries) {
                return add_gap(report, "more libraries than are told");
            }
            libraries.insert_or_assign(std::string(library),
                                       Use{nullptr, std::string(kSystemWide)});
        });
    }
    for (const auto& [library, use] : libraries) {
        const bool foreign = library.find('/') != std::string::npos && !is_system(library);
        event::Finding finding = (foreign ? kForeign : kPreloaded).about(library, library);
        finding.evidence = {{"named in", use.variable, 0, {}}};
        if (use.first == nullptr) {
            finding.evidence.push_back({"loaded by", "every program", 0, {}});
        } else {
            finding.evidence.push_back(
                {"of", fmt::format("{} (pid {})", use.first->comm, use.first->pid), 0, {}});
            finding.evidence.push_back({"which runs", use.first->exe.value_or(""), 0, {}});
        }
        add_finding(report, std::move(finding));
    }
    return report;
}

}  // namespace underseer::detect::preload
