// The inside of the introspector's jail.
#pragma once

#include "base/result.h"
#include "jail/channel.h"

namespace underseer::agent {

// Reads from the channel what it is to look into (its fds follow), closes the jail, then answers
// questions until the channel closes.
Result<void> run_introspector(jail::Channel channel);

}  // namespace underseer::agent
