// Framed messages over a socketpair between a worker and whoever started it: a 32-bit little-endian
// length, then that many bytes.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "base/os.h"

namespace underseer::jail {

class Channel {
  public:
    explicit Channel(Fd fd) : fd_(std::move(fd)) {}

    // Both ends of a new channel, close-on-exec.
    static Result<std::pair<Channel, Channel>> pair();

    int fd() const { return fd_.get(); }
    Result<void> send(std::string_view frame);
    // The next frame. Code::not_found when the other side has closed; Code::malformed when a length
    // is beyond limits::kMaxFrameBytes (nothing is allocated for it) or a frame is cut off.
    Result<std::string> receive();

    // ---- the same without ever waiting, for an event loop. Do not mix with the two above.

    // Takes in what has arrived. False when the other side has closed.
    Result<bool> fill();
    // The next whole frame of what has been taken in; nothing when none is whole yet.
    // Code::malformed as in receive().
    Result<std::optional<std::string>> next();
    // Sends what can be sent now and keeps the rest. Code::limit when more than kMaxQueuedBytes
    // wait: the other side does not read.
    Result<void> post(std::string_view frame);
    Result<void> flush();
    // Sends the rest, and waits for that; the last thing of all.
    Result<void> finish();
    bool has_unsent() const { return sent_ < outgoing_.size(); }

    // An answer of 300 processes has 0.3 MB; a client that lags this far behind is given up.
    static constexpr std::size_t kMaxQueuedBytes = 64u << 20;

  private:
    Fd fd_;
    std::string incoming_;
    std::size_t taken_ = 0;  // of incoming_
    std::string outgoing_;
    std::size_t sent_ = 0;  // of outgoing_
};

}  // namespace underseer::jail
