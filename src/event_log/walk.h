// The verifier's walk over a log, and what it learns for a writer that wants to go on with it.
#pragma once

#include "event_log/chain_line.h"
#include "event_log/verify.h"

namespace underseer::event_log {

// The head file: two slots, written in turn, each an epoch record and a head record.
struct Head {
    enum class State : std::uint8_t { absent, valid, damaged };
    State state = State::absent;
    bool one_slot_damaged = false;  // as a crash leaves it while the other is good
    unsigned slot = 0;              // the newest good one; the rest is from it
    HeadLine line;
    std::uint64_t epoch = 0;
    std::uint64_t batch = 0;
    std::uint64_t segment = 0;
    std::string agent;
    std::string log;
};
Result<Head> read_head(Files& files, const std::filesystem::path& path,
                       const crypto::PublicKey& enrolment);

// Where a log ends. All numbers are of genuine records.
struct LogEnd {
    std::uint64_t epoch = 0;
    std::uint64_t batch = 0;
    std::uint64_t seq = 0;
    crypto::Digest hash{};        // of the last chain line; zeros when there is none
    std::uint64_t oldest = 1;     // as the newest epoch record says
    bool clean = false;           // the last batch closed the log
    std::uint64_t segment = 0;    // newest of which a file is there; 0: none
    std::uint64_t chain_end = 0;  // bytes of that segment which genuine records cover
    std::uint64_t events_end = 0;
    bool segment_tampered = false;  // leave its bytes alone: they are evidence
    bool truncated = false;         // the head says that more had been synced
    bool blocked = false;  // unreadable, of another version, or another agent's: no going on
};

struct Walk {
    VerifyReport report;
    LogEnd end;
    Head head;
};

// A log that is in use may end in bytes that are just being written.
enum class InUse : std::uint8_t { by_nobody, ask_the_lock };
Walk walk_log(const std::filesystem::path& directory, const crypto::PublicKey& enrolment,
              const VerifyOptions& options, Files& files, InUse in_use);

}  // namespace underseer::event_log
