// What protects the kernel from itself and from programs, as the CPUs' control registers have it.
#pragma once

#include <string>
#include <vector>

#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

// What this CPU, which runs the kernel, has off though the kernel has it on: "CR0.WP", "CR4.SMEP",
// "EFER.NXE". What the kernel wants of CR4 it pins itself (cr4_pinned_bits,
// arch/x86/kernel/cpu/common.c, since 5.3); where that cannot be read, nothing is said of CR4.
std::vector<std::string> protections_off(Kernel& kernel, const event::CpuRegisters& cpu);

}  // namespace underseer::guest_linux
