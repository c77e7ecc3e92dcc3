// YARA over the memory of a guest's processes, in steps of about a second. The inside of a jail:
// the rules are compiled here, and what they look at leaves only as short excerpts.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "agent/introspection.h"
#include "guest_linux/guest.h"
#include "scan/rules.h"

namespace underseer::agent {

class MemoryScan {
  public:
    template <typename T>
    using Listing = guest_linux::Listing<T>;

    MemoryScan();
    ~MemoryScan();
    MemoryScan(const MemoryScan&) = delete;

    // Rules come in parts, and are used once they are compiled. Those before are forgotten then.
    Result<Listing<CompiledRules>> add_rules(const std::vector<RuleText>& parts);
    Result<Listing<CompiledRules>> compile();

    // Of all processes, or of one. Each file that any of them maps is scanned once, as a file, and
    // each process's own pages as its memory.
    Result<Listing<ScanPart>> begin(guest_linux::Guest& guest, std::optional<std::uint32_t> pid);
    Result<Listing<ScanPart>> go_on(guest_linux::Guest& guest);
    // Whatever was begun is over: another kernel runs.
    void leave_guest();

  private:
    class Look;

    std::vector<scan::RuleFile> files_;
    std::size_t rule_bytes_ = 0;
    std::optional<scan::Rules> rules_;
    std::unique_ptr<Look> look_;
};

}  // namespace underseer::agent
