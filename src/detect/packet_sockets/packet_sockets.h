// Who reads the network below its own connections: packet and raw sockets.
#pragma once

#include "detect/check.h"

namespace underseer::detect::packet_sockets {

inline constexpr std::string_view kName = "packet_sockets";
std::span<const Rule> rules();
event::CheckReport inspect(Snapshot& snapshot);

}  // namespace underseer::detect::packet_sockets
