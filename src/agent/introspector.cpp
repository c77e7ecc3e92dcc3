#include "agent/introspector.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include "agent/introspector_worker.h"

namespace underseer::agent {

namespace {

// Numbers that the worker's fds have, so that the jail's filter can name them.
constexpr int kChannelFd = 3, kFirstMemoryFd = 4;

// Moves fds to consecutive numbers from kChannelFd on without treading on one another.
bool arrange_fds(int channel, const std::vector<Fd>& memory) {
    std::vector<int> high;
    high.push_back(::fcntl(channel, F_DUPFD, 100));
    for (const Fd& fd : memory) high.push_back(::fcntl(fd.get(), F_DUPFD, 100));
    for (std::size_t i = 0; i < high.size(); ++i) {
        if (high[i] < 0 || ::dup2(high[i], kChannelFd + static_cast<int>(i)) < 0) return false;
    }
    return true;
}

}  // namespace

Result<Introspector> Introspector::start(GuestSource source) {
    auto [ours, theirs] = TRY(jail::Channel::pair());
    std::string name = source.name;
    Fd vmm = std::move(source.vmm);
    auto child = TRY(jail::Child::fork([&] {
        if (!arrange_fds(theirs.fd(), source.fds)) return 1;
        const auto count = static_cast<int>(source.fds.size());
        return run_introspector(kChannelFd, kFirstMemoryFd, count, std::move(source));
    }));
    Introspector started(std::move(name), std::move(child), std::move(ours), std::move(vmm));
    {
        const jail::Channel closed(std::move(theirs));
    }
    // The first frame says that the jail is closed, and with which layers.
    const std::string hello = TRY(started.receive());
    started.missing_layers_ = TRY(event::decode<std::vector<std::string>>(as_bytes(hello)));
    return started;
}

// What was read while the VM was there was true; what is read once it has ended is not.
Result<void> Introspector::check_vmm() const {
    pollfd ended{vmm_.get(), POLLIN, 0};
    if (!vmm_ || ::poll(&ended, 1, 0) == 0) return {};
    return fail(Code::gone, fmt::format("the VM {} has ended", name_));
}

Result<void> Introspector::send(const Question& question) {
    auto sent = channel_.send(event::encode(question));
    if (sent.has_value()) return {};
    return Unexpected(std::move(sent).context(name_).error());
}

Result<std::string> Introspector::receive() {
    auto frame = channel_.receive();
    if (frame.has_value()) return frame;
    if (frame.error().code != Code::not_found) return std::move(frame).context(name_);
    const auto ending = child_.wait(std::chrono::seconds(5));
    return fail(Code::unavailable,
                fmt::format("{}: the introspector {}", name_,
                            ending.has_value() ? ending->to_text() : ending.error().to_text()));
}

Error Introspector::error_of(const AnswerEnd& end) {
    const bool known = end.code >= static_cast<std::uint8_t>(Code::malformed) &&
                       end.code <= static_cast<std::uint8_t>(kLastCode);
    return Error{known ? static_cast<Code>(end.code) : Code::malformed, 0, end.error};
}

Result<std::vector<std::string>> Introspector::missing_layers() {
    return missing_layers_;
}

}  // namespace underseer::agent
