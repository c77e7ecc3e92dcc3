// Mounts of every mount namespace that a task lives in.
#pragma once

#include "event/observation.h"
#include "guest_linux/open_files.h"
#include "guest_linux/paths.h"

namespace underseer::guest_linux {

// `tasks` are task_struct addresses: their mount namespaces are listed, each once.
Result<void> add_mounts(Kernel& kernel, Paths& paths, const std::vector<GuestVirt>& tasks,
                        Listing<event::Mount>& listing);

}  // namespace underseer::guest_linux
