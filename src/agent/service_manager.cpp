#include "agent/service_manager.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <charconv>
#include <cstddef>
#include <cstdlib>

#include "base/os.h"

namespace underseer::agent {

namespace {

std::string_view variable(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? std::string_view() : value;
}

template <typename T>
std::optional<T> number(std::string_view text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return value;
}

}  // namespace

void notify_manager(std::string_view state) {
    const std::string_view path = variable("NOTIFY_SOCKET");
    sockaddr_un address{};
    if (path.size() < 2 || path.size() >= sizeof address.sun_path) return;
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, path.size());
    if (path[0] == '@') address.sun_path[0] = '\0';  // an abstract one
    const Fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
    (void)::sendto(fd.get(), state.data(), state.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
                   reinterpret_cast<const sockaddr*>(&address), length);
}

void notify_reloading() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    notify_manager(
        fmt::format("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1'000'000 + now.tv_nsec / 1000));
}

std::optional<std::chrono::milliseconds> watchdog_pace() {
    const auto limit_us = number<std::uint64_t>(variable("WATCHDOG_USEC"));
    if (!limit_us || *limit_us == 0) return std::nullopt;
    const std::string_view whose = variable("WATCHDOG_PID");
    if (!whose.empty() && number<pid_t>(whose) != ::getpid()) return std::nullopt;
    return std::chrono::milliseconds(std::max<std::uint64_t>(*limit_us / 2000, 1));
}

bool stderr_is_journal() {
    const std::string_view stream = variable("JOURNAL_STREAM");
    struct stat status{};
    if (stream.empty() || ::fstat(STDERR_FILENO, &status) != 0) return false;
    return stream == fmt::format("{}:{}", status.st_dev, status.st_ino);
}

void say(LogLevel level, std::string_view text) {
    static const bool journal = stderr_is_journal();
    std::string line;
    for (const char c : text) line += (c >= ' ' && c != 0x7f) || (c & 0x80) != 0 ? c : '?';
    if (journal) {
        fmt::print(stderr, "<{}>{}\n", static_cast<int>(level), line);
    } else {
        fmt::print(stderr, "underseerd: {}\n", line);
    }
}

}  // namespace underseer::agent
