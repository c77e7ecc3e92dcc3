// What BPF programs are attached to, in the operator's words: interfaces, cgroups, events, ..
#pragma once

#include <optional>
#include <string>

#include "guest_linux/kernel.h"
#include "guest_linux/paths.h"
#include "guest_linux/tasks.h"

namespace underseer::guest_linux {

// The kernel's name of an enumerator in small letters, without its prefix: "raw_tracepoint" for 1
// of bpf_link_type. "type 1" where it has no name.
std::string bpf_word(const Kernel& kernel, std::string_view enumeration, std::string_view prefix,
                     std::uint64_t value);

// What is told of one thing that a program is attached to.
struct BpfTarget {
    std::string kind, text;
    GuestVirt at;  // what makes two of them the same: a tracepoint, a trampoline, ..
};

class BpfTargets {
  public:
    // All three must outlive this.
    BpfTargets(Kernel* kernel, Paths* paths, Tasks* tasks)
        : kernel_(*kernel), paths_(*paths), tasks_(*tasks) {}

    // "eth0", with its namespace where that is not the first: "eth0 of net:[4026532210]".
    Result<std::string> interface(GuestVirt device);
    Result<std::string> net_namespace(GuestVirt net);
    Result<std::string> cgroup(GuestVirt group) { return tasks_.cgroup_path(group); }
    Result<std::string> path(GuestVirt path) { return paths_.of_path(path); }
    // "inet_ingress", as the kernel names the place in a cgroup's arrays.
    std::string cgroup_slot(std::uint64_t slot) const;
    // Where packets pass netfilter: "IPv4 input".
    static std::string netfilter_place(std::uint64_t family, std::uint64_t hook);
    // The function of the kernel that a program was loaded for ("fentry", "lsm", ..).
    Result<BpfTarget> function_of(GuestVirt program);
    // A trace event: a tracepoint's, or one made of a kprobe or uprobe.
    Result<BpfTarget> trace_event(GuestVirt call);
    // A perf event: a trace event's, or one that counts.
    Result<BpfTarget> perf_event(GuestVirt event);
    // Text that a pointer leads to; empty where it is null.
    Result<std::string> text(GuestVirt structure, const Field& pointer);

  private:
    std::string function_text(GuestVirt address);
    Result<BpfTarget> kprobe(GuestVirt probe);
    Result<BpfTarget> uprobe(GuestVirt probe);

    Kernel& kernel_;
    Paths& paths_;
    Tasks& tasks_;
    // Of trace_event_call.flags; which bits they are changes with every other kernel.
    struct EventFlags {
        std::uint64_t kprobe = 0, uprobe = 0, tracepoint = 0;
    };
    std::optional<EventFlags> flags_;
};

}  // namespace underseer::guest_linux
