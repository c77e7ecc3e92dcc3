// What one process does, as a trace has seen it.
#pragma once

#include <chrono>
#include <string>

#include "agent/introspector.h"
#include "agent/trace_form.h"
#include "options.h"

namespace underseer::cli {

// "read(fd=3</tmp/fifo>, buf=0x7ffe1000, count=4096)"
std::string text_of(const agent::TraceCall& call);
// Each thread, where it was in which share of its samples, and how it came there.
std::string text_of(const agent::TraceReport& report);

// A sampled trace by an introspector of our own, after an exact one.
Result<agent::TraceReport> sample(agent::Introspector& introspector, std::uint32_t pid,
                                  std::chrono::milliseconds duration);

Result<int> trace(const Options& options);

}  // namespace underseer::cli
