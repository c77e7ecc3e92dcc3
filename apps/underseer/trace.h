// What one process does, as a trace has seen it.
#pragma once

#include <string>
#include <vector>

#include "agent/trace_form.h"
#include "options.h"

namespace underseer::cli {

// What `trace --json` prints.
struct TraceReport {
    agent::TraceSummary summary;
    std::vector<agent::TraceThread> threads;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"summary", &TraceReport::summary},
                          Field{"threads", &TraceReport::threads}};
    }
};

// "read(fd=3</tmp/fifo>, buf=0x7ffe1000, count=4096)"
std::string text_of(const agent::TraceCall& call);
// Each thread, where it was in which share of its samples, and how it came there.
std::string text_of(const TraceReport& report);
// Threads that go on in a further part become one.
void join(TraceReport& report, agent::TracePart part);

Result<int> trace(const Options& options);

}  // namespace underseer::cli
