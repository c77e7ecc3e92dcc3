#include "detect/process_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/limits.h"

namespace underseer::detect {

namespace {

constexpr std::string_view kDeleted = " (deleted)";
constexpr std::array<std::string_view, 5> kScratch{"/tmp/", "/var/tmp/", "/dev/", "/run/",
                                                   "/proc/"};
constexpr std::array<std::string_view, 9> kSystem{"/usr/", "/bin/",  "/sbin/", "/lib/", "/lib64/",
                                                  "/opt/", "/snap/", "/nix/",  "/etc/"};

bool begins_with_any(std::string_view path, std::span<const std::string_view> folders) {
    return std::ranges::any_of(folders,
                               [&](std::string_view folder) { return path.starts_with(folder); });
}

std::string text_of(const event::Observed<std::vector<std::string>>& words) {
    if (!words.available()) return words.reason();
    std::string text;
    for (const std::string& word : words.value()) {
        if (!text.empty()) text += ' ';
        text += word;
        if (text.size() > limits::kMaxEvidenceTextBytes) {
            text.resize(limits::kMaxEvidenceTextBytes);
            return text + " ..";
        }
    }
    return text;
}

std::string user_of(const event::Task& process) {
    if (!process.credentials.available()) return process.credentials.reason();
    const event::Credentials& c = process.credentials.value();
    if (c.uid == c.euid) return fmt::format("uid {}", c.uid);
    return fmt::format("uid {}, effective {}", c.uid, c.euid);
}

std::string parent_of(const event::Task& process, Snapshot& snapshot) {
    if (!process.ppid.available()) return process.ppid.reason();
    const std::uint32_t pid = process.ppid.value();
    const event::Task* parent = snapshot.process(pid);
    return fmt::format("{} (pid {})", parent == nullptr ? "?" : parent->comm, pid);
}

}  // namespace

event::Finding about_process(const Rule& rule, const event::Task& process, Snapshot& snapshot) {
    event::Finding finding = rule.about(fmt::format("{} (pid {})", process.comm, process.pid),
                                        fmt::format("{}:{:x}", process.pid, process.address));
    finding.pid = process.pid;
    finding.evidence = {
        {"exe", process.exe.available() ? process.exe.value() : process.exe.reason(), 0, {}},
        {"command line", text_of(process.argv), 0, {}},
        {"user", user_of(process), 0, {}},
        {"parent", parent_of(process, snapshot), 0, {}},
    };
    const std::string container = process.container_id.value_or("");
    if (!container.empty()) finding.evidence.push_back({"container", container, 0, {}});
    return finding;
}

event::Finding about_program(const Rule& rule, const std::string& file, const event::Task& process,
                             Snapshot& snapshot) {
    event::Finding finding = about_process(rule, process, snapshot);
    if (file.empty()) return finding;
    finding.evidence.insert(finding.evidence.begin(), {"process", finding.subject, 0, {}});
    finding.subject = finding.key = file;
    return finding;
}

event::CheckReport judge_tasks(
    Snapshot& snapshot, Among among,
    const std::function<Result<void>(const event::Task&, event::CheckReport&)>& judge) {
    event::CheckReport report{.outcome = event::Outcome::clean};
    const auto& tasks = snapshot.tasks();
    report.coverage.unreadable = tasks.unreadable;
    if (tasks.unreadable > 0) add_gap(report, tasks.first_error);
    std::string doubt;
    for (const event::Task& task : tasks.items) {
        if (among == Among::processes && !task.is_process()) continue;
        ++report.coverage.looked_at;
        const auto judged = judge(task, report);
        if (judged.has_value()) continue;
        ++report.coverage.unreadable;
        const std::string text =
            fmt::format("{} (pid {}): {}", task.comm, task.pid, judged.error().to_text());
        add_gap(report, text);
        // No honest process is too much to be looked at.
        if (judged.error().code == Code::limit) doubt = text;
    }
    settle_doubt(report, doubt);
    if (report.coverage.looked_at == 0) {
        report.outcome = event::Outcome::unavailable;
        report.reason = "no task of the guest could be read";
    }
    return report;
}

std::string_view without_deleted(std::string_view path) {
    if (is_deleted(path)) path.remove_suffix(kDeleted.size());
    return path;
}

std::string_view base_name(std::string_view path) {
    return path.substr(path.rfind('/') + 1);
}

bool is_scratch(std::string_view path) {
    return begins_with_any(path, kScratch);
}

bool is_system(std::string_view path) {
    return begins_with_any(path, kSystem);
}

bool is_dropped(std::string_view exe) {
    return is_scratch(exe) || exe.starts_with(kMemfd) || (is_deleted(exe) && !is_system(exe));
}

}  // namespace underseer::detect
