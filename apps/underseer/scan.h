// YARA rules over the memory of a guest's processes.
#pragma once

#include <string>
#include <vector>

#include "event/finding.h"
#include "event/observation.h"
#include "options.h"
#include "table.h"

namespace underseer::cli {

// What `scan --json` prints.
struct ScanReport {
    event::Outcome outcome = event::Outcome::unavailable;
    std::string reason;  // why it is not clean although nothing was found
    std::uint64_t rules = 0;
    std::vector<event::MemoryMatch> matches;
    event::ScanCoverage coverage;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"outcome", &ScanReport::outcome},
                          Field{"reason", &ScanReport::reason}, Field{"rules", &ScanReport::rules},
                          Field{"matches", &ScanReport::matches},
                          Field{"coverage", &ScanReport::coverage}};
    }
};

// By what was found and what was not looked at; `timeout`: the person's, and it has passed.
void judge(ScanReport& report, bool timeout);
Table table_of(const std::vector<event::MemoryMatch>& matches);
// "12 processes and 40 files, 310 MiB, by 1 rule. Not looked at: .."
std::string text_of(const event::ScanCoverage& coverage, std::uint64_t rules);

Result<int> scan(const Options& options);

}  // namespace underseer::cli
