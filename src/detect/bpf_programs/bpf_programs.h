// BPF programs, maps and links that the guest hides, and programs that change what others see.
#pragma once

#include "detect/check.h"

namespace underseer::detect::bpf_programs {

inline constexpr std::string_view kName = "bpf_programs";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::bpf_programs
