// Who does input and output by io_uring, which makes no system call for each.
#pragma once

#include "detect/check.h"

namespace underseer::detect::io_uring {

inline constexpr std::string_view kName = "io_uring";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::io_uring
