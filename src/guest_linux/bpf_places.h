// Where the kernel itself finds the BPF programs that it runs: the arrays and lists of cgroups,
// trampolines, tracepoints, events, interfaces and network namespaces. What is there runs, whether
// any table has it or not.
#pragma once

#include <functional>
#include <span>

#include "guest_linux/bpf_targets.h"
#include "guest_linux/gaps.h"

namespace underseer::guest_linux {

struct BpfPlace {
    GuestVirt program;
    GuestVirt link;  // the struct bpf_link that attaches it; null where the place names none
    BpfTarget target;
    // Programs come here by links alone: where the place names none, there is one nevertheless.
    bool has_link = false;
    // Classic filters come here too, which are in no table.
    bool takes_classic = false;
};

// `tasks` are those whose perf events are looked at. What cannot be read is a gap.
std::vector<BpfPlace> list_bpf_places(Kernel& kernel, BpfTargets& targets,
                                      std::span<const GuestVirt> tasks, Gaps& gaps);

}  // namespace underseer::guest_linux
