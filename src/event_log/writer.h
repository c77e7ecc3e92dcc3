// Writes a log: events, and a chain of signed batches over them (docs/log-format.md).
//
// Critical and bulk events are two logs in two directories. One thread uses a Writer.
//
//     append() -> [batch in memory] -> seal_batch() -> [files] -> sync() -> [disk, head file]
//
// An event is in the log once its batch is sealed, and safe once sync() has returned. Until then a
// killed process loses it (at most WriterOptions::batch_age of events when tick() is called).
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/limits.h"
#include "base/os.h"
#include "crypto/signing.h"
#include "event_log/files.h"

namespace underseer::event_log {

struct WriterOptions {
    std::string agent;           // who writes; at most 128 bytes, as are the next two
    std::string log;             // which of its logs: "critical", "bulk"
    std::string boot_id;         // of this start of the host
    std::filesystem::path head;  // head file; empty: `head` in the log directory

    std::size_t batch_events = limits::kMaxBatchEvents;
    std::size_t batch_bytes = limits::kMaxBatchBytes;
    std::uint64_t segment_bytes = 64u << 20;  // a new segment is begun behind this size
    std::chrono::milliseconds batch_age{1000};
    std::chrono::milliseconds sync_age{1000};     // tick() syncs what has been sealed this long
    std::chrono::milliseconds heartbeat{30'000};  // tick() writes an empty batch after silence
    std::chrono::milliseconds epoch_age{3'600'000};
};

struct Dependencies {
    const Clock* clock = &Clock::system();
    Files* files = &Files::system();
    crypto::Random* random = &crypto::Random::system();
};

struct Position {
    std::uint64_t seq = 0;  // events count from 1, over all segments and restarts
};

// What the log was like when it was opened. All but `fresh` and `clean` belongs into an event.
struct OpenedLog {
    bool fresh = false;            // there was no log
    bool clean = false;            // the run before had closed it
    std::uint64_t torn_bytes = 0;  // set aside into *.torn
    std::vector<std::string> torn_files;
    std::uint64_t lost_batches = 0;  // had been synced and were missing
    std::uint64_t lost_events = 0;
    std::string found;  // what else was wrong; empty: nothing
    std::uint64_t next_seq = 1;
};

class Writer {
  public:
    // Opens or makes a log. Each opening begins a new segment and a new epoch, whose key lives in
    // memory only and is certified by `enrolment` (captured; must outlive the writer). A torn tail
    // is set aside; whatever else is wrong with the log is recorded in it, and it goes on.
    // Code::unavailable when another process has it open.
    static Result<Writer> open(const std::filesystem::path& directory, WriterOptions options,
                               const crypto::SigningKey* enrolment, Dependencies dependencies = {});

    // One event: 1 to limits::kMaxEventBytes bytes without a newline, stored as they are.
    Result<Position> append(Bytes event);

    // Events that a source lost before they came here; goes into the next batch.
    void note_dropped(std::string_view source, std::uint64_t count);

    Result<void> seal_batch();    // nothing to say: nothing is written
    Result<void> sync();          // seals; when it returns, everything appended is on the disk
    Result<void> rotate_epoch();  // seals; the old key is erased
    Result<void> tick();          // what is due by time; call it a few times a second
    Result<void> close();         // closing batch and sync; the writer is then of no more use

    // Forgets segments below `segment` (never the newest): the log says first that it begins
    // there, then the files go.
    Result<void> remove_segments_before(std::uint64_t segment);

    // After the first failed write, sync or signature the log takes no more: what is on the disk
    // is not known then. Why it stopped; open it again.
    const std::optional<Error>& poison() const;

    std::uint64_t next_seq() const;
    std::uint64_t synced_seq() const;  // last event that is safe; only these may be sent on
    std::uint64_t segment() const;
    const OpenedLog& opened() const;

    Writer(Writer&&) noexcept;
    Writer& operator=(Writer&&) noexcept;
    ~Writer();  // does not close: what is not synced may be lost

  private:
    class Core;
    explicit Writer(std::unique_ptr<Core> core);
    std::unique_ptr<Core> core_;
};

}  // namespace underseer::event_log
