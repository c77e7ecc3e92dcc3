// Processes of the guest's own containers that have left them.
#pragma once

#include "detect/check.h"

namespace underseer::detect::container_escape {

inline constexpr std::string_view kName = "container_escape";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::container_escape
