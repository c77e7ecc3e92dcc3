#include "agent/introspector.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>

namespace underseer::agent {

namespace {

IntrospectorStart start_form(const GuestSource& source) {
    IntrospectorStart start{.name = source.name,
                            .image = source.image,
                            .image_bytes = source.image_bytes,
                            .fd_count = static_cast<std::uint32_t>(source.fds.size()),
                            .scans = source.scans,
                            .is_supervised = bool(source.supervisor)};
    const auto copy = [](const std::vector<guest_memory::RamSlice>& from) {
        std::vector<SliceForm> to;
        for (const guest_memory::RamSlice& slice : from) {
            to.push_back({slice.begin.value, slice.size_bytes, slice.offset, slice.source});
        }
        return to;
    };
    for (const EvidenceOutput& output : source.outputs) start.outputs.push_back(output.form);
    start.layout = copy(source.layout);
    start.alternative = copy(source.alternative);
    return start;
}

}  // namespace

Result<GuestSource> live_source(const hypervisor::Vm& vm) {
    hypervisor::OpenRam ram = TRY(hypervisor::open_ram(vm));
    GuestSource source;
    source.name = vm.label();
    source.fds = std::move(ram.fds);
    source.vmm = std::move(ram.vmm);
    source.layout = std::move(ram.layouts.front());
    if (ram.layouts.size() > 1) source.alternative = std::move(ram.layouts[1]);
    return source;
}

Result<Introspector> Introspector::start(GuestSource source) {
    auto started = TRY(begin(std::move(source)));
    // The first frame says that the jail is closed, and with which layers.
    const std::string hello = TRY(started.receive());
    started.missing_layers_ = TRY(event::decode<std::vector<std::string>>(as_bytes(hello)));
    return started;
}

Result<Introspector> Introspector::begin(GuestSource source, std::string_view role) {
    auto [ours, theirs] = TRY(jail::Channel::pair());
    std::vector<int> fds{theirs.fd()};
    for (const Fd& fd : source.fds) fds.push_back(fd.get());
    for (const EvidenceOutput& output : source.outputs) fds.push_back(output.file.get());
    if (source.supervisor) fds.push_back(source.supervisor.get());
    auto child = TRY(jail::Child::exec_worker(role, fds));
    Introspector started(source.name, std::move(child), std::move(ours), std::move(source.vmm));
    TRY(started.channel_.send(event::encode(start_form(source))));
    return started;
}

// What was read while the VM was there was true; what is read once it has ended is not.
Result<void> Introspector::check_vmm() const {
    pollfd ended{vmm_.get(), POLLIN, 0};
    if (!vmm_ || ::poll(&ended, 1, 0) == 0) return {};
    return fail(Code::gone, fmt::format("the VM {} has ended", name_));
}

Result<void> Introspector::wait(short events) {
    while (true) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            deadline_ - std::chrono::steady_clock::now());
        pollfd channel{channel_.fd(), events, 0};
        const int timeout = static_cast<int>(std::max<std::int64_t>(left.count(), 0));
        const int ready = ::poll(&channel, 1, timeout);
        if (ready > 0) return {};
        if (ready < 0 && errno == EINTR) continue;
        if (ready < 0) return fail(os_error("waiting for a worker"));
        child_.kill();
        return fail(
            Code::unavailable,
            fmt::format("{}: no answer within {} s", name_,
                        std::chrono::duration_cast<std::chrono::seconds>(*patience_).count()));
    }
}

Result<void> Introspector::send_in_time(std::string_view frame) {
    TRY(channel_.post(frame));
    while (channel_.has_unsent()) {
        TRY(wait(POLLOUT));
        TRY(channel_.flush());
    }
    return {};
}

Result<std::string> Introspector::receive_in_time() {
    bool is_open = true;
    while (true) {
        auto frame = TRY(channel_.next());
        if (frame) return std::move(*frame);
        if (!is_open) return fail(Code::not_found, "the other side has closed the channel");
        TRY(wait(POLLIN));
        is_open = TRY(channel_.fill());
    }
}

Result<void> Introspector::send(const Question& question) {
    const std::string frame = event::encode(question);
    auto sent = patience_ ? send_in_time(frame) : channel_.send(frame);
    if (sent.has_value()) return {};
    return Unexpected(std::move(sent).context(name_).error());
}

Result<std::string> Introspector::receive() {
    auto frame = patience_ ? receive_in_time() : channel_.receive();
    if (frame.has_value()) return frame;
    if (frame.error().code != Code::not_found) return std::move(frame).context(name_);
    const auto ending = child_.wait(std::chrono::seconds(5));
    return fail(Code::unavailable,
                fmt::format("{}: the introspector {}", name_,
                            ending.has_value() ? ending->to_text() : ending.error().to_text()));
}

Error error_of(const AnswerEnd& end) {
    const bool known = end.code >= static_cast<std::uint8_t>(Code::malformed) &&
                       end.code <= static_cast<std::uint8_t>(kLastCode);
    return Error{known ? static_cast<Code>(end.code) : Code::malformed, 0, end.error};
}

Result<std::vector<std::string>> Introspector::missing_layers() {
    return missing_layers_;
}

}  // namespace underseer::agent
