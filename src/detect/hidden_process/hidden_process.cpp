#include "detect/hidden_process/hidden_process.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <unordered_map>
#include <utility>

namespace underseer::detect {

namespace {

using guest_linux::Guest;
using guest_linux::kAllTaskViews;
using guest_linux::TaskView;
using guest_linux::TaskViewResult;

constexpr std::uint32_t bit(TaskView view) {
    return 1u << static_cast<unsigned>(view);
}

constexpr std::uint32_t kExpectedOfThread =
    bit(TaskView::thread_list) | bit(TaskView::pid_idr) | bit(TaskView::css_set);
constexpr std::uint32_t kExpectedOfProcess =
    kExpectedOfThread | bit(TaskView::task_list) | bit(TaskView::tree);
constexpr std::uint32_t kRunning = bit(TaskView::run_queue) | bit(TaskView::current);
constexpr std::uint64_t kPfExiting = 0x4, kTaskNew = 0x800;  // include/linux/sched.h
constexpr std::size_t kEvidenceBytes = 256;

std::string names_of(std::uint32_t views) {
    std::string text;
    for (const TaskView view : kAllTaskViews) {
        if ((views & bit(view)) == 0) continue;
        if (!text.empty()) text += ", ";
        text += guest_linux::to_string(view);
    }
    return text.empty() ? "none" : text;
}

// The few members that the comparison needs; a whole event::Task is read only for a finding.
class TaskPeek {
  public:
    explicit TaskPeek(guest_linux::Kernel& kernel) : kernel_(kernel) {}

    struct Facts {
        std::uint32_t pid = 0, tgid = 0;
        std::uint64_t start_time = 0;
        std::optional<std::uint64_t> ran_ns;
        bool unborn = false, exiting = false;
    };
    Result<Facts> read(GuestVirt task) {
        Facts facts;
        facts.pid = static_cast<std::uint32_t>(TRY(kernel_.read(task, pid_)));
        facts.tgid = static_cast<std::uint32_t>(TRY(kernel_.read(task, tgid_)));
        facts.start_time = TRY(read_if_known(task, start_));
        // It is taken out of the views after it has given up its address space (exit_mm(),
        // kernel/exit.c). Who still has one is not that far, whatever the flags say.
        const bool marked = TRY(read_if_known(task, exit_state_)) != 0 ||
                            (TRY(kernel_.read(task, flags_)) & kPfExiting) != 0;
        facts.exiting = marked && TRY(read_if_known(task, mm_)) == 0;
        // It gets its cgroup after its places in the lists, and then it is woken (copy_process(),
        // kernel/fork.c).
        facts.unborn = TRY(read_if_known(task, state_)) == kTaskNew;
        if (ran_.known()) facts.ran_ns = TRY(kernel_.read(task, ran_));
        return facts;
    }

  private:
    // A kernel without BTF leaves these unknown. Then pid and address alone are the identity, and
    // the flags alone say who is on its way out.
    Result<std::uint64_t> read_if_known(GuestVirt task, const guest_linux::Field& field) {
        if (!field.known()) return 0;
        return kernel_.read(task, field);
    }

    guest_linux::Kernel& kernel_;
    guest_linux::Field pid_ = kernel_.field("task_struct", "pid");
    guest_linux::Field tgid_ = kernel_.field("task_struct", "tgid");
    guest_linux::Field start_ = kernel_.field("task_struct", {"start_boottime", "real_start_time"});
    guest_linux::Field exit_state_ = kernel_.field("task_struct", "exit_state");
    guest_linux::Field flags_ = kernel_.field("task_struct", "flags");
    guest_linux::Field mm_ = kernel_.field("task_struct", "mm");
    guest_linux::Field state_ = kernel_.field("task_struct", {"__state", "state"});
    guest_linux::Field ran_ = kernel_.field("task_struct", "se.sum_exec_runtime");
};

}  // namespace

constexpr Rule HiddenProcessCheck::kRule{
    .id = HiddenProcessCheck::kName,
    .title = "Process hidden inside the guest",
    .severity = event::Severity::critical,
    .confidence = 95,
    .technique = "T1014",
    .subject_kind = "process",
    .reads =
        "The kernel's own lists of tasks, each by itself: task list, thread lists, the IDR of "
        "every pid namespace, the tree of parents and children, the tasks of every cgroup, "
        "the scheduler's queues and what each CPU runs; on suspicion or request all RAM. A "
        "task that some show and others do not, in five looks over two seconds, is told.",
    .misses =
        "What filters the reading of /proc leaves all these lists as they are: a process "
        "hidden in that way is seen here like any other, and is no finding of this rule. A "
        "task that is in no list and never runs is found by a search of RAM alone (--deep).",
    .benign = "None known. The kernel takes a task out of these lists in one step as it ends.",
    .advice =
        "Do not log in to the guest. Keep evidence first (underseer act VM capture --pid N, and "
        "dump), then look at the process: underseer trace, files, maps and sockets with --pid."};

void HiddenProcessCheck::look(Snapshot& snapshot) {
    Guest& guest = snapshot.guest();
    if (search_ram_ == SearchRam::on_suspicion && taken_ == 2) {
        *this = HiddenProcessCheck(SearchRam::always);
    }
    guest.new_epoch();
    std::unordered_map<GuestVirt, std::uint32_t> shown;
    std::uint32_t complete = 0;
    coverage_ = {};
    const bool was_broken = !std::exchange(broken_, {}).empty();
    std::vector<TaskViewResult> all = guest.task_views();
    if (search_ram_ == SearchRam::always && !places_) {
        places_ = guest.find_task_places(all);
        // The search has taken its time: the views are compared as they are now.
        guest.new_epoch();
        all = guest.task_views();
    }
    if (places_) all.push_back(guest.ram_scan(*places_, all));
    for (const TaskViewResult& view : all) {
        for (const GuestVirt task : view.tasks) shown[task] |= bit(view.view);
        if (view.gap) {
            coverage_.gaps.push_back(
                fmt::format("{}: {}", guest_linux::to_string(view.view), *view.gap));
            if (view.broken && broken_.empty()) broken_ = coverage_.gaps.back();
        } else {
            complete |= bit(view.view);
        }
    }
    // Missing in a view that could not be walked to its end means nothing.
    const std::uint32_t comparable = complete & kExpectedOfProcess;
    blind_ = std::popcount(comparable) < 2
                 ? "fewer than two independent views of the tasks could be read"
                 : "";
    std::map<Identity, Sighting> now;
    TaskPeek peek(guest.kernel());
    const auto compare = [&](GuestVirt task, ViewSet views) -> Result<void> {
        const auto facts = TRY(peek.read(task));
        // pid 0: a CPU's idle task, which is in no list. A task on its way in or out is in some of
        // the views only, but it does not run; one that does is no such task.
        const bool runs = (views & kRunning) != 0;
        if (facts.pid == 0 || ((facts.exiting || facts.unborn) && !runs)) return {};
        const ViewSet expected = facts.pid == facts.tgid ? kExpectedOfProcess : kExpectedOfThread;
        const ViewSet missing = expected & comparable & ~views;
        if (missing != 0) {
            now[{task, facts.pid, facts.start_time}] = {views, missing, facts.exiting,
                                                        facts.ran_ns};
        }
        return {};
    };
    for (const auto& [task, views] : shown) {
        ++coverage_.looked_at;
        if (!compare(task, views).has_value()) ++coverage_.unreadable;
    }
    // Who is in no list is shown only while it wants a CPU, and not while it goes from one queue to
    // the next. It is there for as long as its task_struct says so: what a task that has ended
    // leaves behind in freed memory is marked as ended.
    for (const auto& [who, sighting] : candidates_) {
        if (!shown.contains(who.address)) (void)compare(who.address, 0);
    }
    if (coverage_.unreadable != 0 && broken_.empty()) {
        broken_ =
            fmt::format("{} of {} tasks cannot be read", coverage_.unreadable, coverage_.looked_at);
    }
    // Nothing can be missing where nothing was compared.
    if (coverage_.unreadable == coverage_.looked_at) blind_ = "none of the tasks could be read";
    ++taken_;
    // What a broken view might have shown is a candidate as soon as it is whole.
    const bool anew = looks_ == 0 || (was_broken && broken_.empty());
    if (anew) {
        looks_ = 1;
        candidates_ = std::move(now);
    } else {
        ++looks_;
        drop_unconfirmed(now);
    }
}

bool HiddenProcessCheck::is_about(const event::Finding& finding, std::uint32_t pid,
                                  GuestVirt task) {
    return finding.rule == kName && finding.key.starts_with(fmt::format("{}:", pid)) &&
           finding.key.ends_with(fmt::format(":{:x}", task.value));
}

// Its parent may have reaped it before it switches away for the last time. Where nobody leaves it a
// CPU for those few instructions, it is in a run queue for seconds and in no list.
bool HiddenProcessCheck::only_waits_to_end(const Sighting& before, const Sighting& now) {
    if (!before.exiting || !now.exiting) return false;
    if (!now.ran_ns) return (now.shown & bit(TaskView::current)) == 0;
    return before.ran_ns == now.ran_ns;
}

void HiddenProcessCheck::drop_unconfirmed(const std::map<Identity, Sighting>& now) {
    for (auto it = candidates_.begin(); it != candidates_.end();) {
        const auto again = now.find(it->first);
        const std::uint32_t missing =
            again == now.end() ? 0 : it->second.missing & again->second.missing;
        if (missing == 0 || only_waits_to_end(it->second, again->second)) {
            it = candidates_.erase(it);
            continue;
        }
        it->second.missing = missing;
        it->second.shown |= again->second.shown;
        it->second.exiting = again->second.exiting;
        it->second.ran_ns = again->second.ran_ns;
        ++it;
    }
}

event::Finding HiddenProcessCheck::finding(Guest& guest, const Identity& who,
                                           const Sighting& sighting) const {
    std::string comm = "?", exe = "?", argv;
    const auto task = guest.task(who.address);
    if (task.has_value()) {
        comm = task->comm;
        exe = task->exe.available() ? task->exe.value() : task->exe.reason();
        for (const std::string& word : task->argv.value_or({})) argv += word + " ";
        if (!argv.empty()) argv.pop_back();
        if (argv.size() > limits::kMaxEvidenceTextBytes) {
            argv.resize(limits::kMaxEvidenceTextBytes);
            argv += " ..";
        }
    }
    event::Finding finding =
        kRule.about(fmt::format("{} (pid {})", comm, who.pid),
                    fmt::format("{}:{}:{:x}", who.pid, who.start_time, who.address.value));
    finding.pid = who.pid;
    finding.evidence = {{"shown by", names_of(sighting.shown), 0, {}},
                        {"missing in", names_of(sighting.missing), 0, {}},
                        {"exe", exe, 0, {}},
                        {"command line", argv, 0, {}}};
    event::Evidence raw{"task_struct", fmt::format("pid {}", who.pid), who.address.value, {}};
    raw.bytes.resize(kEvidenceBytes);
    const auto comm_at = guest.kernel().field("task_struct", "comm");
    // The bytes around the name tell an analyst more than the head of the structure.
    const GuestVirt from = who.address + (comm_at.offset & ~std::uint64_t{0x3f});
    if (guest.kernel()
            .memory()
            .read(from, std::as_writable_bytes(std::span(raw.bytes)))
            .has_value()) {
        raw.address = from.value;
        finding.evidence.push_back(std::move(raw));
    }
    return finding;
}

event::CheckReport HiddenProcessCheck::report(Guest& guest) {
    CHECK(looks_ > 0);
    event::CheckReport report;
    report.check = kName;
    report.coverage = coverage_;
    if (!blind_.empty()) {
        report.outcome = event::Outcome::unavailable;
        report.reason = blind_;
        return report;
    }
    if (looks_ >= kLooks) {
        for (const auto& [who, sighting] : candidates_) {
            if (report.findings.size() == limits::kMaxFindingsOfReport) break;
            report.findings.push_back(finding(guest, who, sighting));
        }
        if (const auto rest = candidates_.size() - report.findings.size(); rest > 0) {
            report.coverage.gaps.push_back(fmt::format(
                "{} more hidden tasks: the first {} are told", rest, report.findings.size()));
        }
    }
    if (!report.findings.empty()) {
        report.outcome = event::Outcome::finding;
    } else if (!candidates_.empty()) {
        report.outcome = event::Outcome::unavailable;
        report.reason = fmt::format("{} of {} looks taken, and views still differ", looks_, kLooks);
    } else if (!broken_.empty()) {
        report.outcome = event::Outcome::unavailable;
        report.reason = broken_;
    } else {
        report.outcome = event::Outcome::clean;
    }
    return report;
}

}  // namespace underseer::detect
