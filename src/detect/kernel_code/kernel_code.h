// Code in the kernel that the kernel knows nothing of.
#pragma once

#include "detect/check.h"

namespace underseer::detect::kernel_code {

inline constexpr std::string_view kName = "kernel_code";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::kernel_code
