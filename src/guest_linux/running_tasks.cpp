#include "guest_linux/running_tasks.h"

#include <algorithm>
#include <cstring>

#include "guest_linux/xarray.h"

namespace underseer::guest_linux {

namespace {

constexpr std::uint64_t kTaskExiting = 0x4;  // include/linux/sched.h
constexpr std::uint64_t kMaxTaskStructBytes = 16u << 10;
constexpr std::size_t kMostCpus = 8192;          // CONFIG_NR_CPUS' bound
constexpr std::uint32_t kLargestPid = 4u << 20;  // PID_MAX_LIMIT
constexpr std::uint32_t kReservedPids = 300;     // RESERVED_PIDS, kernel/pid.c
constexpr std::uint64_t kIdrNodeTag = 2, kIdrEntryTags = 3, kSlotMask = 63;
constexpr unsigned kReadAttempts = 3;

constexpr std::uint32_t bit(TaskView view) {
    return 1u << static_cast<unsigned>(view);
}

}  // namespace

RunningTasks::RunningTasks(Kernel* kernel, guest_memory::GuestMemory* memory)
    : kernel_(kernel), live_(memory, kernel->image().space) {
    const Kernel& k = *kernel;
    const auto of_task = [&](std::initializer_list<std::string_view> paths) {
        return k.field("task_struct", paths);
    };
    f_ = {.rq_curr = k.field("rq", "curr"),
          .pid = of_task({"pid"}),
          .tgid = of_task({"tgid"}),
          .start = of_task({"start_boottime", "real_start_time"}),
          .exit_state = of_task({"exit_state"}),
          .flags = of_task({"flags"}),
          .mm = of_task({"mm"}),
          .ran = of_task({"se.sum_exec_runtime"}),
          .comm = of_task({"comm"}),
          .tasks = of_task({"tasks"}),
          .thread_node = of_task({"thread_node"}),
          .sibling = of_task({"sibling"}),
          .cg_list = of_task({"cg_list"}),
          .thread_pid = of_task({"thread_pid"}),
          .pid_links = of_task({"pid_links"}),
          .pid_numbers = k.field("pid", "numbers"),
          .pid_tasks = k.field("pid", "tasks"),
          .upid_nr = k.field("upid", "nr"),
          .ns_idr = k.field("pid_namespace", "idr"),
          .idr_next = k.field("idr", "idr_next"),
          .ns_pid_max = k.field("pid_namespace", "pid_max"),
          .idr_head = k.field("idr", {"idr_rt.xa_head", "idr_rt.rnode"}),
          .node_shift = k.field("xa_node", "shift"),
          .node_slots = k.field("xa_node", "slots")};
}

Result<RunningTasks> RunningTasks::of(Kernel* kernel, guest_memory::GuestMemory* memory) {
    RunningTasks tasks(kernel, memory);
    const auto& f = tasks.f_;
    TRY(kernel->require({f.rq_curr,     f.pid,        f.tgid,      f.start,      f.exit_state,
                         f.flags,       f.mm,         f.ran,       f.comm,       f.tasks,
                         f.thread_node, f.sibling,    f.cg_list,   f.thread_pid, f.pid_links,
                         f.pid_numbers, f.pid_tasks,  f.upid_nr,   f.ns_idr,     f.idr_next,
                         f.idr_head,    f.node_shift, f.node_slots}));
    std::uint64_t bytes = 0;
    for (const Field& field :
         {f.pid, f.tgid, f.start, f.exit_state, f.flags, f.mm, f.ran, f.comm}) {
        bytes = std::max(bytes, field.offset + field.size_bytes);
    }
    if (bytes > kMaxTaskStructBytes) return fail(Code::malformed, "a task_struct is too long");
    tasks.bytes_.resize(bytes);
    tasks.pid_ns_ = TRY(kernel->symbol("init_pid_ns"));
    const GuestVirt queues = TRY(kernel->symbol("runqueues"));
    for (const unsigned cpu : TRY(kernel->possible_cpus())) {
        if (tasks.cpus_.size() == kMostCpus) return fail(Code::limit, "it has too many CPUs");
        tasks.cpus_.push_back({cpu, TRY(kernel->per_cpu(queues, cpu)), {}});
    }
    return tasks;
}

unsigned RunningTasks::sample(std::vector<RunningTask>& running) {
    unsigned unreadable = 0;
    for (Cpu& cpu : cpus_) {
        auto task = read(cpu);
        if (!task.has_value()) {
            ++unreadable;
        } else if (*task) {
            running.push_back(std::move(**task));
        }
    }
    return unreadable;
}

// The members of one moment: a task_struct is copied at once. Of an idle task nothing more is read
// than that it is one.
Result<std::optional<RunningTask>> RunningTasks::read(Cpu& cpu) {
    const auto at = TRY(live_.read<GuestVirt>(cpu.queue + f_.rq_curr.offset));
    if (!at || at == cpu.idle) return std::nullopt;
    TRY(live_.read(at, bytes_));
    const auto member = [&](const Field& field) {
        std::uint64_t value = 0;
        std::memcpy(&value, bytes_.data() + field.offset,
                    std::min<std::size_t>(field.size_bytes, 8));
        return value;
    };
    RunningTask task{.cpu = cpu.number, .address = at};
    task.pid = static_cast<std::uint32_t>(member(f_.pid));
    if (task.pid == 0) {
        cpu.idle = at;
        return std::nullopt;
    }
    task.tgid = static_cast<std::uint32_t>(member(f_.tgid));
    task.start_time = member(f_.start);
    task.ran_ns = member(f_.ran);
    const bool marked = member(f_.exit_state) != 0 || (member(f_.flags) & kTaskExiting) != 0;
    task.exiting = marked && member(f_.mm) == 0;
    const auto name = as_text(Bytes(bytes_).subspan(f_.comm.offset, f_.comm.size_bytes));
    task.comm = name.substr(0, name.find('\0'));
    return task;
}

// A node that others lead to and that leads to others. One that was taken out leads to itself, to
// nowhere, or to neighbours that have closed ranks.
Result<bool> RunningTasks::linked(GuestVirt node) {
    const auto next = TRY(live_.read<GuestVirt>(node)),
               previous = TRY(live_.read<GuestVirt>(node + 8));
    if (next == node || previous == node) return false;
    const auto back = live_.read<GuestVirt>(next + 8), forth = live_.read<GuestVirt>(previous);
    // LIST_POISON1 and 2 are addresses of nothing.
    return back.has_value() && forth.has_value() && *back == node && *forth == node;
}

Result<bool> RunningTasks::in_idr(const RunningTask& task) {
    const auto pid = TRY(live_.read<GuestVirt>(task.address + f_.thread_pid.offset));
    if (!pid) return false;
    // pid->tasks[PIDTYPE_PID] leads to the task's pid_links[PIDTYPE_PID]; index 0 of both.
    const auto first = TRY(live_.read<GuestVirt>(pid + f_.pid_tasks.offset));
    if (first != task.address + f_.pid_links.offset) return false;
    const auto number =
        TRY(live_.read<std::uint32_t>(pid + f_.pid_numbers.offset + f_.upid_nr.offset));
    auto entry = TRY(live_.read<std::uint64_t>(pid_ns_ + f_.ns_idr.offset + f_.idr_head.offset));
    for (std::size_t depth = 0; (entry & kIdrEntryTags) == kIdrNodeTag; ++depth) {
        if (depth > limits::kMaxTreeDepth) return fail(Code::limit, "the pid IDR is too deep");
        const GuestVirt node{entry - kIdrNodeTag};
        const auto shift = TRY(live_.read<std::uint8_t>(node + f_.node_shift.offset));
        if (shift > 30) return fail(Code::malformed, "the pid IDR is too deep");
        const std::uint64_t slot = number >> shift & kSlotMask;
        entry = TRY(live_.read<std::uint64_t>(node + f_.node_slots.offset + 8 * slot));
    }
    return entry == pid.value;
}

// A list in motion is asked again.
Result<std::uint32_t> RunningTasks::missing(const RunningTask& task) {
    std::uint32_t views =
        bit(TaskView::thread_list) | bit(TaskView::css_set) | bit(TaskView::pid_idr);
    if (task.pid == task.tgid) views |= bit(TaskView::task_list) | bit(TaskView::tree);
    const auto ask = [&](TaskView view) -> Result<bool> {
        switch (view) {
            case TaskView::task_list:
                return linked(task.address + f_.tasks.offset);
            case TaskView::thread_list:
                return linked(task.address + f_.thread_node.offset);
            case TaskView::tree:
                return linked(task.address + f_.sibling.offset);
            case TaskView::css_set:
                return linked(task.address + f_.cg_list.offset);
            default:
                return in_idr(task);
        }
    };
    for (const TaskView view : {TaskView::task_list, TaskView::thread_list, TaskView::tree,
                                TaskView::css_set, TaskView::pid_idr}) {
        for (unsigned i = 1; i <= kReadAttempts && (views & bit(view)) != 0; ++i) {
            const auto is_there = ask(view);
            if (!is_there.has_value() && i == kReadAttempts) return fail(is_there.error());
            if (is_there.has_value() && *is_there) views &= ~bit(view);
        }
    }
    return views;
}

Result<std::uint32_t> RunningTasks::next_pid() {
    const auto next =
        TRY(live_.read<std::uint32_t>(pid_ns_ + f_.ns_idr.offset + f_.idr_next.offset));
    if (next > kLargestPid) return fail(Code::malformed, "there is no such pid as the next one");
    return next;
}

// Of the namespace since 6.14, of the kernel before.
Result<std::uint32_t> RunningTasks::pid_limit() {
    const GuestVirt at =
        f_.ns_pid_max.known() ? pid_ns_ + f_.ns_pid_max.offset : TRY(kernel_->symbol("pid_max"));
    const auto limit = TRY(live_.read<std::uint32_t>(at));
    if (limit <= kReservedPids || limit > kLargestPid) {
        return fail(Code::malformed, "there is no such bound of pids");
    }
    return limit - kReservedPids;
}

Result<std::vector<std::uint32_t>> RunningTasks::pids() {
    std::vector<std::uint32_t> numbers;
    Result<void> inside;
    TRY(each_of_idr(
        *kernel_, pid_ns_ + f_.ns_idr.offset, limits::kMaxTasks, "the pid IDR", [&](GuestVirt pid) {
            const auto number = kernel_->memory().read<std::uint32_t>(pid + f_.pid_numbers.offset +
                                                                      f_.upid_nr.offset);
            if (number.has_value()) {
                numbers.push_back(*number);
            } else if (inside.has_value()) {
                inside = fail(number.error());
            }
        }));
    TRY(std::move(inside));
    return numbers;
}

}  // namespace underseer::guest_linux
