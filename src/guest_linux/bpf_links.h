// One BPF link: what its own record says.
#pragma once

#include "event/observation.h"
#include "guest_linux/bpf_targets.h"

namespace underseer::guest_linux {

struct BpfLinkRecord {
    event::BpfLink link;  // without program_id
    GuestVirt program;    // its struct bpf_prog; null of one that has none (of struct_ops)
    GuestVirt at;         // as of BpfTarget; null where it is attached to nothing any more
};

// `link` is a struct bpf_link, whatever struct it is a part of.
Result<BpfLinkRecord> read_bpf_link(Kernel& kernel, BpfTargets& targets, GuestVirt link);

}  // namespace underseer::guest_linux
