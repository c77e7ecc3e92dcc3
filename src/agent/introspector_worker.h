// The inside of the introspector's jail.
#pragma once

#include "agent/introspector.h"

namespace underseer::agent {

// Closes the jail, then answers questions until the channel closes. Returns the exit status.
// `source.fds` are open in this process as first_memory_fd .. + fd_count - 1.
int run_introspector(int channel_fd, int first_memory_fd, int fd_count, GuestSource source);

}  // namespace underseer::agent
