// Who traces whom (ptrace): a tracer reads and writes the memory of what it traces.
#pragma once

#include "detect/check.h"

namespace underseer::detect::tracing {

inline constexpr std::string_view kName = "tracing";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::tracing
