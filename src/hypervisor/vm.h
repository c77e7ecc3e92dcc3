// What is known about one virtual machine of this host, before anything of its memory is read.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

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
};

struct Vm {
    pid_t pid = -1;
    std::uint64_t start_ticks = 0;  // with the pid: which process this is
    std::string name;               // "" when the VMM was given none
    std::string uuid;
    std::string executable;
    std::string machine;  // "q35", "pc", "microvm", ..
    std::string accelerator;
    std::uint64_t memory_bytes = 0;
    std::vector<RamBlock> ram_blocks;  // in guest-physical order
    std::optional<std::uint64_t> max_ram_below_4g;
    RamBacking backing = RamBacking::unknown;
    std::string managed_by;          // "libvirt", "by hand"
    std::string qmp_socket;          // "" when the command line names none
    std::string not_introspectable;  // why; "" when it can be looked into

    // What an operator may call it by: its name, else its pid.
    std::string label() const { return name.empty() ? "pid-" + std::to_string(pid) : name; }
};

}  // namespace underseer::hypervisor
