// Who has the kernel call code when something happens.
#pragma once

#include "detect/check.h"

namespace underseer::detect::kernel_hooks {

inline constexpr std::string_view kName = "kernel_hooks";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::kernel_hooks
