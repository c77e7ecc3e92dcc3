// The control socket: who asks is known by the kernel (peer credentials), what they may ask by
// policy. Each request and each refusal is told to `access`.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "agent/job_runner.h"
#include "agent/status.h"
#include "event/ocsf.h"
#include "policy/policy.h"

namespace underseer::agent {

class InstanceWatch;

class ControlServer {
  public:
    struct Callbacks {
        std::function<AgentStatus()> agent;
        std::function<std::vector<InstanceStatus>()> instances;
        std::function<std::vector<event::OpenFinding>()> findings;
        // Code::not_found or Code::ambiguous, with what there is.
        std::function<Result<InstanceWatch*>(const std::string&)> instance;
        std::function<void(const event::Asker&, const event::Instance&, std::string_view operation,
                           bool granted)>
            access;
        // Does it, or says what would be done; `done` is called once, later.
        std::function<void(InstanceWatch&, const event::Asker&, const ControlRequest&,
                           std::function<void(const Result<ActionResult>&)> done)>
            act;
        std::function<std::vector<BaselineFacts>()> baselines;
        std::function<Result<void>(BaselineFacts, const std::string& bytes)> keep_baseline;
        std::function<Result<void>(const std::string& build_id)> drop_baseline;
        // A client has gone; its count is that of InstanceWatch::ask.
        std::function<void(std::uint64_t asker)> left;
    };

    static constexpr std::size_t kMaxClients = 64;

    // Makes the socket (an old one at `path` is replaced). `loop` and `policy` must outlive this.
    static Result<std::unique_ptr<ControlServer>> listen(EventLoop* loop,
                                                         const policy::Policy* policy,
                                                         const std::filesystem::path& path,
                                                         Callbacks callbacks);
    ControlServer(const ControlServer&) = delete;
    ~ControlServer();

  private:
    struct Client {
        std::uint64_t id = 0;
        jail::Channel channel;
        event::Asker asker;
        policy::Role role = policy::Role::none;
        bool busy = false;     // one question at a time
        std::string baseline;  // parts of one that have come
    };
    ControlServer(EventLoop* loop, const policy::Policy* policy, std::filesystem::path path,
                  Callbacks callbacks);
    void accept();
    void on_readable(std::uint64_t id);
    Result<void> take_requests(Client& client);
    void answer(Client& client, const ControlRequest& request);
    void relay(Client& client, const ControlRequest& request);
    void act(Client& client, const ControlRequest& request);
    void keep_baseline(Client& client, const ControlRequest& request);
    void send_outcome(Client& client, const Result<void>& outcome);
    // The next question may come.
    void answered(std::uint64_t id);
    template <typename T>
    void send_items(Client& client, const std::vector<T>& items);
    void send_end(Client& client, const AnswerEnd& end);
    void send_failure(Client& client, const Error& error);
    bool post(Client& client, std::string_view frame);
    void drop(std::uint64_t id);

    EventLoop* loop_;
    const policy::Policy* policy_;
    std::filesystem::path path_;
    Callbacks callbacks_;
    Fd listening_;
    std::uint64_t next_id_ = 1;
    std::unordered_map<std::uint64_t, std::unique_ptr<Client>> clients_;
};

}  // namespace underseer::agent
