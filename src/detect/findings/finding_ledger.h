// FindingLedger: turns what checks say, look after look, into findings that have a life. A
// condition that lasts is one finding: opened once, updated when something about it changes, closed
// when it is gone. No clock and no I/O: time comes in with each report.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "event/finding.h"

namespace underseer::detect {

class FindingLedger {
  public:
    // Absent from this many complete looks in a row: it is gone. One look may have been unlucky.
    static constexpr unsigned kLooksToClose = 2;
    // A finding that lasts is said again after this long even when nothing about it changes. What
    // is informational is said no more often: debuggers and tracers come and go all day, and so it
    // is not closed either before it has been absent for as long.
    static constexpr std::uint64_t kRepeatNs = 3'600ull * 1'000'000'000;
    // A guest can make findings as fast as it can make processes; beyond this many of one instance
    // one finding stands for the rest.
    static constexpr std::size_t kMaxOpenOfInstance = 1000;

    // A finding that was open when the agent ended.
    void restore(event::OpenFinding open);

    // What changes by this report. An unavailable report changes nothing: not seeing is not
    // knowing.
    std::vector<event::FindingChange> report(const std::string& instance_id,
                                             const event::CheckReport& report,
                                             std::uint64_t now_ns);
    // Closes whatever is open for an instance that is no more.
    std::vector<event::FindingChange> end(const std::string& instance_id, const std::string& why,
                                          std::uint64_t now_ns);

    std::vector<event::OpenFinding> open() const;

  private:
    struct Entry {
        event::OpenFinding open;
        std::uint64_t told_ns = 0;  // when its last change was said
        unsigned absent_looks = 0;
    };
    using Key = std::pair<std::string, std::string>;  // rule, Finding::key
    using Entries = std::map<Key, Entry>;

    void see(const std::string& instance_id, const event::Finding& finding, std::uint64_t now_ns,
             Entries& entries, std::vector<event::FindingChange>& changes);
    static void miss(const event::CheckReport& report, std::uint64_t now_ns, Entries& entries,
                     std::vector<event::FindingChange>& changes);

    std::map<std::string, Entries> instances_;
};

}  // namespace underseer::detect
