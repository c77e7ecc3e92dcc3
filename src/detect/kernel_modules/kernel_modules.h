// Kernel modules: those that some of the kernel's records show and others do not, and those that
// did not come with the kernel.
#pragma once

#include "detect/check.h"

namespace underseer::detect::kernel_modules {

inline constexpr std::string_view kName = "kernel_modules";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::kernel_modules
