// `underseer doctor`: what this host allows, what is missing, and how to get it.
#pragma once

#include "base/result.h"
#include "options.h"

namespace underseer::cli {

// The value is the exit status: 0, or 1 when something that is needed is missing.
Result<int> doctor(const Options& options);

}  // namespace underseer::cli
