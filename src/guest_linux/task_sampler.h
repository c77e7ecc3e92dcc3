// What one task does at this moment, read past every cache, and cheap enough to be asked again and
// again.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guest_linux/call_stack.h"
#include "guest_linux/kernel.h"
#include "guest_linux/unwind_tables.h"

namespace underseer::guest_linux {

enum class Activity : std::uint8_t {
    on_cpu,   // what it does there is in the CPU's registers, and nowhere else yet
    ready,    // it could run, and waits for a CPU
    waiting,  // for something else
    ended     // and not gone yet: a zombie
};

struct TaskMoment {
    std::uint32_t pid = 0, tgid = 0;
    std::uint64_t start_time = 0;  // of its boot, in nanoseconds: another task has another
    GuestVirt mm;                  // its memory: a program that it executes gets another
    bool is_kernel_thread = false;
    Activity activity{};
    char state = '?';                          // the letter that /proc/PID/stat shows of it
    std::uint64_t switches = 0;                // how often it was switched away from
    std::uint64_t user_ns = 0, system_ns = 0;  // CPU time by the kernel's own account
    std::string comm;
    bool is_torn = false;  // it has run while it was read: nothing below is known
    std::string unknown;   // why its stack was not to be read
    // It has not run since the moment before: what was true then still is, and is not read again.
    bool is_unchanged = false;
    std::optional<UserRegisters> user;
    CallStack stack;
};

class TaskSampler {
  public:
    // `memory` is not a cache; both must outlive this. Code::unavailable, with the name, where this
    // kernel's model does not tell what is needed.
    static Result<std::unique_ptr<TaskSampler>> of(Kernel* kernel,
                                                   guest_memory::GuestMemory* memory);

    // `before`: of the same task, to be compared with.
    Result<TaskMoment> sample(GuestVirt task, const TaskMoment* before = nullptr);
    // The tasks of a process by its own list of threads, from any of them; bounded by
    // limits::kMaxTracedThreads, and `all` says whether it went round.
    Result<std::vector<GuestVirt>> threads_of(GuestVirt task, bool& all);

    UnwindTables& tables() { return *tables_; }
    // Nothing is known any more of where things lie, and which modules there are.
    void forget();

  private:
    TaskSampler(Kernel* kernel, guest_memory::GuestMemory* memory);
    Result<TaskMoment> read_members(GuestVirt task);
    Result<void> read_stack(TaskMoment& moment);

    Kernel* kernel_;
    VirtualMemory live_;
    std::optional<UnwindTables> tables_;
    UnwindBy unwind_by_;
    std::uint64_t stack_bytes_ = 0;
    std::vector<std::byte> bytes_;  // of a task_struct, up to the last member that is needed
    // Of what was read last.
    GuestVirt stack_, signal_;
    std::uint64_t sp_ = 0;
    bool compat_call_ = false;
    struct {
        Field pid, tgid, start, state, exit_state, flags, on_cpu, on_rq, delayed, voluntary,
            involuntary, stack, sp, user_time, system_time, comm, thread_status, signal,
            thread_node, mm;
        Field thread_head;
        Field frame_bp, frame_code;
    } f_;
};

}  // namespace underseer::guest_linux
