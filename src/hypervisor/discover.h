// Finds the QEMU processes of this host.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "hypervisor/vm.h"

namespace underseer::hypervisor {

// A process that looks like a VMM and is not believed to be one.
struct Impostor {
    pid_t pid = -1;
    std::string why;
};

struct Host {
    std::vector<Vm> vms;
    std::vector<Impostor> impostors;
};

// Where libvirtd writes the pids of its VMMs, as root.
inline constexpr const char* kLibvirtRun = "/run/libvirt/qemu";

// Walks /proc. What a process is, is decided by its executable alone: a regular file owned by root
// that nobody else may write, in a system directory, with the name of a QEMU. One whose executable
// may not be examined is listed as not introspectable. The paths are for tests.
Result<Host> discover(const std::filesystem::path& proc = "/proc",
                      const std::filesystem::path& libvirt_run = kLibvirtRun);

// Adds what its manager says to what is known of a VM. Where they contradict each other the manager
// is believed, for the command line can be written over, and the contradiction is noted.
void apply_facts(const ManagerFacts& facts, Vm& vm);

// Whether the domain of libvirt's that `facts` are about is this VM. A UUID alone proves nothing:
// any local user can start a QEMU with it.
bool is_domain(const ManagerFacts& facts, const Vm& vm);

// Whether its monitor may be asked, and is worth it.
bool has_monitor(const Vm& vm);

// Why nobody tells the registers of its CPUs (Vm::cpus), for people.
std::string why_no_registers(const Vm& vm);

// The VM that `wanted` names: its name, UUID (or an unambiguous beginning of it) or pid.
// Code::not_found or Code::ambiguous, with what there is.
Result<Vm> select(const Host& host, std::string_view wanted);

}  // namespace underseer::hypervisor
