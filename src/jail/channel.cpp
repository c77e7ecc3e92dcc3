#include "jail/channel.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "base/limits.h"

namespace underseer::jail {

namespace {

// Reads all of `into`; returns fewer bytes only at the end of the stream.
Result<std::size_t> read_all(int fd, MutableBytes into) {
    std::size_t done = 0;
    while (done < into.size()) {
        const ssize_t got = ::read(fd, into.data() + done, into.size() - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == ECONNRESET) break;
        if (got < 0) return fail(os_error("reading from a worker's channel"));
        if (got == 0) break;
        done += static_cast<std::size_t>(got);
    }
    return done;
}

}  // namespace

Result<std::pair<Channel, Channel>> Channel::pair() {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
        return fail(os_error("making a channel to a worker"));
    }
    return std::pair(Channel(Fd(fds[0])), Channel(Fd(fds[1])));
}

Result<void> Channel::send(std::string_view frame) {
    CHECK(frame.size() <= limits::kMaxFrameBytes);
    const auto size = static_cast<std::uint32_t>(frame.size());
    std::string bytes(reinterpret_cast<const char*>(&size), sizeof size);
    bytes += frame;
    return write_all(fd_.get(), as_bytes(bytes));
}

Result<std::string> Channel::receive() {
    std::uint32_t size = 0;
    const std::size_t head = TRY(read_all(fd_.get(), std::as_writable_bytes(std::span(&size, 1))));
    if (head == 0) return fail(Code::not_found, "the other side has closed the channel");
    if (head < sizeof size) return fail(Code::malformed, "a frame's length is cut off");
    if (size > limits::kMaxFrameBytes) {
        return fail(Code::malformed, fmt::format("a frame of {} bytes; at most {} are taken", size,
                                                 limits::kMaxFrameBytes));
    }
    std::string frame(size, '\0');
    const std::size_t got = TRY(read_all(fd_.get(), std::as_writable_bytes(std::span(frame))));
    if (got < size) {
        return fail(Code::malformed,
                    fmt::format("a frame of {} bytes is cut off after {}", size, got));
    }
    return frame;
}

}  // namespace underseer::jail
