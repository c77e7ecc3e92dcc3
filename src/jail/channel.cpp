#include "jail/channel.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
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

std::string framed(std::string_view frame) {
    CHECK(frame.size() <= limits::kMaxFrameBytes);
    const auto size = static_cast<std::uint32_t>(frame.size());
    std::string bytes(reinterpret_cast<const char*>(&size), sizeof size);
    bytes += frame;
    return bytes;
}

Result<void> check_size(std::uint32_t size) {
    if (size <= limits::kMaxFrameBytes) return {};
    return fail(Code::malformed, fmt::format("a frame of {} bytes; at most {} are taken", size,
                                             limits::kMaxFrameBytes));
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
    return write_all(fd_.get(), as_bytes(framed(frame)));
}

Result<std::string> Channel::receive() {
    std::uint32_t size = 0;
    const std::size_t head = TRY(read_all(fd_.get(), std::as_writable_bytes(std::span(&size, 1))));
    if (head == 0) return fail(Code::not_found, "the other side has closed the channel");
    if (head < sizeof size) return fail(Code::malformed, "a frame's length is cut off");
    TRY(check_size(size));
    std::string frame(size, '\0');
    const std::size_t got = TRY(read_all(fd_.get(), std::as_writable_bytes(std::span(frame))));
    if (got < size) {
        return fail(Code::malformed,
                    fmt::format("a frame of {} bytes is cut off after {}", size, got));
    }
    return frame;
}

Result<bool> Channel::fill() {
    incoming_.erase(0, std::exchange(taken_, 0));
    // One frame's worth at a time: the rest waits in the socket and holds the sender back.
    std::array<char, 64u << 10> piece;
    while (incoming_.size() <= limits::kMaxFrameBytes) {
        const ssize_t got = ::recv(fd_.get(), piece.data(), piece.size(), MSG_DONTWAIT);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN) return true;
        if (got == 0 || (got < 0 && errno == ECONNRESET)) return false;
        if (got < 0) return fail(os_error("reading from a channel"));
        incoming_.append(piece.data(), static_cast<std::size_t>(got));
    }
    return true;
}

Result<std::optional<std::string>> Channel::next() {
    const Bytes waiting = as_bytes(incoming_).subspan(taken_);
    const auto size = load_le<std::uint32_t>(waiting, 0);
    if (!size) return std::optional<std::string>();
    TRY(check_size(*size));
    if (waiting.size() - sizeof *size < *size) return std::optional<std::string>();
    taken_ += sizeof *size + *size;
    return std::optional(std::string(as_text(waiting.subspan(sizeof *size, *size))));
}

Result<void> Channel::post(std::string_view frame) {
    if (outgoing_.size() - sent_ + frame.size() > kMaxQueuedBytes) {
        return fail(Code::limit, "the other side of a channel does not read what it is sent");
    }
    outgoing_ += framed(frame);
    return flush();
}

Result<void> Channel::flush() {
    while (has_unsent()) {
        const ssize_t put = ::send(fd_.get(), outgoing_.data() + sent_, outgoing_.size() - sent_,
                                   MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0 && errno == EAGAIN) return {};
        if (put < 0) return fail(os_error("writing to a channel"));
        sent_ += static_cast<std::size_t>(put);
    }
    outgoing_.clear();
    sent_ = 0;
    return {};
}

Result<void> Channel::finish() {
    const std::string rest = std::exchange(outgoing_, {}).substr(std::exchange(sent_, 0));
    return write_all(fd_.get(), as_bytes(rest));
}

}  // namespace underseer::jail
