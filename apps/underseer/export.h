// `underseer export`: the kernel model of a guest as a symbol file for Volatility 3.
#pragma once

#include "agent/introspector.h"
#include "options.h"

namespace underseer::cli {

// Writes an ISF to options.argument, or beside where we are under the name of the kernel. The value
// is the exit status.
Result<int> export_symbols(Options options);

}  // namespace underseer::cli
