// Processes that go by a false name: programs that call themselves kernel threads, processes that
// the kernel is made to take for its own threads, programs from scratch folders under the name of a
// system's program.
#pragma once

#include "detect/check.h"

namespace underseer::detect::process_names {

inline constexpr std::string_view kName = "process_names";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::process_names
