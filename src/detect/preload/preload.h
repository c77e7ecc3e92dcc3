// Libraries that the environment forces into programs (LD_PRELOAD, LD_AUDIT).
#pragma once

#include "detect/check.h"

namespace underseer::detect::preload {

inline constexpr std::string_view kName = "preload";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::preload
