// What the CPUs run at a moment, read past every cache: cheap enough for a thousand times a second.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "guest_linux/kernel.h"
#include "guest_linux/task_views.h"

namespace underseer::guest_linux {

struct RunningTask {
    unsigned cpu = 0;
    GuestVirt address;
    std::uint32_t pid = 0, tgid = 0;
    std::uint64_t start_time = 0;
    std::optional<std::uint64_t> ran_ns;  // its time on a CPU so far, as of the last tick
    bool exiting = false;  // it has given up its address space, and is about to leave the lists
    std::string comm;
};

class RunningTasks {
  public:
    // `memory` is not a cache; both must outlive this. Code::unavailable, with the name, where this
    // kernel's model does not tell what is needed.
    static Result<RunningTasks> of(Kernel* kernel, guest_memory::GuestMemory* memory);

    // One for each CPU that does not idle. Returns how many CPUs could not be read.
    unsigned sample(std::vector<RunningTask>& running);
    std::size_t cpus() const { return cpus_.size(); }

    // In which lists a task should be and is not: a bit (1 << TaskView) for each of task_list,
    // thread_list, tree, css_set and pid_idr. It is asked of the task's own links and what they
    // link to, not of the whole lists.
    Result<std::uint32_t> missing(const RunningTask& task);

    // The number that the next task will have, or the next one after it that is free.
    Result<std::uint32_t> next_pid();
    // How many numbers there are before they start over.
    Result<std::uint32_t> pid_limit();
    // Of all tasks that there are now.
    Result<std::vector<std::uint32_t>> pids();

    // After it has been asked for long: nothing is known any more of where things lie.
    void forget() { live_.forget(); }

  private:
    struct Cpu {
        unsigned number = 0;
        GuestVirt queue;
        GuestVirt idle;  // its task, once seen
    };
    RunningTasks(Kernel* kernel, guest_memory::GuestMemory* memory);
    Result<std::optional<RunningTask>> read(Cpu& cpu);
    Result<bool> linked(GuestVirt node);
    Result<bool> in_idr(const RunningTask& task);

    Kernel* kernel_;
    VirtualMemory live_;
    std::vector<Cpu> cpus_;
    std::vector<std::byte> bytes_;  // of a task_struct, up to the last member that is needed
    GuestVirt pid_ns_;
    struct {
        Field rq_curr;
        Field pid, tgid, start, exit_state, flags, mm, ran, comm;
        Field tasks, thread_node, sibling, cg_list, thread_pid, pid_links;
        Field pid_numbers, pid_tasks, upid_nr, ns_idr, idr_next, ns_pid_max, idr_head, node_shift,
            node_slots;
    } f_;
};

}  // namespace underseer::guest_linux
