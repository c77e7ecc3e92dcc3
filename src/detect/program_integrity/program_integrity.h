// Programs and libraries that processes execute, against the packages that they came from.
#pragma once

#include "detect/check.h"

namespace underseer::detect::program_integrity {

inline constexpr std::string_view kName = "program_integrity";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::program_integrity
