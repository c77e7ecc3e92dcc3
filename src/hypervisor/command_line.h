// What a QEMU command line says. TRUST: the text is the process's own and may say anything; it is a
// description to be checked, and no path in it is opened.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "hypervisor/vm.h"

namespace underseer::hypervisor {

// Fills name, uuid, machine, accelerator, memory, RAM blocks, first disk, QMP socket and why the VM
// cannot be introspected (confidential guests) into `vm`.
void apply_command_line(const std::vector<std::string>& arguments, Vm& vm);

// "pc-q35-7.2" is "q35": machine types carry a version; what matters is the chipset.
std::string chipset(std::string_view machine_type);

// "512" (MiB by default), "4G", "size=4G", "1024M,slots=2,maxmem=8G".
Result<std::uint64_t> parse_memory_size(std::string_view text, std::uint64_t default_unit);

}  // namespace underseer::hypervisor
