// `underseer trace --exact`: every system call of one process.
#pragma once

#include <chrono>
#include <string>

#include "agent/exact_form.h"
#include "options.h"

namespace underseer::cli {

// As strace shows it: "[pid 12] openat(AT_FDCWD, \"/etc/passwd\", O_RDONLY) = 3".
std::string text_of(const agent::ExactCall& call);
std::string text_of(const agent::ExactSummary& summary);

Result<int> trace_exactly(const Options& options, std::chrono::milliseconds duration);

}  // namespace underseer::cli
