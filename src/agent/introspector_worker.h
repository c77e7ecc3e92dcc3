// The inside of the introspector's jail.
#pragma once

namespace underseer::agent {

// Reads from the channel at jail::kFirstWorkerFd what it is to look into (its fds follow), closes
// the jail, then answers questions until the channel closes. Returns the exit status.
int run_introspector();

}  // namespace underseer::agent
