// Turns a task_struct into what an operator calls a process.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "event/observation.h"
#include "guest_linux/kernel.h"
#include "guest_linux/paths.h"

namespace underseer::guest_linux {

inline constexpr std::uint32_t kPfKthread = 0x00200000;  // include/linux/sched.h
inline constexpr std::uint32_t kPidMaxLimit = 4u << 20;  // include/linux/threads.h

// How much is read of each task. Reading argv and environment goes through user page tables.
struct TaskDetail {
    bool user_memory = true;  // argv
    bool environment = false;
    bool paths = true;  // exe, cwd, root, cgroup
};

class Tasks {
  public:
    Tasks(Kernel* kernel, Paths* paths);

    // Code::unavailable when the address does not hold a plausible task (pid beyond PID_MAX_LIMIT,
    // no readable memory). Single members that cannot be had are Observed gaps.
    Result<event::Task> read(GuestVirt task, TaskDetail detail = {});

    // What of a task differs when it has begun, started another program, or got other credentials,
    // another parent, name, cgroup or tracer: as one number.
    Result<std::uint64_t> fingerprint(GuestVirt task);
    // Of one that read() has read and whose fingerprint is the same: what may differ all the same.
    void refresh(event::Task& task);

    // Of the process that a task belongs to.
    Result<std::uint32_t> tgid(GuestVirt task) {
        return static_cast<std::uint32_t>(TRY(kernel_->read(task, f_.tgid)));
    }

    // The process's own address space; Code::unavailable for kernel threads and zombies.
    Result<VirtualMemory> user_memory(GuestVirt task);
    // mm_struct of the task, null for kernel threads.
    Result<GuestVirt> mm(GuestVirt task);

    // Path of a struct cgroup in its hierarchy.
    Result<std::string> cgroup_path(GuestVirt group);

    // Forgets what was remembered of the guest.
    void new_epoch() { boot_time_.reset(), memberships_.clear(); }

  private:
    Result<std::string> state(GuestVirt task);
    Result<std::uint32_t> parent(GuestVirt task);
    Result<std::uint32_t> thread_count(GuestVirt task);
    Result<event::Credentials> credentials(GuestVirt task);
    Result<std::uint64_t> start_time(GuestVirt task);
    Result<std::string> exe(GuestVirt task);
    Result<std::string> fs_path(GuestVirt task, const Field& member);
    Result<std::string> user_text(GuestVirt task, const Field& begin, const Field& end);
    Result<std::vector<std::string>> argv(GuestVirt task);
    Result<std::vector<std::string>> environment(GuestVirt task);
    Result<std::vector<std::uint32_t>> pid_numbers(GuestVirt pid);
    Result<std::vector<std::uint32_t>> namespace_pids(GuestVirt task);
    Result<std::vector<std::uint32_t>> namespace_tgids(GuestVirt task);
    Result<event::Namespaces> namespaces(GuestVirt task);
    Result<std::uint32_t> namespace_number(GuestVirt proxy, const Field& member,
                                           std::string_view structure);
    struct Membership {
        std::string cgroup, container_id;
    };
    Result<Membership> membership(GuestVirt task);
    void read_paths(GuestVirt task, event::Task& result);

    Kernel* kernel_;
    Paths* paths_;
    // Of one look: the guest may set its clock, and a css_set that is freed soon is another one.
    std::optional<std::uint64_t> boot_time_;
    std::unordered_map<GuestVirt, Membership> memberships_;  // by css_set
    struct {
        Field pid, tgid, comm, state, exit_state, flags, real_parent, mm, cred, signal, nsproxy, fs,
            thread_pid, cgroups, start_boottime, ptrace;
        Field nr_threads, thread_head, tgid_pid;
        Field exe_file, pgd, arg_start, arg_end, env_start, env_end;
        Field uid, euid, suid, fsuid, gid, egid, sgid, fsgid, cap_inheritable, cap_permitted,
            cap_effective, cap_bset, cap_ambient, user_ns;
        Field fs_pwd, fs_root;
        Field ns_mnt, ns_net, ns_uts, ns_ipc, ns_cgroup, ns_time;
        Field pid_level, pid_numbers, upid_nr, upid_ns;
        Field css_dfl_cgrp, css_links, link_node, link_cgrp, cgroup_kn, kn_parent, kn_name;
    } f_;
};

// The container id that a cgroup path names, as Docker, Podman, containerd, CRI-O and Kubernetes
// write it ("/docker/<64 hex>", "/.../docker-<64 hex>.scope", "/.../cri-containerd-<64 hex>.scope",
// "/lxc.payload.NAME"); "" when it names none.
std::string container_id_of(std::string_view cgroup_path);

}  // namespace underseer::guest_linux
