// The inside of the discoverer.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <optional>

#include "agent/answer.h"
#include "agent/discoverer_question.h"
#include "agent/managers.h"
#include "hypervisor/qmp.h"

namespace underseer::agent {

namespace {

using namespace std::chrono_literals;
using hypervisor::ManagerFacts;

constexpr std::uint64_t kMaxDiscovererMemory = 512ull << 20;
constexpr auto kMonitorTime = 2500ms;

// Everything that libvirt's client has opened.
std::vector<int> open_fds(int after) {
    std::vector<int> fds;
    std::error_code error;
    for (std::filesystem::directory_iterator entry("/proc/self/fd", error), end;
         !error && entry != end; entry.increment(error)) {
        const std::string name = entry->path().filename();
        int fd = -1;
        std::from_chars(name.data(), name.data() + name.size(), fd);
        if (fd > after && ::fcntl(fd, F_GETFD) >= 0) fds.push_back(fd);
    }
    // The last is the directory itself, which is closed by now.
    std::erase_if(fds, [](int fd) { return ::fcntl(fd, F_GETFD) < 0; });
    return fds;
}

Result<void> close_jail(jail::Channel& channel, const std::vector<int>& peers,
                        jail::ManagerKind kind) {
    const auto policy = jail::discoverer_policy(channel.fd(), peers, kind);
    std::vector<int> keep{STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO, channel.fd()};
    keep.insert(keep.end(), peers.begin(), peers.end());
    const auto missing = TRY(jail::close_jail(
        policy, {.max_memory_bytes = kMaxDiscovererMemory, .polled_fds = 2}, keep));
    return channel.send(event::encode(missing));
}

Result<std::vector<ManagerFacts>> ask_monitor(jail::Channel& channel,
                                              const DiscovererQuestion& question) {
    auto monitor = hypervisor::connect_qmp({.path = question.path,
                                            .pid = static_cast<pid_t>(question.pid),
                                            .user = question.user,
                                            .group = question.group});
    // A VM that an exact trace has left at a breakpoint is not resumed by a word alone.
    std::optional<hypervisor::GdbSockets> gdb;
    if (monitor.has_value() && question.ordered && !question.order.dry_run &&
        question.order.action == event::Action::resume) {
        gdb.emplace(TRY(hypervisor::GdbSockets::make()));
    }
    std::vector<int> peers;
    if (monitor.has_value()) peers.push_back(monitor->get());
    if (gdb) peers.push_back(gdb->ours.get()), peers.push_back(gdb->theirs.get());
    TRY(close_jail(channel, peers,
                   gdb ? jail::ManagerKind::debugged_monitor : jail::ManagerKind::monitor));
    if (!monitor.has_value()) return fail(std::move(monitor).error());
    if (question.ordered) {
        std::string done =
            TRY(hypervisor::order_qmp(monitor->get(), question.order.action, question.order.dry_run,
                                      kMonitorTime, gdb ? &*gdb : nullptr));
        return std::vector{ManagerFacts{.source = "QMP", .done = std::move(done)}};
    }
    return std::vector{TRY(hypervisor::ask_qmp(monitor->get(), kMonitorTime))};
}

Result<std::vector<ManagerFacts>> ask_libvirt(jail::Channel& channel,
                                              const DiscovererQuestion& question) {
    const auto& order = question.order;
    using Access = hypervisor::Libvirt::Access;
    auto libvirt = hypervisor::Libvirt::connect(question.path,
                                                question.ordered ? Access::control : Access::read);
    TRY(close_jail(channel, open_fds(channel.fd()), jail::ManagerKind::libvirt));
    if (!libvirt.has_value()) return fail(std::move(libvirt).error());
    Result<std::vector<ManagerFacts>> answer;
    if (question.ordered) {
        auto done = libvirt->act(order.uuid, order.action, order.dry_run);
        answer = done.has_value()
                     ? std::vector{ManagerFacts{.source = "libvirt", .done = std::move(*done)}}
                     : Result<std::vector<ManagerFacts>>(fail(std::move(done).error()));
    } else {
        answer = libvirt->domains();
    }
    // Saying good-bye is more than its jail allows, and nobody misses it.
    libvirt->abandon();
    return answer;
}

Result<void> answer(jail::Channel& channel, const Result<std::vector<ManagerFacts>>& answer) {
    AnswerEnd end;
    if (answer.has_value()) {
        event::Encoder frame;
        frame.put(FrameKind::items);
        for (const ManagerFacts& facts : *answer) {
            frame.put(facts);
            if (frame.bytes().size() < kItemsFrameBytes) continue;
            TRY(channel.send(frame.take()));
            frame = {};
            frame.put(FrameKind::items);
        }
        TRY(channel.send(frame.take()));
    } else {
        end.failed = true;
        end.code = static_cast<std::uint8_t>(answer.error().code);
        end.error = answer.error().to_text().substr(0, limits::kMaxManagerTextBytes);
    }
    event::Encoder frame;
    frame.put(FrameKind::end);
    frame.put(end);
    return channel.send(frame.take());
}

}  // namespace

Result<void> run_discoverer(jail::Channel channel) {
    ::signal(SIGPIPE, SIG_IGN);
    const std::string frame = TRY(channel.receive());
    const auto question = TRY(event::decode<DiscovererQuestion>(as_bytes(frame)));
    return answer(channel, question.kind == DiscovererQuestion::Kind::monitor
                               ? ask_monitor(channel, question)
                               : ask_libvirt(channel, question));
}

}  // namespace underseer::agent
