// The kernel's constant tables of functions, and where they lead.
#pragma once

#include "detect/check.h"

namespace underseer::detect::kernel_tables {

inline constexpr std::string_view kName = "kernel_tables";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::kernel_tables
