// The checks of one guest, made one after the other.
#pragma once

#include "options.h"
#include "target.h"

namespace underseer::cli {

// First whether the guest's CPUs run the kernel that is looked into, so that the other checks look
// into the right one.
Result<agent::Answer<event::CheckReport>> run_checks(Target& target, const Options& options);

struct FindingCounts {
    std::size_t alarming = 0, informational = 0;
};
FindingCounts count_findings(const std::vector<event::CheckReport>& reports);
// "2 findings", "no finding, 1 informational", ..
std::string text_of(const FindingCounts& counts);

// 1: a finding that is more than informational; 10: a check could not be made; 0: all is clean.
// That nobody tells the CPUs' registers is said, and is no reason for 10: most ways to run a VM do
// not tell them.
int outcome_of(const std::vector<event::CheckReport>& reports);

}  // namespace underseer::cli
