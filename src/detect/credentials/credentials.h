// Credentials that the kernel's own ways cannot have made: shared between processes, taken from the
// kernel, changed in place, root without anybody who could have passed it on.
#pragma once

#include "detect/check.h"

namespace underseer::detect::credentials {

inline constexpr std::string_view kName = "credentials";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::credentials
