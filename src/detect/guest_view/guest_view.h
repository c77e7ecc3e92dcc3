// The lie detector: whether what a guest shows of itself can be believed.
#pragma once

#include "detect/check.h"

namespace underseer::detect::guest_view {

inline constexpr std::string_view kName = "guest_view";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::guest_view
