// The commands of `underseer`: each is one row of the table in commands.cpp.
#pragma once

#include "base/result.h"
#include "options.h"

namespace underseer::cli {

// What the program takes: help, manual and completion come from it.
const program::Program& description();

// Runs one command and prints its result. The value is the exit status when nothing failed: 0, or
// 1 when a check has found something, 10 when it could not look.
Result<int> run(const Options& options);

// The exit status for an error.
int exit_status(const Error& error);

}  // namespace underseer::cli
