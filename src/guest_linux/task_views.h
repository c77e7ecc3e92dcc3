// Independent views of which tasks exist. A task that one view shows and another does not is the
// mark of a hidden process, once a second read has confirmed it.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

enum class TaskView : std::uint8_t {
    task_list,    // init_task.tasks: one entry a process
    thread_list,  // signal->thread_head of every process that any view shows
    pid_idr,      // the IDR of every pid namespace
    tree,         // children/sibling, from init and kthreadd down
    css_set,      // tasks of every css_set (cgroup membership)
    run_queue,    // fair, real-time, deadline and ext queues of every CPU, and throttled tasks
    current,      // what every CPU runs now
    ram_scan,     // what TaskScan finds in RAM itself; only when it is asked for
};
inline constexpr std::array kAllTaskViews{
    TaskView::task_list, TaskView::thread_list, TaskView::pid_idr, TaskView::tree,
    TaskView::css_set,   TaskView::run_queue,   TaskView::current, TaskView::ram_scan};
std::string_view to_string(TaskView view);

struct TaskViewResult {
    TaskView view{};
    std::vector<GuestVirt> tasks;    // task_struct addresses, each once, in walking order
    std::optional<std::string> gap;  // why the view is not complete, when it is not
    // It is there and could not be followed to its end: what a guest may do to its own structures
    // to hide something behind. Not so where this kernel's model does not tell how to walk it.
    bool broken = false;
};

class TaskViews {
  public:
    explicit TaskViews(Kernel* kernel);

    // `known` are the processes that other views have shown (for thread_list).
    TaskViewResult walk(TaskView view, const std::vector<GuestVirt>& known);
    // All that follow the kernel's own lists; thread_list last, over what the others found.
    std::vector<TaskViewResult> walk_all();

    // init_pid_ns and every pid namespace that a task found so far lives in.
    Result<void> find_pid_namespaces(const std::vector<GuestVirt>& tasks,
                                     std::vector<GuestVirt>& out);

  private:
    Result<void> walk_once(TaskView view, const std::vector<GuestVirt>& known,
                           std::vector<GuestVirt>& found);
    Result<void> walk_task_list(std::vector<GuestVirt>& out);
    Result<void> walk_threads(const std::vector<GuestVirt>& processes, std::vector<GuestVirt>& out);
    Result<void> walk_pid_idr(const std::vector<GuestVirt>& known, std::vector<GuestVirt>& out);
    Result<void> walk_tree(std::vector<GuestVirt>& out);
    Result<void> walk_css_sets(std::vector<GuestVirt>& out);
    Result<void> walk_run_queues(std::vector<GuestVirt>& out);
    Result<void> walk_rt_queue(GuestVirt rt_rq, std::vector<GuestVirt>& out, unsigned depth = 0);
    Result<void> walk_groups(GuestVirt first_rq, const std::vector<unsigned>& cpus,
                             std::vector<GuestVirt>& out);
    Result<void> add_dl_task(GuestVirt task, std::vector<GuestVirt>& out);
    Result<void> walk_dl_queue(GuestVirt rq, std::vector<GuestVirt>& out);
    Result<void> walk_dl_timers(unsigned cpu, std::vector<GuestVirt>& out);
    Result<void> walk_current(std::vector<GuestVirt>& out);
    Result<GuestVirt> task_of_pid(GuestVirt pid);

    Kernel* kernel_;
    struct {
        Field tasks, thread_node, signal, thread_head, children, sibling, cg_list, pid_links,
            thread_pid, pid, tgid, group_leader;
        Field pid_level, pid_numbers, pid_tasks, upid_ns, ns_idr;
        Field css_hlist, css_tasks, css_mg_tasks, css_dying_tasks;
        Field rq_curr, rq_donor, rq_cfs_tasks, rq_rt, rt_rq_queue, rq_fair_server, rq_dl_root,
            rq_scx_runnable, se_group_node, rt, rt_run_list, rt_my_q, dl_rb_node, dl_server,
            scx_node;
        Field dl_timer, timer_function, timer_node, clock_bases, clock_root;
        Field rq_root_group, group_children, group_siblings, group_cfs_rq, group_rt_rq, cfs_limbo,
            throttle_node;
    } f_;
    bool group_queues_per_cpu_ = false;
};

}  // namespace underseer::guest_linux
