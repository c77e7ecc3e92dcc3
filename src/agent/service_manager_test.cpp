#include "agent/service_manager.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>

#include "base/os.h"

namespace underseer::agent {
namespace {

using namespace std::chrono_literals;

class ServiceManager : public ::testing::Test {
  protected:
    void TearDown() override {
        for (const char* name :
             {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM"}) {
            ::unsetenv(name);
        }
    }
    // A socket as a manager has it. `name` begins with '@' for an abstract one.
    static Fd listen(const std::string& name) {
        Fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        name.copy(address.sun_path, sizeof address.sun_path - 1);
        if (name[0] == '@') address.sun_path[0] = '\0';
        const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
        EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length), 0);
        return fd;
    }
    static std::string received(const Fd& fd) {
        char text[256];
        const ssize_t got = ::recv(fd.get(), text, sizeof text, 0);
        return got < 0 ? "" : std::string(text, static_cast<std::size_t>(got));
    }
};

TEST_F(ServiceManager, is_told_through_an_abstract_socket_or_a_path) {
    notify_manager("READY=1");  // nobody asked: nothing happens
    for (const std::string& name :
         {fmt::format("@underseer-test-{}", ::getpid()),
          fmt::format("{}underseer-notify-{}", ::testing::TempDir(), ::getpid())}) {
        const Fd manager = listen(name);
        ::setenv("NOTIFY_SOCKET", name.c_str(), 1);
        notify_manager("READY=1\nSTATUS=watching");
        EXPECT_EQ(received(manager), "READY=1\nSTATUS=watching") << name;
        notify_reloading();
        EXPECT_TRUE(received(manager).starts_with("RELOADING=1\nMONOTONIC_USEC=")) << name;
        ::unlink(name.c_str());
    }
    for (const std::string& wrong :
         {std::string("@"), std::string(200, 'x'), std::string("/no/such")}) {
        ::setenv("NOTIFY_SOCKET", wrong.c_str(), 1);
        notify_manager("READY=1");
    }
}

TEST_F(ServiceManager, watchdog_is_fed_twice_in_its_time_and_only_by_whom_it_watches) {
    EXPECT_FALSE(watchdog_pace().has_value());
    ::setenv("WATCHDOG_USEC", "3000000", 1);
    EXPECT_EQ(watchdog_pace(), 1500ms);
    ::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);
    EXPECT_EQ(watchdog_pace(), 1500ms);
    ::setenv("WATCHDOG_PID", "1", 1);
    EXPECT_FALSE(watchdog_pace().has_value());
    ::unsetenv("WATCHDOG_PID");
    for (const char* wrong : {"0", "", "soon", "-5", "12x"}) {
        ::setenv("WATCHDOG_USEC", wrong, 1);
        EXPECT_FALSE(watchdog_pace().has_value()) << wrong;
    }
}

TEST_F(ServiceManager, levels_are_for_the_journal_only) {
    EXPECT_FALSE(stderr_is_journal());
    struct stat status{};
    ASSERT_EQ(::fstat(STDERR_FILENO, &status), 0);
    ::setenv("JOURNAL_STREAM", fmt::format("{}:{}", status.st_dev, status.st_ino).c_str(), 1);
    EXPECT_TRUE(stderr_is_journal());
    // The variable is inherited where standard error was sent elsewhere.
    ::setenv("JOURNAL_STREAM", fmt::format("{}:{}", status.st_dev, status.st_ino + 1).c_str(), 1);
    EXPECT_FALSE(stderr_is_journal());
}

}  // namespace
}  // namespace underseer::agent
