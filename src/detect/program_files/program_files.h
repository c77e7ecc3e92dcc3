// Processes whose program is no file: it was never one (memfd), or somebody has deleted it.
#pragma once

#include "detect/check.h"

namespace underseer::detect::program_files {

inline constexpr std::string_view kName = "program_files";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::program_files
