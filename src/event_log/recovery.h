// What a writer does with a log that is there already, before it goes on with it.
#pragma once

#include "event_log/walk.h"
#include "event_log/writer.h"

namespace underseer::event_log {

// Where the next segment connects, and what it must record.
struct Recovery {
    OpenedLog opened;
    std::uint64_t segment = 1;  // number of the new segment
    std::uint64_t epoch = 1;
    std::uint64_t batch = 1;
    std::uint64_t seq = 1;
    crypto::Digest prev{};
    std::uint64_t oldest = 1;
    unsigned head_slot = 0;  // of the head file, to be written first: not the newest good one
    std::uint64_t torn_chain_bytes = 0;
    std::uint64_t torn_event_bytes = 0;
    // Records that the head file promises and that are not there. First to last.
    std::uint64_t lost_batch_first = 0, lost_batch_last = 0;
    std::uint64_t lost_seq_first = 0, lost_seq_last = 0;
};

// Verifies the end of the log, sets a torn tail aside, and makes sure that what it builds upon is
// on the disk. Nothing that looks tampered with is changed.
Result<Recovery> recover(const std::filesystem::path& directory,
                         const std::filesystem::path& head_path, const WriterOptions& options,
                         const crypto::PublicKey& enrolment, Files& files);

}  // namespace underseer::event_log
