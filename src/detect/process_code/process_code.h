// Code in the memory of processes that is not what their files say, or that no file is behind.
#pragma once

#include "detect/check.h"

namespace underseer::detect::process_code {

inline constexpr std::string_view kName = "process_code";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::process_code
