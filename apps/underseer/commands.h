// The commands of `underseer`.
#pragma once

#include "base/result.h"
#include "options.h"

namespace underseer::cli {

std::string help_text();

// Runs one command and prints its result. The value is the exit status when nothing failed: 0, or
// 1 when a check has found something, 10 when it could not look.
Result<int> run(const Options& options);

// The exit status for an error; documented in help_text().
int exit_status(const Error& error);

}  // namespace underseer::cli
