// `underseer dump`: a guest's memory into a file.
#pragma once

#include "agent/introspector.h"
#include "options.h"

namespace underseer::cli {

// Writes an ELF core to options.argument. The value is the exit status: 0, or 10 when pages are
// missing.
Result<int> dump(agent::Introspector introspector, const Options& options);

}  // namespace underseer::cli
