#include "detect/container_escape/container_escape.h"

#include <fmt/format.h>

#include "detect/process_report.h"

namespace underseer::detect::container_escape {

namespace {

constexpr std::uint32_t kInit = 1;

constexpr Rule kRules[] = {
    {.id = "container_escape",
     .title = "Process of a container with the file systems of its host",
     .severity = event::Severity::high,
     .confidence = 80,
     .technique = "T1611",
     .subject_kind = "process",
     .reads = "The container that each process's cgroup names, and its mount namespace: that of "
              "the guest's init, which no container shares.",
     .misses = "An escape into another container, one whose process has left the cgroup too, and a "
               "host's directory that was mounted into the container. A process that is younger "
               "than half a minute may still be on its way in.",
     .benign = "A runtime's monitor that stays outside (conmon) is known by its cgroup.",
     .advice = "Take the container as a way into this guest: stop it, save the guest's memory, and "
               "find out what the process did (underseer files, sockets with --pid)."},
};

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    const event::Task* init = snapshot.process(kInit);
    if (init == nullptr || !init->namespaces.available()) {
        return {.outcome = event::Outcome::unavailable,
                .reason = "the namespaces of the guest's init cannot be read"};
    }
    const std::uint32_t hosts = init->namespaces.value().mnt;
    const auto now = snapshot.kernel().wall_clock();
    if (!now.has_value()) {
        return {.outcome = event::Outcome::unavailable, .reason = now.error().to_text()};
    }
    return judge_tasks(
        snapshot, Among::processes,
        [&](const event::Task& process, event::CheckReport& report) -> Result<void> {
            if (process.kernel_thread || process.state == "Z" || process.state == "X") return {};
            if (!process.container_id.available()) {
                return fail(Code::unavailable, process.container_id.reason());
            }
            if (process.container_id.value().empty()) return {};
            if (!process.namespaces.available()) {
                return fail(Code::unavailable, process.namespaces.reason());
            }
            if (process.namespaces.value().mnt != hosts) return {};
            const std::string cgroup = process.cgroup.value_or("");
            if (cgroup.find("conmon") != std::string::npos) return {};
            if (!process.start_time.available()) {
                return fail(Code::unavailable, process.start_time.reason());
            }
            if (*now < process.start_time.value() + kContainerStartNs) return {};
            event::Finding finding = about_process(kRules[0], process, snapshot);
            finding.evidence.push_back({"cgroup", cgroup, 0, {}});
            add_finding(report, std::move(finding));
            return {};
        });
}

}  // namespace underseer::detect::container_escape
