// Loaded modules, from the kernel's own list.
#pragma once

#include "event/observation.h"
#include "guest_linux/open_files.h"

namespace underseer::guest_linux {

Result<Listing<event::Module>> list_modules(Kernel& kernel);

}  // namespace underseer::guest_linux
