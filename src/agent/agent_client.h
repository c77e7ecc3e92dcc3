// The other end of the agent's control socket.
#pragma once

#include <filesystem>
#include <string>

#include "agent/answer.h"
#include "agent/status.h"
#include "jail/channel.h"

namespace underseer::agent {

class AgentClient {
  public:
    // Code::not_found when no agent listens there.
    static Result<AgentClient> connect(const std::filesystem::path& socket);

    template <typename T>
    Result<Answer<T>> ask(const ControlRequest& request) {
        TRY(channel_.send(event::encode(request)));
        return read_answer<T>("the agent", [this] { return receive(); });
    }

  private:
    explicit AgentClient(jail::Channel channel) : channel_(std::move(channel)) {}
    Result<std::string> receive();

    jail::Channel channel_;
};

}  // namespace underseer::agent
