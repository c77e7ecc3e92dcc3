#include "agent/control_server.h"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>

#include "agent/instance_watch.h"

namespace underseer::agent {

namespace {

constexpr std::array<std::string_view, 14> kTopicNames{
    "info",       "ps",    "files", "maps", "modules", "sockets", "mounts",
    "interfaces", "dmesg", "bpf",   "bpf",  "bpf",     "check",   "check"};

std::string_view operation_of(const ControlRequest& request) {
    switch (request.kind) {
        case ControlRequest::Kind::agent:
        case ControlRequest::Kind::instances:
            return "status";
        case ControlRequest::Kind::findings:
            return "findings";
        case ControlRequest::Kind::act:
            return to_string(request.action);
        case ControlRequest::Kind::baselines:
            return "baseline ls";
        case ControlRequest::Kind::keep_baseline:
            return "baseline add";
        case ControlRequest::Kind::drop_baseline:
            return "baseline rm";
        case ControlRequest::Kind::question:
            break;
    }
    if (request.question.topic == Topic::scan) return "scan";
    if (request.question.topic == Topic::trace) return "trace";
    const auto topic = static_cast<std::size_t>(request.question.topic);
    return topic < kTopicNames.size() ? kTopicNames[topic] : "question";
}

policy::Role role_needed(ControlRequest::Kind kind) {
    switch (kind) {
        case ControlRequest::Kind::question:
            return policy::Role::examiner;
        case ControlRequest::Kind::act:
        case ControlRequest::Kind::keep_baseline:  // they decide what is told as an alteration
        case ControlRequest::Kind::drop_baseline:
            return policy::Role::responder;
        case ControlRequest::Kind::agent:
        case ControlRequest::Kind::instances:
        case ControlRequest::Kind::findings:
        case ControlRequest::Kind::baselines:
            break;
    }
    return policy::Role::viewer;
}

// Groups of the peer at the moment it connected; the user database is only asked when the kernel
// does not say.
std::vector<std::uint32_t> groups_of(int fd, const ucred& peer) {
    std::vector<gid_t> groups(256);
    socklen_t bytes = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    if (::getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &bytes) != 0) bytes = 0;
    groups.resize(bytes / sizeof(gid_t));
    groups.push_back(peer.gid);
    return {groups.begin(), groups.end()};
}

}  // namespace

ControlServer::ControlServer(EventLoop* loop, const policy::Policy* policy,
                             std::filesystem::path path, Callbacks callbacks)
    : loop_(loop), policy_(policy), path_(std::move(path)), callbacks_(std::move(callbacks)) {}

ControlServer::~ControlServer() {
    while (!clients_.empty()) drop(clients_.begin()->first);
    if (!listening_) return;
    loop_->unwatch(listening_.get());
    ::unlink(path_.c_str());
}

Result<std::unique_ptr<ControlServer>> ControlServer::listen(EventLoop* loop,
                                                             const policy::Policy* policy,
                                                             const std::filesystem::path& path,
                                                             Callbacks callbacks) {
    std::unique_ptr<ControlServer> server(
        new ControlServer(loop, policy, path, std::move(callbacks)));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.native().size() >= sizeof address.sun_path) {
        return fail(Code::invalid_argument,
                    fmt::format("{} is too long for a socket's path", path.native()));
    }
    path.native().copy(address.sun_path, sizeof address.sun_path - 1);
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) return fail(os_error("making the control socket"));
    ::unlink(path.c_str());
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        return fail(os_error(fmt::format("binding the control socket {}", path.native())));
    }
    // Whoever can reach it may connect; what he may ask is decided by who he is.
    if (::chmod(path.c_str(), 0666) != 0 || ::listen(fd.get(), 16) != 0) {
        return fail(os_error(fmt::format("listening on {}", path.native())));
    }
    server->listening_ = std::move(fd);
    loop->watch(server->listening_.get(), [raw = server.get()] { raw->accept(); });
    return server;
}

void ControlServer::accept() {
    Fd fd(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd || clients_.size() >= kMaxClients) return;
    ucred peer{};
    socklen_t bytes = sizeof peer;
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) return;
    const auto role = policy::role_of(*policy_, peer.uid, groups_of(fd.get(), peer));
    const std::uint64_t id = next_id_++;
    const int number = fd.get();
    clients_.emplace(
        id, std::make_unique<Client>(Client{id,
                                            jail::Channel(std::move(fd)),
                                            {peer.uid, static_cast<std::uint32_t>(peer.pid),
                                             std::string(policy::to_string(role))},
                                            role}));
    loop_->watch(number, [this, id] { on_readable(id); });
}

void ControlServer::on_readable(std::uint64_t id) {
    Client& client = *clients_.at(id);
    const auto open = client.channel.fill();
    if (!take_requests(client).has_value() || !open.has_value() || !*open) drop(id);
}

Result<void> ControlServer::take_requests(Client& client) {
    const std::uint64_t id = client.id;
    while (clients_.contains(id) && !client.busy) {
        const auto frame = TRY(client.channel.next());
        if (!frame) return {};
        answer(client, TRY(event::decode<ControlRequest>(as_bytes(*frame))));
    }
    return {};
}

void ControlServer::answer(Client& client, const ControlRequest& request) {
    const auto needed = role_needed(request.kind);
    const std::string_view operation = operation_of(request);
    if (client.role < needed) {
        callbacks_.access(client.asker, {.name = request.instance}, operation, false);
        return send_failure(
            client,
            {Code::permission, 0,
             fmt::format("'{}' needs the role {}, and user {} has the role {}; the policy's "
                         "[access] section grants roles",
                         operation, policy::to_string(needed), client.asker.user,
                         policy::to_string(client.role))});
    }
    switch (request.kind) {
        case ControlRequest::Kind::agent:
            return send_items(client, std::vector{callbacks_.agent()});
        case ControlRequest::Kind::instances:
            return send_items(client, callbacks_.instances());
        case ControlRequest::Kind::findings:
            return send_items(client, callbacks_.findings());
        case ControlRequest::Kind::question:
            return relay(client, request);
        case ControlRequest::Kind::act:
            return act(client, request);
        case ControlRequest::Kind::baselines:
            return send_items(client, callbacks_.baselines());
        case ControlRequest::Kind::keep_baseline:
            return keep_baseline(client, request);
        case ControlRequest::Kind::drop_baseline:
            callbacks_.access(client.asker, {.name = request.baseline.build_id}, operation, true);
            return send_outcome(client, callbacks_.drop_baseline(request.baseline.build_id));
    }
}

void ControlServer::keep_baseline(Client& client, const ControlRequest& request) {
    if (request.part.is_first) client.baseline.clear();
    if (client.baseline.size() + request.part.bytes.size() > limits::kMaxBaselineBytes) {
        client.baseline = {};
        return send_failure(client, {Code::limit, 0, "the baseline is longer than any kernel's"});
    }
    client.baseline += request.part.bytes;
    if (!request.part.is_last) return send_end(client, {});
    callbacks_.access(client.asker, {.name = request.baseline.name()}, operation_of(request), true);
    send_outcome(client,
                 callbacks_.keep_baseline(request.baseline, std::exchange(client.baseline, {})));
}

void ControlServer::send_outcome(Client& client, const Result<void>& outcome) {
    if (outcome.has_value()) return send_end(client, {});
    send_failure(client, outcome.error());
}

void ControlServer::answered(std::uint64_t id) {
    const auto still = clients_.find(id);
    if (still == clients_.end()) return;
    still->second->busy = false;
    if (!take_requests(*still->second).has_value()) drop(id);
}

void ControlServer::act(Client& client, const ControlRequest& request) {
    auto found = callbacks_.instance(request.instance);
    if (!found.has_value()) return send_failure(client, found.error());
    client.busy = true;
    callbacks_.act(**found, client.asker, request,
                   [this, id = client.id](const Result<ActionResult>& result) {
                       const auto still = clients_.find(id);
                       if (still != clients_.end() && result.has_value()) {
                           send_items(*still->second, std::vector{*result});
                       } else if (still != clients_.end()) {
                           send_failure(*still->second, result.error());
                       }
                       answered(id);
                   });
}

void ControlServer::relay(Client& client, const ControlRequest& request) {
    auto found = callbacks_.instance(request.instance);
    if (!found.has_value()) return send_failure(client, found.error());
    InstanceWatch& watch = **found;
    Question question = request.question;
    if (policy_->redact_environment) question.environment = false;
    question.cpus.clear();  // the monitor's word, not a client's
    // The questions of one scan, or of one trace, are one access.
    const bool goes_on = question.topic == Topic::scan    ? question.scan.step != ScanStep::begin
                         : question.topic == Topic::trace ? !question.trace.begin
                                                          : false;
    if (!goes_on) {
        callbacks_.access(client.asker, watch.instance(), operation_of(request), true);
    }
    client.busy = true;
    const std::uint64_t id = client.id;
    const bool asked = watch.ask(
        id, question,
        // The frames go on as they came: the client trusts them as little as we do.
        [this, id](std::string_view frame, bool last) {
            const auto still = clients_.find(id);
            if (still != clients_.end()) post(*still->second, frame);
            if (last) answered(id);
            return true;
        },
        [this, id](const Error& error) {
            const auto still = clients_.find(id);
            if (still != clients_.end()) send_failure(*still->second, error);
            answered(id);
        });
    if (asked) return;
    client.busy = false;
    const InstanceStatus status = watch.status();
    send_failure(
        client, {Code::unavailable, 0,
                 fmt::format("{} cannot be asked now: {}{}{}", status.instance.name,
                             to_string(status.state), status.why.empty() ? "" : ": ", status.why)});
}

template <typename T>
void ControlServer::send_items(Client& client, const std::vector<T>& items) {
    const std::uint64_t id = client.id;
    for (const T& item : items) {
        event::Encoder frame;
        frame.put(FrameKind::items);
        frame.put(item);
        if (frame.bytes().size() > limits::kMaxFrameBytes) continue;
        if (!post(client, frame.bytes())) return;
    }
    if (clients_.contains(id)) send_end(client, {});
}

void ControlServer::send_end(Client& client, const AnswerEnd& end) {
    event::Encoder frame;
    frame.put(FrameKind::end);
    frame.put(end);
    post(client, frame.bytes());
}

void ControlServer::send_failure(Client& client, const Error& error) {
    send_end(
        client,
        {.failed = true, .code = static_cast<std::uint8_t>(error.code), .error = error.to_text()});
}

// False when the client is gone: then it has been dropped.
bool ControlServer::post(Client& client, std::string_view frame) {
    const std::uint64_t id = client.id;
    if (!client.channel.post(frame).has_value()) {
        // Not here: the caller may still be working with it.
        loop_->after(std::chrono::milliseconds(0), [this, id] { drop(id); });
        return false;
    }
    if (client.channel.has_unsent()) {
        loop_->watch_writable(client.channel.fd(), [this, id] {
            Client& waiting = *clients_.at(id);
            if (!waiting.channel.flush().has_value()) return drop(id);
            if (!waiting.channel.has_unsent()) loop_->unwatch_writable(waiting.channel.fd());
        });
    }
    return true;
}

void ControlServer::drop(std::uint64_t id) {
    const auto found = clients_.find(id);
    if (found == clients_.end()) return;
    loop_->unwatch(found->second->channel.fd());
    clients_.erase(found);
    callbacks_.left(id);
}

}  // namespace underseer::agent
