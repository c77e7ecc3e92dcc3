// Recorder: the agent's two signed logs. Critical: findings, gaps, access, the agent's own life,
// each on the disk before the loop goes on to anything else. Bulk: the rest.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/event_loop.h"
#include "crypto/signing.h"
#include "event/ocsf.h"
#include "event_log/writer.h"

namespace underseer::agent {

inline constexpr std::string_view kCriticalLog = "critical";
inline constexpr std::string_view kBulkLog = "bulk";

class Recorder {
  public:
    struct Options {
        std::filesystem::path directory;  // holds one directory a log
        std::string boot_id;
        std::uint64_t segment_bytes = 64u << 20;
        std::uint64_t keep_bytes = 4ull << 30;
    };

    // Code::unavailable when another agent has the logs open. `loop` and `key` must outlive this.
    static Result<std::unique_ptr<Recorder>> open(EventLoop* loop, const crypto::SigningKey* key,
                                                  Options options, std::string host);
    Recorder(const Recorder&) = delete;
    ~Recorder();

    const event::Source& source() const { return source_; }
    const event_log::OpenedLog& opened() const;  // of the critical log

    // `line` is one event of event/ocsf.h.
    void critical(const std::string& line);
    void bulk(const std::string& line);

    std::uint64_t logged() const { return logged_; }
    // Why nothing is logged at present.
    std::string trouble() const;
    void set_keep_bytes(std::uint64_t bytes) { options_.keep_bytes = bytes; }

    Result<void> close();

    static std::uint64_t now_ns();  // wall clock

  private:
    struct Log {
        std::string name;
        std::optional<event_log::Writer> writer;
        std::uint64_t lost = 0;  // events while there was no writer
        std::string trouble;
    };
    Recorder(EventLoop* loop, const crypto::SigningKey* key, Options options, std::string host);
    Result<void> open_log(Log& log);
    void append(Log& log, const std::string& line);
    void failed(Log& log, const Error& error);
    void tick();
    void remove_old(Log& log);

    EventLoop* loop_;
    const crypto::SigningKey* key_;
    Options options_;
    event::Source source_;
    Log critical_{std::string(kCriticalLog), {}, 0, {}}, bulk_{std::string(kBulkLog), {}, 0, {}};
    event_log::OpenedLog opened_;
    std::uint64_t logged_ = 0;
    EventLoop::Timer ticking_ = 0, syncing_ = 0;
    unsigned ticks_ = 0;
};

}  // namespace underseer::agent
