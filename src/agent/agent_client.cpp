#include "agent/agent_client.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

namespace underseer::agent {

Result<AgentClient> AgentClient::connect(const std::filesystem::path& socket) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (socket.native().size() >= sizeof address.sun_path) {
        return fail(Code::invalid_argument,
                    fmt::format("{} is too long for a socket's path", socket.native()));
    }
    socket.native().copy(address.sun_path, sizeof address.sun_path - 1);
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) return fail(os_error("making a socket"));
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        if (errno == ENOENT || errno == ECONNREFUSED) {
            return fail(Code::not_found,
                        fmt::format("no agent listens at {}; is underseerd running? (systemctl "
                                    "status underseerd)",
                                    socket.native()));
        }
        return fail(os_error(fmt::format("connecting to the agent at {}", socket.native())));
    }
    return AgentClient(jail::Channel(std::move(fd)));
}

Result<std::string> AgentClient::receive() {
    auto frame = channel_.receive();
    if (!frame.has_value() && frame.error().code == Code::not_found) {
        return fail(Code::unavailable, "the agent has closed the connection");
    }
    return frame;
}

}  // namespace underseer::agent
