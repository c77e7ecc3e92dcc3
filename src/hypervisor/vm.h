// What is known about one virtual machine of this host, before anything of its memory is read.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "event/observation.h"

namespace underseer::hypervisor {

// How a VM's RAM lies in its VMM.
enum class RamBacking : std::uint8_t { unknown, shared_memfd, shared_file, hugetlbfs, anonymous };
std::string_view to_string(RamBacking backing);

// One memory backend as the command line describes it.
struct RamBlock {
    std::string id;
    std::uint64_t size_bytes = 0;
    bool shared = false;
    std::string path;  // mem-path of a file backend

    bool operator==(const RamBlock&) const = default;
    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"id", &RamBlock::id}, Field{"size_bytes", &RamBlock::size_bytes},
                          Field{"shared", &RamBlock::shared}, Field{"path", &RamBlock::path}};
    }
};

// Whose a VM is, in the words of the operator (docs/instances.md).
struct Identity {
    std::string tenant;
    std::string app_instance_id;  // MEC appInstanceId
    std::string app_d_id;         // MEC appDId
    std::vector<std::string> labels;

    bool operator==(const Identity&) const = default;
    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"tenant", &Identity::tenant},
                          Field{"app_instance_id", &Identity::app_instance_id},
                          Field{"app_d_id", &Identity::app_d_id},
                          Field{"labels", &Identity::labels}};
    }
};

// What manages a VM says of it: libvirt, or the VMM's own QMP monitor. What it does not say is
// empty. TRUST: the texts are the VMM's, or those of whoever defined the domain.
struct ManagerFacts {
    std::string source;  // "libvirt", "QMP"
    std::string name, uuid;
    std::string state;         // "running", "paused", .. in QEMU's words (qapi/run-state.json)
    std::string machine;       // machine type, with its version
    std::string confidential;  // why its memory is encrypted; "" when it is not said to be
    bool kvm = false;
    std::uint64_t memory_bytes = 0;   // at boot
    std::uint64_t plugged_bytes = 0;  // added since
    std::string ram_backend;          // id of the only backend
    std::uint64_t max_ram_below_4g = 0;
    std::vector<RamBlock> backends;  // in no order
    std::vector<event::CpuRegisters> cpus;
    Identity identity;
    std::string done;  // what came of an order

    static constexpr auto fields() {
        using event::Field;
        using F = ManagerFacts;
        return std::tuple{Field{"source", &F::source},
                          Field{"name", &F::name},
                          Field{"uuid", &F::uuid},
                          Field{"state", &F::state},
                          Field{"machine", &F::machine},
                          Field{"confidential", &F::confidential},
                          Field{"kvm", &F::kvm},
                          Field{"memory_bytes", &F::memory_bytes},
                          Field{"plugged_bytes", &F::plugged_bytes},
                          Field{"ram_backend", &F::ram_backend},
                          Field{"max_ram_below_4g", &F::max_ram_below_4g},
                          Field{"backends", &F::backends},
                          Field{"cpus", &F::cpus},
                          Field{"identity", &F::identity},
                          Field{"done", &F::done}};
    }
};

struct Vm {
    pid_t pid = -1;
    std::uint64_t start_ticks = 0;  // with the pid: which process this is
    uid_t user = 0;                 // whose process it is
    gid_t group = 0;
    std::string name;  // "" when the VMM was given none
    std::string uuid;
    std::string executable;
    std::string machine;  // "q35", "pc", "microvm", ..
    std::string accelerator;
    std::uint64_t memory_bytes = 0;
    std::vector<RamBlock> ram_blocks;  // in guest-physical order
    std::optional<std::uint64_t> max_ram_below_4g;
    RamBacking backing = RamBacking::unknown;
    std::string image;               // file of the first disk that the command line names; "": none
    std::string managed_by;          // "libvirt", "by hand"
    std::string libvirt_name;        // the domain that libvirt says it is; "": it says nothing
    bool in_libvirt_cgroup = false;  // where only libvirt puts processes
    std::string qmp_socket;          // "" when the command line names none
    std::string state;               // "running", "paused", ..; "" when nobody tells
    std::vector<event::CpuRegisters> cpus;  // as told a moment ago; empty when nobody tells
    Identity identity;                      // by libvirt's metadata
    std::string not_introspectable;         // why; "" when it can be looked into
    std::vector<std::string> notes;  // what its sources disagree about, and what may be missed

    // What an operator may call it by: its name, else its pid.
    std::string label() const { return name.empty() ? "pid-" + std::to_string(pid) : name; }
};

}  // namespace underseer::hypervisor
