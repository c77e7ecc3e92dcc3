// What the checks of processes have in common.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "detect/confirmed_check.h"

namespace underseer::detect {

// A finding about a process, with what tells it apart and what a person asks first: program,
// command line, user, parent, container.
event::Finding about_process(const Rule& rule, const event::Task& process, Snapshot& snapshot);

// The same about what a program does, whichever of its processes: one finding for all of them, that
// of `file` (with its path).
event::Finding about_program(const Rule& rule, const std::string& file, const event::Task& process,
                             Snapshot& snapshot);

// Whether it runs a program: not so a kernel thread, and a process that has ended.
inline bool has_program(const event::Task& process) {
    return !process.kernel_thread && process.state != "Z" && process.state != "X";
}

enum class Among : std::uint8_t { processes, threads };

// Calls `judge` with every process, or every thread of each, and counts it as looked at. Outcome
// `unavailable` when none can be read. An error of `judge` is a gap: "comm (pid N): error".
event::CheckReport judge_tasks(
    Snapshot& snapshot, Among among,
    const std::function<Result<void>(const event::Task& task, event::CheckReport& report)>& judge);

// "/usr/sbin/cron", of "/usr/sbin/cron (deleted)".
std::string_view without_deleted(std::string_view path);
inline bool is_deleted(std::string_view path) {
    return path.ends_with(" (deleted)");
}
std::string_view base_name(std::string_view path);
// A container's runtime poses as it for a moment: in another cgroup, from a program in memory only.
// On a busy host that takes a while.
inline constexpr std::uint64_t kContainerStartNs = 30ull * 1'000'000'000;

// How the kernel names the file behind memfd_create() (mm/memfd.c).
inline constexpr std::string_view kMemfd = "/memfd:";
// Where every user of a system may put files, or where only memory is behind them.
bool is_scratch(std::string_view path);
// Where distributions put programs and libraries, and only root may.
bool is_system(std::string_view path);
// Of a program: in a scratch folder, in memory only, or deleted and in none of the system's
// folders.
bool is_dropped(std::string_view exe);

}  // namespace underseer::detect
