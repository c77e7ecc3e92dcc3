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

// Walks /proc. What a process is, is decided by its executable alone: a regular file owned by root
// that nobody else may write, in a system directory, with the name of a QEMU. `proc` is for tests.
Result<Host> discover(const std::filesystem::path& proc = "/proc");

// The VM that `wanted` names: its name, UUID (or an unambiguous beginning of it) or pid.
// Code::not_found or Code::ambiguous, with what there is.
Result<Vm> select(const Host& host, std::string_view wanted);

}  // namespace underseer::hypervisor
