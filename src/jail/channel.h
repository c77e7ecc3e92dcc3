// Framed messages over a socketpair between a worker and whoever started it: a 32-bit little-endian
// length, then that many bytes.
#pragma once

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

  private:
    Fd fd_;
};

}  // namespace underseer::jail
