// Programs that the kernel itself starts: for a crash, a module, a device.
#pragma once

#include "detect/check.h"

namespace underseer::detect::helper_programs {

inline constexpr std::string_view kName = "helper_programs";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

// Which program of the guest's own the kernel starts where the variable `symbol` ("core_pattern",
// ..) holds `text`; "" when it is the system's, or none.
std::string_view foreign_program(std::string_view symbol, std::string_view text);

}  // namespace underseer::detect::helper_programs
