// Programs that the kernel itself starts: for a crash, a module, a device.
#pragma once

#include "detect/check.h"

namespace underseer::detect::helper_programs {

inline constexpr std::string_view kName = "helper_programs";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::helper_programs
