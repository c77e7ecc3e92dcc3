// `underseer report`: all that can be seen of a guest, in one HTML file.
#pragma once

#include "base/result.h"
#include "options.h"

namespace underseer::cli {

// The value is the exit status: 0, 1 when there are findings, 10 when a check could not look.
Result<int> report(const Options& options);

}  // namespace underseer::cli
