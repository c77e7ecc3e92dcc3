// Checks a log from nothing but its files and the public enrolment key. Independent of the writer:
// it shares no code with it, so that a mistake in one is not repeated in the other.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "crypto/signing.h"
#include "event_log/files.h"

namespace underseer::event_log {

// Ordered by weight: a log's state is the heaviest of what was found in it.
enum class LogState : std::uint8_t {
    intact,     // every byte is signed, chained, and as far as the head file says
    torn_tail,  // behind the last synced record: bytes such as a crash leaves
    gap,        // what is there is genuine, but records are missing
    cannot_verify,
    tampered,  // bytes that the agent did not write, or not there
};
std::string_view to_string(LogState state);

struct BadRecord {
    std::string file;          // name inside the log directory
    std::uint64_t line = 0;    // of that file, from 1; 0 when the file as a whole is meant
    std::uint64_t offset = 0;  // in that file, in bytes
    std::uint64_t seq = 0;     // of the first event that is concerned
    std::string what;
};

struct VerifyReport {
    LogState state = LogState::intact;
    std::optional<BadRecord> first_bad;  // set unless intact
    std::vector<std::string> notes;      // for people: restarts, recorded gaps, bytes being written

    std::string agent;
    std::string log;
    std::uint64_t segments = 0;
    std::uint64_t epochs = 0;
    std::uint64_t batches = 0;
    std::uint64_t events = 0;
    std::uint64_t first_seq = 0;  // 0: no events
    std::uint64_t last_seq = 0;
    std::uint64_t unclean_ends = 0;                // runs of the agent that did not close the log
    std::map<std::string, std::uint64_t> dropped;  // events that the agent says it lost, by source
    bool being_written = false;                    // an agent had the log open

    // 0 intact, 1 tampered, 2 torn tail or gap, 3 cannot verify.
    int exit_code() const;
    std::string to_text() const;
};

struct VerifyOptions {
    std::filesystem::path head;        // empty: `head` in the log directory
    bool expect_head = true;           // false: an exported copy, which has none
    std::optional<std::string> agent;  // what the log must call itself; otherwise tampered
    std::optional<std::string> log;
    std::uint64_t first_segment = 0;  // begin there (earlier ones are not looked at)
};

// Never fails: what cannot be read is a state of the log. The log may be in use.
VerifyReport verify(const std::filesystem::path& directory, const crypto::PublicKey& enrolment,
                    const VerifyOptions& options = {}, Files& files = Files::system());

}  // namespace underseer::event_log
