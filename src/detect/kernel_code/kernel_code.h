// Code in the kernel that the kernel knows nothing of.
#pragma once

#include "detect/check.h"

namespace underseer::detect::kernel_code {

inline constexpr std::string_view kName = "kernel_code";
// The rule about code that differs from what a guest was first seen to run. Which of both is
// altered, only all guests together tell (findings/odd_one_out.h).
inline constexpr std::string_view kUnlikeFirstSeen = "code_unlike_first_seen";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::kernel_code
