#include "detect/helper_programs/helper_programs.h"

#include <fmt/format.h>

#include <array>

#include "detect/process_report.h"

namespace underseer::detect::helper_programs {

namespace {

constexpr Rule kRules[] = {
    {.id = "kernel_starts_foreign_program",
     .title = "The kernel is told to start a program that is none of the system's",
     .severity = event::Severity::high,
     .confidence = 85,
     .technique = "T1611",
     .subject_kind = "setting",
     .reads =
         "The names of the programs that the kernel starts itself, as root and outside of "
         "every container: for a crash (core_pattern), a module (modprobe), a device (hotplug) "
         "and to power off.",
     .misses = "A program of the system that was replaced, and one that is started through a "
               "container's cgroup (release_agent).",
     .benign = "A crash reporter that is installed outside of the system's folders.",
     .advice = "Who set it? A container that can write there can take over the instance: look what "
               "the program is (underseer files), and set it back."},
};

struct Setting {
    std::string_view symbol, name;
};
constexpr std::array kSettings{
    Setting{"core_pattern", "kernel.core_pattern"}, Setting{"modprobe_path", "kernel.modprobe"},
    Setting{"uevent_helper", "kernel.hotplug"}, Setting{"poweroff_cmd", "kernel.poweroff_cmd"}};
constexpr std::size_t kMaxTextBytes = 256;

}  // namespace

std::string_view foreign_program(std::string_view symbol, std::string_view text) {
    if (symbol == "core_pattern") {
        if (!text.starts_with('|')) return {};  // a file's name: nothing is started
        text.remove_prefix(1);
    }
    while (text.starts_with(' ')) text.remove_prefix(1);
    const std::string_view program = text.substr(0, text.find(' '));
    return is_system(program) ? std::string_view() : program;
}

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    event::CheckReport report{};
    report.outcome = event::Outcome::clean;
    guest_linux::Kernel& kernel = snapshot.kernel();
    for (const Setting& setting : kSettings) {
        const auto at = kernel.symbol(setting.symbol);
        if (!at.has_value()) {
            // Not in every configuration, but for these two.
            if (setting.symbol == "core_pattern" || setting.symbol == "modprobe_path") {
                add_gap(report, at.error().to_text());
            }
            continue;
        }
        const auto text = kernel.memory().read_cstring(*at, kMaxTextBytes);
        if (!text.has_value()) {
            ++report.coverage.unreadable;
            add_gap(report, fmt::format("{}: {}", setting.name, text.error().to_text()));
            continue;
        }
        ++report.coverage.looked_at;
        const std::string_view program = foreign_program(setting.symbol, *text);
        if (program.empty()) continue;
        event::Finding finding = kRules[0].about(fmt::format("{} = {}", setting.name, *text),
                                                 fmt::format("{}:{}", setting.name, *text));
        finding.evidence = {{"program", std::string(program), 0, {}},
                            {"written at", "", at->value, {}}};
        add_finding(report, std::move(finding));
    }
    if (report.coverage.looked_at == 0) {
        report.outcome = event::Outcome::unavailable;
        report.reason = report.coverage.gaps.empty() ? "there was nothing to look at"
                                                     : report.coverage.gaps.front();
    }
    return report;
}

}  // namespace underseer::detect::helper_programs
