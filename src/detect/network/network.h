// Sockets that no process has, and interfaces that are not as they were made.
#pragma once

#include "detect/check.h"

namespace underseer::detect::network {

inline constexpr std::string_view kName = "network";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::network
