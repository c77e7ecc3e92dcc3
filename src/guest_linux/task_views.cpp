#include "guest_linux/task_views.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "guest_linux/gaps.h"
#include "guest_linux/xarray.h"

namespace underseer::guest_linux {

namespace {

// Two walks in a row that both meet a moving task are rare, four are not chance.
constexpr unsigned kAttempts = 4;
constexpr unsigned kRtPriorities = 100;   // MAX_RT_PRIO
constexpr unsigned kCssSetBuckets = 128;  // CSS_SET_HASH_BITS 7, kernel/cgroup/cgroup.c

GuestVirt container(GuestVirt node, const Field& member) {
    return node - member.offset;
}

bool broke(const Result<void>& walked) {
    return !walked.has_value() && is_broken(walked.error());
}

// Of several walks the error that weighs most.
void keep_worse(Result<void>& worst, Result<void> walked) {
    if (walked.has_value()) return;
    if (worst.has_value() || (broke(walked) && !broke(worst))) worst = std::move(walked);
}

}  // namespace

std::string_view to_string(TaskView view) {
    switch (view) {
        case TaskView::task_list:
            return "task_list";
        case TaskView::thread_list:
            return "thread_list";
        case TaskView::pid_idr:
            return "pid_idr";
        case TaskView::tree:
            return "tree";
        case TaskView::css_set:
            return "css_set";
        case TaskView::run_queue:
            return "run_queue";
        case TaskView::current:
            return "current";
        case TaskView::ram_scan:
            return "ram_scan";
    }
    return "unknown";
}

TaskViews::TaskViews(Kernel* kernel) : kernel_(kernel) {
    const Kernel& k = *kernel;
    f_ = {
        .tasks = k.field("task_struct", "tasks"),
        .thread_node = k.field("task_struct", "thread_node"),
        .signal = k.field("task_struct", "signal"),
        .thread_head = k.field("signal_struct", "thread_head"),
        .children = k.field("task_struct", "children"),
        .sibling = k.field("task_struct", "sibling"),
        .cg_list = k.field("task_struct", "cg_list"),
        .pid_links = k.field("task_struct", "pid_links"),
        .thread_pid = k.field("task_struct", "thread_pid"),
        .pid = k.field("task_struct", "pid"),
        .tgid = k.field("task_struct", "tgid"),
        .group_leader = k.field("task_struct", "group_leader"),
        .pid_level = k.field("pid", "level"),
        .pid_numbers = k.field("pid", "numbers"),
        .pid_tasks = k.field("pid", "tasks"),
        .upid_ns = k.field("upid", "ns"),
        .ns_idr = k.field("pid_namespace", "idr"),
        .css_hlist = k.field("css_set", "hlist"),
        .css_tasks = k.field("css_set", "tasks"),
        .css_mg_tasks = k.field("css_set", "mg_tasks"),
        .css_dying_tasks = k.field("css_set", "dying_tasks"),
        .rq_curr = k.field("rq", "curr"),
        .rq_donor = k.field("rq", "donor"),
        .rq_cfs_tasks = k.field("rq", "cfs_tasks"),
        .rq_rt = k.field("rq", "rt"),
        .rt_rq_queue = k.field("rt_rq", "active.queue"),
        .rq_fair_server = k.field("rq", "fair_server"),
        .rq_dl_root = k.field("rq", "dl.root.rb_root.rb_node"),
        .rq_scx_runnable = k.field("rq", "scx.runnable_list"),
        .se_group_node = k.field("task_struct", "se.group_node"),
        .rt = k.field("task_struct", "rt"),
        .rt_run_list = k.field("task_struct", "rt.run_list"),
        .rt_my_q = k.field("sched_rt_entity", "my_q"),
        .dl_rb_node = k.field("task_struct", "dl.rb_node"),
        .dl_server = k.field("task_struct", "dl.dl_server"),
        .scx_node = k.field("task_struct", "scx.runnable_node"),
        .dl_timer = k.field("task_struct", "dl.dl_timer"),
        .timer_function = k.field("hrtimer", "function"),
        .timer_node = k.field("hrtimer", "node"),
        .clock_bases = k.field("hrtimer_cpu_base", "clock_base"),
        .clock_root = k.field("hrtimer_clock_base", "active.rb_root.rb_root.rb_node"),
        .rq_root_group = k.field("rq", {"cfs.tg", "rt.tg"}),
        .group_children = k.field("task_group", "children"),
        .group_siblings = k.field("task_group", "siblings"),
        .group_cfs_rq = k.field("task_group", "cfs_rq"),
        .group_rt_rq = k.field("task_group", "rt_rq"),
        .cfs_limbo = k.field("cfs_rq", "throttled_limbo_list"),
        .throttle_node = k.field("task_struct", "throttle_node"),
    };
    // An array of pointers; one per-CPU pointer in 7.2 (kernel/sched/sched.h, struct task_group).
    const Btf& types = k.types();
    const auto group = types.find_struct("task_group");
    const auto queues = group ? types.find_member(*group, "cfs_rq") : std::nullopt;
    if (!queues) return;
    const Btf::Type& pointer = types.type(types.strip(queues->type));
    group_queues_per_cpu_ =
        pointer.kind == BtfKind::pointer &&
        types.type(types.strip(pointer.size_or_type)).kind == BtfKind::structure;
}

TaskViewResult TaskViews::walk(TaskView view, const std::vector<GuestVirt>& known) {
    std::vector<GuestVirt> found;
    Result<void> outcome = walk_once(view, known, found);
    // A task that moves to another list while we stand on it leads us there, and the walk never
    // comes home: on a live guest that is an accident of timing, so the walk is begun again.
    const unsigned attempts = kernel_->physical().live() ? kAttempts : 1;
    for (unsigned i = 1; i < attempts && !outcome.has_value(); ++i) {
        kernel_->forget();
        found.clear();
        outcome = walk_once(view, known, found);
    }
    TaskViewResult result{view, {}, std::nullopt};
    std::unordered_set<GuestVirt> seen;
    for (const GuestVirt task : found) {
        if (task && seen.insert(task).second) result.tasks.push_back(task);
    }
    result.broken = broke(outcome);
    if (!outcome.has_value()) {
        result.gap = outcome.error().to_text();
    } else if (found.size() >= limits::kMaxTasks) {
        result.gap = fmt::format("more than {} tasks", limits::kMaxTasks);
        result.broken = true;
    }
    return result;
}

Result<void> TaskViews::walk_once(TaskView view, const std::vector<GuestVirt>& known,
                                  std::vector<GuestVirt>& found) {
    // Without types only what links processes and threads is known.
    const bool few =
        view == TaskView::task_list || view == TaskView::tree || view == TaskView::thread_list;
    if (!few) TRY(kernel_->require_types());
    if (view != TaskView::task_list) {
        TRY(kernel_->require({f_.signal, f_.thread_head, f_.thread_node}));
    }
    switch (view) {
        case TaskView::task_list:
            return walk_task_list(found);
        case TaskView::thread_list:
            return walk_threads(known, found);
        case TaskView::pid_idr:
            return walk_pid_idr(known, found);
        case TaskView::tree:
            return walk_tree(found);
        case TaskView::css_set:
            return walk_css_sets(found);
        case TaskView::run_queue:
            return walk_run_queues(found);
        case TaskView::current:
            return walk_current(found);
        case TaskView::ram_scan:
            break;
    }
    return fail(Code::unsupported, "this view of the tasks is not walked by lists");
}

std::vector<TaskViewResult> TaskViews::walk_all() {
    std::vector<TaskViewResult> results;
    std::vector<GuestVirt> known;
    for (const TaskView view :
         {TaskView::task_list, TaskView::tree, TaskView::css_set, TaskView::run_queue,
          TaskView::current, TaskView::pid_idr, TaskView::thread_list}) {
        results.push_back(walk(view, known));
        known.insert(known.end(), results.back().tasks.begin(), results.back().tasks.end());
    }
    // Two of them begin at what the others showed. Each of these shows all processes, if whole.
    const std::array from{TaskView::task_list, TaskView::tree, TaskView::css_set};
    const auto may_lack = [&](const TaskViewResult& result) {
        return result.gap || std::ranges::find(from, result.view) == from.end();
    };
    if (!std::ranges::all_of(results, may_lack)) return results;
    for (TaskViewResult& result : results) {
        const bool begins_there =
            result.view == TaskView::pid_idr || result.view == TaskView::thread_list;
        if (!begins_there || result.gap) continue;
        result.gap = "not all processes are known: " + results.front().gap.value_or("");
        result.broken = std::ranges::any_of(results, &TaskViewResult::broken);
    }
    return results;
}

Result<void> TaskViews::walk_task_list(std::vector<GuestVirt>& out) {
    TRY(kernel_->require({f_.tasks}));
    const GuestVirt init = TRY(kernel_->symbol("init_task"));
    return kernel_->walk_list(
        init + f_.tasks.offset,
        [&](GuestVirt node) {
            out.push_back(container(node, f_.tasks));
            return true;
        },
        limits::kMaxTasks);
}

Result<void> TaskViews::walk_threads(const std::vector<GuestVirt>& processes,
                                     std::vector<GuestVirt>& out) {
    std::unordered_set<GuestVirt> signals;
    Result<void> worst;
    for (const GuestVirt process : processes) {
        const auto signal = kernel_->read_pointer(process, f_.signal);
        if (!signal.has_value()) {
            keep_worse(worst, fail(signal.error()));
            continue;
        }
        // A task that is being released has no signal_struct any more.
        if (!*signal || !signals.insert(*signal).second) continue;
        auto walked = kernel_->walk_list(
            *signal + f_.thread_head.offset,
            [&](GuestVirt node) {
                out.push_back(container(node, f_.thread_node));
                return out.size() < limits::kMaxTasks;
            },
            limits::kMaxTasks);
        keep_worse(worst, std::move(walked));
    }
    return worst;
}

// Those that a task has a number in. One that cannot be asked may be the only one in a namespace.
Result<void> TaskViews::find_pid_namespaces(const std::vector<GuestVirt>& tasks,
                                            std::vector<GuestVirt>& out) {
    TRY(kernel_->require({f_.thread_pid, f_.pid_level, f_.pid_numbers, f_.upid_ns}));
    std::unordered_set<GuestVirt> seen;
    const auto add = [&](GuestVirt ns) {
        if (ns && seen.insert(ns).second) out.push_back(ns);
    };
    const auto init = kernel_->symbol("init_pid_ns");
    if (init.has_value()) add(*init);
    const std::uint64_t upid_bytes = TRY(kernel_->require_size_of("upid"));
    const auto add_those_of = [&](GuestVirt task) -> Result<void> {
        const GuestVirt pid = TRY(kernel_->read_pointer(task, f_.thread_pid));
        if (!pid) return {};
        const std::uint64_t level = TRY(kernel_->read(pid, f_.pid_level));
        // No struct pid: the memory of one that was freed.
        if (level > limits::kMaxPidNamespaceLevel) return {};
        for (std::uint64_t i = 0; i <= level; ++i) {
            const GuestVirt number = pid + f_.pid_numbers.offset + i * upid_bytes;
            add(TRY(kernel_->read_pointer(number, f_.upid_ns)));
        }
        return {};
    };
    Result<void> worst;
    for (const GuestVirt task : tasks) {
        keep_worse(worst, add_those_of(task));
    }
    return worst;
}

// pid->tasks[PIDTYPE_PID] leads to the task whose pid_links[PIDTYPE_PID] it holds; index 0 of both.
Result<GuestVirt> TaskViews::task_of_pid(GuestVirt pid) {
    const GuestVirt node = TRY(kernel_->memory().read<GuestVirt>(pid + f_.pid_tasks.offset));
    // A struct pid outlives its task while somebody holds it (a session's or a group's leader).
    if (!node) return GuestVirt{};
    return container(node, f_.pid_links);
}

Result<void> TaskViews::walk_pid_idr(const std::vector<GuestVirt>& known,
                                     std::vector<GuestVirt>& out) {
    TRY(kernel_->require({f_.ns_idr, f_.pid_tasks, f_.pid_links}));
    std::vector<GuestVirt> namespaces;
    Result<void> worst = find_pid_namespaces(known, namespaces);
    for (const GuestVirt ns : namespaces) {
        std::vector<GuestVirt> pids;
        keep_worse(worst, each_of_idr(*kernel_, ns + f_.ns_idr.offset, limits::kMaxTasks,
                                      "the pid IDR", [&](GuestVirt pid) { pids.push_back(pid); }));
        for (const GuestVirt pid : pids) {
            auto task = task_of_pid(pid);
            if (task.has_value()) {
                out.push_back(*task);
            } else {
                keep_worse(worst, fail(std::move(task).error()));
            }
        }
    }
    return worst;
}

Result<void> TaskViews::walk_tree(std::vector<GuestVirt>& out) {
    TRY(kernel_->require({f_.children, f_.sibling}));
    std::vector<GuestVirt> pending{TRY(kernel_->symbol("init_task"))};
    std::unordered_set<GuestVirt> seen(pending.begin(), pending.end());
    Result<void> worst;
    while (!pending.empty()) {
        const GuestVirt parent = pending.back();
        pending.pop_back();
        // Every thread may have children of its own: they hang at the thread that forked them.
        std::vector<GuestVirt> threads{parent};
        keep_worse(worst, walk_threads({parent}, threads));
        for (const GuestVirt thread : threads) {
            auto walked = kernel_->walk_list(
                thread + f_.children.offset,
                [&](GuestVirt node) {
                    const GuestVirt child = container(node, f_.sibling);
                    if (seen.insert(child).second) {
                        out.push_back(child);
                        pending.push_back(child);
                    }
                    return seen.size() < limits::kMaxTasks;
                },
                limits::kMaxTasks);
            keep_worse(worst, std::move(walked));
        }
    }
    return worst;
}

Result<void> TaskViews::walk_css_sets(std::vector<GuestVirt>& out) {
    TRY(kernel_->require(
        {f_.css_hlist, f_.css_tasks, f_.css_mg_tasks, f_.css_dying_tasks, f_.cg_list}));
    const GuestVirt table = TRY(kernel_->symbol("css_set_table"));
    std::array<std::uint64_t, kCssSetBuckets> buckets;
    TRY(kernel_->memory().read(table, std::as_writable_bytes(std::span(buckets))));
    std::size_t sets = 0;
    Result<void> worst;
    for (const std::uint64_t first : buckets) {
        CircleGuard circle;
        for (GuestVirt node{first}; node;) {
            if (++sets > limits::kMaxListSteps || circle.closes_at(node)) {
                return fail(Code::limit, "too many css_sets, or a circle of them");
            }
            const GuestVirt css = container(node, f_.css_hlist);
            for (const Field& list : {f_.css_tasks, f_.css_mg_tasks, f_.css_dying_tasks}) {
                auto walked = kernel_->walk_list(
                    css + list.offset,
                    [&](GuestVirt entry) {
                        out.push_back(container(entry, f_.cg_list));
                        return out.size() < limits::kMaxTasks;
                    },
                    limits::kMaxTasks);
                keep_worse(worst, std::move(walked));
            }
            const auto next = kernel_->memory().read<GuestVirt>(node);
            if (!next.has_value()) keep_worse(worst, fail(next.error()));
            node = next.value_or(GuestVirt{});
        }
    }
    return worst;
}

Result<void> TaskViews::walk_rt_queue(GuestVirt rt_rq, std::vector<GuestVirt>& out,
                                      unsigned depth) {
    if (depth > limits::kMaxTreeDepth) return fail(Code::limit, "real-time groups nest too deep");
    TRY(kernel_->require({f_.rt_rq_queue, f_.rt, f_.rt_run_list}));
    for (unsigned priority = 0; priority < kRtPriorities; ++priority) {
        Result<void> inside;
        const GuestVirt queue = rt_rq + f_.rt_rq_queue.offset + 16ull * priority;
        TRY(kernel_->walk_list(queue, [&](GuestVirt node) {
            // An entity with a queue of its own is a group (CONFIG_RT_GROUP_SCHED), not a task.
            const GuestVirt task = container(node, f_.rt_run_list);
            Result<GuestVirt> group;
            if (f_.rt_my_q.known()) {
                group = kernel_->read_pointer(task + f_.rt.offset, f_.rt_my_q);
            }
            if (!group.has_value()) {
                inside = fail(std::move(group).error());
            } else if (*group) {
                inside = walk_rt_queue(*group, out, depth + 1);
            } else {
                out.push_back(task);
            }
            return inside.has_value() && out.size() < limits::kMaxTasks;
        }));
        TRY(std::move(inside));
    }
    return {};
}

// A server that lends the CPU to another class since 6.8 (struct rq.fair_server) is an entity as a
// task's, but no task.
Result<void> TaskViews::add_dl_task(GuestVirt task, std::vector<GuestVirt>& out) {
    if (f_.rq_fair_server.known()) TRY(kernel_->require({f_.dl_server}));
    const bool server = f_.dl_server.known() && TRY(kernel_->read(task, f_.dl_server)) != 0;
    if (!server) out.push_back(task);
    return {};
}

Result<void> TaskViews::walk_dl_queue(GuestVirt rq, std::vector<GuestVirt>& out) {
    TRY(kernel_->require({f_.dl_rb_node}));
    return kernel_->walk_rb_tree(TRY(kernel_->read(rq, f_.rq_dl_root)), [&](GuestVirt node) {
        return add_dl_task(container(node, f_.dl_rb_node), out);
    });
}

// A deadline task that has used up its runtime is in no queue until its timer gives it the next
// (start_dl_timer(), kernel/sched/deadline.c): what waits for the CPU then is the timer. It is one
// of CLOCK_MONOTONIC, the first of a CPU's clocks (HRTIMER_BASE_MONOTONIC, hrtimer_defs.h).
Result<void> TaskViews::walk_dl_timers(unsigned cpu, std::vector<GuestVirt>& out) {
    TRY(kernel_->require({f_.dl_timer, f_.clock_bases, f_.timer_node}));
    const GuestVirt replenish = TRY(kernel_->symbol("dl_task_timer"));
    const GuestVirt bases = TRY(kernel_->per_cpu(TRY(kernel_->symbol("hrtimer_bases")), cpu));
    const GuestVirt clock = bases + f_.clock_bases.offset;
    return kernel_->walk_rb_tree(
        TRY(kernel_->read(clock, f_.clock_root)), [&](GuestVirt node) -> Result<void> {
            const GuestVirt timer = container(node, f_.timer_node);
            if (TRY(kernel_->read_pointer(timer, f_.timer_function)) != replenish) return {};
            return add_dl_task(container(timer, f_.dl_timer), out);
        });
}

// A group that has used up its quota hangs in no CPU's queue. Its real-time tasks wait in its own
// queues then (CONFIG_RT_GROUP_SCHED; sched_rt_rq_dequeue(), kernel/sched/rt.c). Its fair ones do
// in a list of the group's since 6.18 (throttle_cfs_rq_work(), kernel/sched/fair.c); before, they
// stayed in cfs_tasks. The groups are a tree, whose root the queue of a CPU itself belongs to.
Result<void> TaskViews::walk_groups(GuestVirt first_rq, const std::vector<unsigned>& cpus,
                                    std::vector<GuestVirt>& out) {
    const bool fair = f_.cfs_limbo.known() || f_.throttle_node.known();
    const bool real_time = f_.group_rt_rq.known();
    if (!fair && !real_time) return {};
    if (fair) TRY(kernel_->require({f_.cfs_limbo, f_.throttle_node, f_.group_cfs_rq}));
    TRY(kernel_->require({f_.group_children, f_.group_siblings}));
    Result<void> worst;
    const auto keep = [&](Result<void> walked) { keep_worse(worst, std::move(walked)); };
    std::vector<GuestVirt> groups{TRY(kernel_->read_pointer(first_rq, f_.rq_root_group))};
    for (std::size_t i = 0; i < groups.size(); ++i) {
        // A group has a queue of a class on each CPU, or none of that class at all.
        const auto walk_queue = [&](const Field& queues, unsigned cpu, bool per_cpu,
                                    auto&& walk) -> Result<void> {
            const GuestVirt first = TRY(kernel_->read_pointer(groups[i], queues));
            if (!first) return {};
            const GuestVirt queue =
                per_cpu ? TRY(kernel_->per_cpu(first, cpu))
                        : TRY(kernel_->memory().read<GuestVirt>(first + 8ull * cpu));
            return queue ? walk(queue) : Result<void>{};
        };
        const auto walk_limbo = [&](GuestVirt cfs_rq) {
            return kernel_->walk_list(cfs_rq + f_.cfs_limbo.offset, [&](GuestVirt waiting) {
                out.push_back(container(waiting, f_.throttle_node));
                return out.size() < limits::kMaxTasks;
            });
        };
        const auto walk_rt = [&](GuestVirt rt_rq) { return walk_rt_queue(rt_rq, out); };
        for (const unsigned cpu : cpus) {
            if (fair) {
                keep(walk_queue(f_.group_cfs_rq, cpu, group_queues_per_cpu_, walk_limbo));
            }
            if (real_time) keep(walk_queue(f_.group_rt_rq, cpu, /*per_cpu=*/false, walk_rt));
        }
        keep(kernel_->walk_list(groups[i] + f_.group_children.offset, [&](GuestVirt node) {
            groups.push_back(container(node, f_.group_siblings));
            return groups.size() < limits::kMaxListSteps;
        }));
    }
    return worst;
}

// What one queue cannot tell is a gap, and no reason not to look into the others.
Result<void> TaskViews::walk_run_queues(std::vector<GuestVirt>& out) {
    const GuestVirt runqueues = TRY(kernel_->symbol("runqueues"));
    const std::vector<unsigned> cpus = TRY(kernel_->possible_cpus());
    Result<void> worst;
    const auto keep = [&](Result<void> walked) { keep_worse(worst, std::move(walked)); };
    const auto walk_list = [&](GuestVirt rq, const Field& head,
                               const Field& node_member) -> Result<void> {
        TRY(kernel_->require({head, node_member}));
        return kernel_->walk_list(rq + head.offset, [&](GuestVirt node) {
            out.push_back(container(node, node_member));
            return true;
        });
    };
    for (const unsigned cpu : cpus) {
        const GuestVirt rq = TRY(kernel_->per_cpu(runqueues, cpu));
        keep(walk_list(rq, f_.rq_cfs_tasks, f_.se_group_node));
        const bool has_scx = f_.rq_scx_runnable.known() || f_.scx_node.known();
        if (has_scx) keep(walk_list(rq, f_.rq_scx_runnable, f_.scx_node));
        keep(walk_rt_queue(rq + f_.rq_rt.offset, out));
        keep(walk_dl_queue(rq, out));
        keep(walk_dl_timers(cpu, out));
    }
    keep(walk_groups(TRY(kernel_->per_cpu(runqueues, cpus.front())), cpus, out));
    return worst;
}

// rq->curr rather than the per-CPU current_task: the same task, and its name never changed.
Result<void> TaskViews::walk_current(std::vector<GuestVirt>& out) {
    TRY(kernel_->require({f_.rq_curr}));
    const GuestVirt runqueues = TRY(kernel_->symbol("runqueues"));
    for (const unsigned cpu : TRY(kernel_->possible_cpus())) {
        const GuestVirt rq = TRY(kernel_->per_cpu(runqueues, cpu));
        // With proxy execution (6.12+) another task may lend the one that runs its place.
        for (const Field& member : {f_.rq_curr, f_.rq_donor}) {
            if (!member.known()) continue;
            const GuestVirt task = TRY(kernel_->read_pointer(rq, member));
            // The idle task (pid 0) is in no list.
            if (!task || TRY(kernel_->read(task, f_.pid)) == 0) continue;
            out.push_back(task);
        }
    }
    return {};
}

}  // namespace underseer::guest_linux
