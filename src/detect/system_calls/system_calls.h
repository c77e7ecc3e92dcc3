// Who answers system calls and interrupts.
#pragma once

#include "detect/check.h"

namespace underseer::detect::system_calls {

inline constexpr std::string_view kName = "system_calls";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::system_calls
