#include "detect/hidden_runner/hidden_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "detect/code_report.h"
#include "detect/moment_text.h"

namespace underseer::detect {

namespace {

using guest_linux::kAllTaskViews;
using guest_linux::RunningTask;
using guest_linux::TaskView;
using std::chrono::system_clock;

// More tasks than any guest runs in the time of one report are not remembered one by one.
constexpr std::size_t kMaxKnown = 1u << 16;
constexpr std::size_t kMaxRunners = 64;
// Who was in all lists is asked again after this: it may have been hidden since.
constexpr std::chrono::milliseconds kHolds{50};
// Who was not seen running for so long is no suspect any more.
constexpr std::chrono::seconds kForgets{30};

constexpr Rule kRules[] = {
    {.id = "hidden_process_ran",
     .title = "Process that ran and that not all of the kernel's lists show",
     .severity = event::Severity::critical,
     .confidence = 95,
     .technique = "T1014",
     .subject_kind = "process",
     .reads = "What each CPU runs, some hundred times a second (as the policy says), and whether "
              "that task is linked into the lists of tasks, threads, children and its cgroup, and "
              "has its number: in each of three samples, with time on a CPU in between.",
     .misses = "A process that ran for less than some 20 ms, or never when it was looked at; one "
               "that is in a copy of a list (see hidden_process).",
     .benign =
         "None known on the kernels that the tests boot. The kernel takes a task out of these "
         "lists when it has stopped running.",
     .advice = "Do not log in to the guest. Save its memory first (underseer dump), then look at "
               "the process, if it is still there: underseer files, maps and sockets with --pid."},
};

std::string lists_text(std::uint32_t views) {
    std::string text;
    for (const TaskView view : kAllTaskViews) {
        if ((views >> static_cast<unsigned>(view) & 1) == 0) continue;
        if (!text.empty()) text += ", ";
        text += guest_linux::to_string(view);
    }
    return text;
}

}  // namespace

std::span<const Rule> HiddenRunnerWatch::rules() {
    return kRules;
}

HiddenRunnerWatch::HiddenRunnerWatch(guest_linux::Guest* guest, guest_memory::GuestMemory* memory)
    : guest_(guest) {
    auto running = guest_->running_tasks(memory);
    if (running.has_value()) {
        running_.emplace(std::move(*running));
    } else {
        why_not_ = running.error().to_text();
    }
}

void HiddenRunnerWatch::begin(Moment now) {
    begun_ = now;
    tally_ = {};
    unreadable_ = 0;
    last_error_.clear();
    seen_pids_.clear();
    // Who has been found in all lists is looked for anew in each report.
    known_.clear();
    std::erase_if(suspects_, [&](const auto& one) { return now - one.second.last > kForgets; });
    if (!running_) return;
    running_->forget();
    if (next_pid_) return;
    if (auto next = running_->next_pid(); next.has_value()) next_pid_ = *next;
}

bool HiddenRunnerWatch::Suspect::is_confirmed() const {
    // A CPU that the host does not run stands still within a list's change: it gets no time.
    return samples >= kSamples && last - first >= kSpan && task.ran_ns.value_or(0) != ran_at_first;
}

bool HiddenRunnerWatch::sample(Moment now) {
    if (!running_) return false;
    sample_.clear();
    ++tally_.samples;
    unreadable_ += running_->sample(sample_);
    for (RunningTask& task : sample_) {
        if (seen_pids_.size() < kMaxKnown) seen_pids_.insert(task.pid);
        if (task.exiting) continue;
        const Identity who{task.address, task.pid, task.start_time};
        const auto known = known_.find(who);
        if (known != known_.end() && now - known->second < kHolds) continue;
        const auto missing = running_->missing(task);
        if (!missing.has_value()) {
            last_error_ = missing.error().to_text();
            continue;
        }
        const auto suspect = suspects_.find(who);
        if (*missing == 0 ||
            (suspect != suspects_.end() && (*missing & suspect->second.missing) == 0)) {
            if (suspect != suspects_.end() && !suspect->second.told) suspects_.erase(suspect);
            if (*missing == 0 && known_.size() < kMaxKnown) known_[who] = now;
            continue;
        }
        if (suspect != suspects_.end()) {
            Suspect& again = suspect->second;
            again.missing &= *missing;
            again.last = now;
            ++again.samples;
            again.task = std::move(task);
        } else if (suspects_.size() < kMaxRunners) {
            const std::uint64_t ran = task.ran_ns.value_or(0);
            suspects_.emplace(who, Suspect{std::move(task), *missing, 1, now, now, ran, false, {}});
        }
    }
    return std::ranges::any_of(
        suspects_, [](const auto& one) { return one.second.is_confirmed() && !one.second.told; });
}

// How far the kernel has counted, and who of them was seen running or is there now.
void HiddenRunnerWatch::count_pids(event::CheckReport& report) {
    const auto counted = [&]() -> Result<void> {
        const std::uint32_t next = TRY(running_->next_pid());
        const std::uint32_t first = std::exchange(next_pid_, next).value_or(next);
        const std::uint32_t limit = TRY(running_->pid_limit());
        tally_.pids_used = next >= first ? next - first : limit - (first - next) % limit;
        guest_->new_epoch();
        for (const std::uint32_t pid : TRY(running_->pids())) seen_pids_.insert(pid);
        const auto is_new = [&](std::uint32_t pid) {
            return next >= first ? pid >= first && pid < next : pid >= first || pid < next;
        };
        const auto seen = static_cast<std::uint64_t>(std::ranges::count_if(seen_pids_, is_new));
        tally_.pids_unseen = tally_.pids_used - std::min(tally_.pids_used, seen);
        return {};
    }();
    if (!counted.has_value()) add_gap(report, "pids: " + counted.error().to_text());
}

event::Finding HiddenRunnerWatch::finding(const Identity& who, const Suspect& suspect) const {
    event::Finding finding =
        kRules[0].about(fmt::format("{} (pid {})", suspect.task.comm, who.pid),
                        fmt::format("{}:{}:{:x}", who.pid, who.start_time, who.address.value));
    finding.pid = who.pid;
    finding.evidence = {{"missing in", lists_text(suspect.missing), who.address.value, {}},
                        {"first seen running", suspect.when, 0, {}}};
    const auto task = guest_->task(who.address);
    const bool is_there = task.has_value() && task->pid == who.pid;
    if (is_there && task->exe.available() && !task->exe.value().empty()) {
        finding.evidence.push_back({"exe", task->exe.value(), 0, {}});
    }
    return finding;
}

event::CheckReport HiddenRunnerWatch::report(system_clock::time_point wall_now, Moment now) {
    event::CheckReport report{};
    report.check = kName;
    report.outcome = event::Outcome::clean;
    if (!running_) {
        report.outcome = event::Outcome::unavailable;
        report.reason = why_not_;
        return report;
    }
    count_pids(report);
    tally_.ran = report.coverage.looked_at = known_.size() + suspects_.size();
    for (auto& [who, suspect] : suspects_) {
        if (!suspect.is_confirmed() || (suspect.told && suspect.last <= begun_)) continue;
        if (suspect.when.empty()) {
            suspect.when = time_text(wall_of(suspect.first, wall_now, now)) + " UTC";
        }
        add_finding(report, finding(who, suspect));
        suspect.told = true;
    }
    std::string doubt = last_error_;
    if (unreadable_ > 0) {
        report.coverage.unreadable = unreadable_;
        doubt = fmt::format("what a CPU runs could not be read {} times", unreadable_);
    }
    settle_doubt(report, doubt);
    return report;
}

}  // namespace underseer::detect
