// Reads the events of a log, also while it is being written: for showing, following and sending.
// Gives what the chain covers and checks no signature; that is the verifier's work.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "event_log/files.h"

namespace underseer::event_log {

// One record of the chain, as stored. What a transport sends.
struct Record {
    enum class Kind : std::uint8_t { epoch, batch };
    Kind kind = Kind::batch;
    std::string line;    // exact bytes: header, space, signature in quotes; no newline
    std::string events;  // batch: its events, each with its newline
    std::uint64_t epoch = 0;
    std::uint64_t batch = 0;      // epoch: the next one
    std::uint64_t first_seq = 0;  // epoch: of the next event
    std::uint64_t count = 0;      // events
    std::uint64_t segment = 0;
    std::string time;  // RFC 3339, when the record was signed
};

struct LoggedEvent {
    std::uint64_t seq = 0;
    std::uint64_t segment = 0;
    std::string_view bytes;  // without newline; valid until the next call
    std::string_view time;   // of its batch
};

class Reader {
  public:
    // Begins with the record that holds event `from_seq`, or with the first behind it.
    static Result<Reader> open(const std::filesystem::path& directory, std::uint64_t from_seq = 1,
                               Files& files = Files::system());

    // Nothing: the end for now; call again later. After an error (a record that is none, events
    // that are not there) the next call goes on behind it.
    Result<std::optional<Record>> next_record();

    // The same, event by event. Do not mix the two.
    Result<std::optional<LoggedEvent>> next();

    Reader(Reader&&) noexcept;
    Reader& operator=(Reader&&) noexcept;
    ~Reader();

  private:
    class Core;
    explicit Reader(std::unique_ptr<Core> core);
    std::unique_ptr<Core> core_;
};

}  // namespace underseer::event_log
