// What one process does, as a trace has seen it.
#pragma once

#include <string>

#include "agent/trace_form.h"
#include "options.h"

namespace underseer::cli {

// "read(fd=3</tmp/fifo>, buf=0x7ffe1000, count=4096)"
std::string text_of(const agent::TraceCall& call);
// Each thread, where it was in which share of its samples, and how it came there.
std::string text_of(const agent::TraceReport& report);

Result<int> trace(const Options& options);

}  // namespace underseer::cli
