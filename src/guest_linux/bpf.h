// BPF in the guest's kernel: programs, maps and links, as its own tables have them and as the
// places do where programs are attached.
#pragma once

#include <span>
#include <vector>

#include "event/observation.h"
#include "guest_linux/gaps.h"
#include "guest_linux/kernel.h"
#include "guest_linux/open_files.h"
#include "guest_linux/paths.h"
#include "guest_linux/tasks.h"

namespace underseer::guest_linux {

// In the order of their numbers. Who holds them open is not among it: add_bpf_owners().
struct BpfObjects {
    std::vector<event::BpfProgram> programs;
    std::vector<event::BpfMap> maps;
    // With those that no table has: found where their programs are attached, or, where such a place
    // names its program alone, known to be there.
    std::vector<event::BpfLink> links;
    Gaps gaps;
};

// From prog_idr, bpf_kallsyms, map_idr and link_idr, each by itself, and from every place where the
// kernel finds the programs that it runs (bpf_places.h); perf events are those of `tasks`. Parts of
// a program (subprograms) and classic filters are not listed. Code::unavailable when no table of
// programs can be read.
Result<BpfObjects> list_bpf(Kernel& kernel, Paths& paths, Tasks& tasks,
                            std::span<const GuestVirt> task_addresses);

// Which processes have them open. What could not be read is told.
Gaps add_bpf_owners(Kernel& kernel, OpenFiles& files, Tasks& tasks,
                    std::span<const GuestVirt> task_addresses, BpfObjects& objects);

}  // namespace underseer::guest_linux
