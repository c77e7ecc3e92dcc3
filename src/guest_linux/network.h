// Sockets and network interfaces.
#pragma once

#include "event/observation.h"
#include "guest_linux/gaps.h"
#include "guest_linux/open_files.h"

namespace underseer::guest_linux {

// Sockets that processes hold open, with their owners, and those that only the kernel's own tables
// have: of TCP (TIME_WAIT, not yet accepted), UDP and raw ones. `tasks` are task_struct addresses.
// What cannot be read is noted in `listing`; `waiting` also tells which tables of those who wait
// for others (TCP listeners, UDP, raw) are not whole.
Result<void> add_sockets(Kernel& kernel, OpenFiles& files, const std::vector<GuestVirt>& tasks,
                         Listing<event::Socket>& listing, Gaps& waiting);

// Interfaces of every network namespace.
Result<Listing<event::NetworkInterface>> list_interfaces(Kernel& kernel);

}  // namespace underseer::guest_linux
