#include "jail/jail.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

namespace underseer::jail {
namespace {

constexpr int kChannel = 10, kMemory = 11;
constexpr std::uint64_t kBegin = 0x5000000000, kEnd = 0x5000004000;
constexpr int kJailFailed = 99, kSurvived = 42;

// Runs `act` in a closed introspector jail and tells how the process ended.
Ending in_jail(const std::function<int()>& act) {
    auto child = Child::fork([&] {
        Fd memory(::memfd_create("ram", 0));
        if (::ftruncate(memory.get(), static_cast<off_t>(kEnd)) != 0) return kJailFailed;
        ::dup2(memory.get(), kMemory);
        const Fd null(::open("/dev/null", O_RDWR));
        ::dup2(null.get(), kChannel);
        const ReadableRange range{kMemory, kBegin, kEnd};
        const int keep[] = {2, kChannel, kMemory};
        const auto closed = close_jail(introspector_policy(kChannel, {&range, 1}, 4096), {}, keep);
        if (!closed.has_value()) return kJailFailed;
        (void)act();
        return kSurvived;
    });
    return child.value().wait(std::chrono::seconds(20)).value();
}

void expect_allowed(const char* what, const std::function<int()>& act) {
    const Ending ending = in_jail(act);
    EXPECT_TRUE(ending.exited && ending.status == kSurvived) << what << ": " << ending.to_text();
}
void expect_killed(const char* what, const std::function<int()>& act) {
    const Ending ending = in_jail(act);
    EXPECT_TRUE(!ending.exited && ending.status == SIGSYS) << what << ": " << ending.to_text();
}
int call(long number, auto... arguments) {
    return static_cast<int>(::syscall(number, arguments...));
}

char buffer[8192];

TEST(Jail, what_the_introspector_needs_works) {
    expect_allowed("nothing", [] { return 0; });
    expect_allowed("pread in range",
                   [] { return call(SYS_pread64, kMemory, buffer, 4096, kBegin); });
    expect_allowed("pread of the last byte",
                   [] { return call(SYS_pread64, kMemory, buffer, 1, kEnd - 1); });
    expect_allowed("channel read", [] { return call(SYS_read, kChannel, buffer, 1); });
    expect_allowed("channel write", [] { return call(SYS_write, kChannel, buffer, 1); });
    expect_allowed("heap", [] {
        return call(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    });
    expect_allowed("brk", [] { return call(SYS_brk, 0); });
    expect_allowed("sleep", [] {
        const timespec moment{0, 1000};
        return call(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &moment, nullptr);
    });
}

TEST(Jail, guest_memory_is_readable_only_in_range_and_in_bounded_pieces) {
    expect_killed("below", [] { return call(SYS_pread64, kMemory, buffer, 1, kBegin - 1); });
    expect_killed("above", [] { return call(SYS_pread64, kMemory, buffer, 1, kEnd); });
    expect_killed("far above", [] { return call(SYS_pread64, kMemory, buffer, 1, kEnd << 20); });
    expect_killed("zero", [] { return call(SYS_pread64, kMemory, buffer, 1, 0); });
    expect_killed("too long", [] { return call(SYS_pread64, kMemory, buffer, 4097, kBegin); });
    expect_killed("another fd", [] { return call(SYS_pread64, 2, buffer, 1, kBegin); });
    expect_killed("preadv", [] {
        const iovec piece{buffer, 1};
        return call(SYS_preadv, kMemory, &piece, 1, kBegin, 0);
    });
    expect_killed("read", [] { return call(SYS_read, kMemory, buffer, 1); });
    expect_killed("pwrite", [] { return call(SYS_pwrite64, kMemory, buffer, 1, kBegin); });
    expect_killed("write", [] { return call(SYS_write, kMemory, buffer, 1); });
}

TEST(Jail, the_outside_cannot_be_reached) {
    expect_killed("open", [] { return call(SYS_open, "/etc/passwd", O_RDONLY); });
    expect_killed("openat", [] { return call(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY); });
    expect_killed("openat2", [] { return call(SYS_openat2, AT_FDCWD, "/", nullptr, 0); });
    expect_killed("stat", [] { return call(SYS_stat, "/", buffer); });
    expect_killed("socket", [] { return call(SYS_socket, AF_INET, SOCK_STREAM, 0); });
    expect_killed("connect", [] { return call(SYS_connect, kChannel, buffer, 16); });
    expect_killed("sendmsg", [] { return call(SYS_sendmsg, kChannel, buffer, 0); });
    expect_killed("recvmsg", [] { return call(SYS_recvmsg, kChannel, buffer, 0); });
    expect_killed("execve", [] { return call(SYS_execve, "/bin/true", nullptr, nullptr); });
    expect_killed("execveat",
                  [] { return call(SYS_execveat, 2, "", nullptr, nullptr, AT_EMPTY_PATH); });
    expect_killed("fork", [] { return call(SYS_fork); });
    expect_killed("clone", [] { return call(SYS_clone, SIGCHLD, 0, 0, 0, 0); });
    expect_killed("clone3", [] { return call(SYS_clone3, buffer, 64); });
    expect_killed("kill", [] { return call(SYS_kill, 1, 0); });
    expect_killed("ptrace", [] { return call(SYS_ptrace, 0, 0, 0, 0); });
    expect_killed("process_vm_readv",
                  [] { return call(SYS_process_vm_readv, 1, nullptr, 0, nullptr, 0, 0); });
    expect_killed("pidfd_getfd", [] { return call(SYS_pidfd_getfd, 2, 0, 0); });
    expect_killed("mount", [] { return call(SYS_mount, "none", "/", "tmpfs", 0, nullptr); });
    expect_killed("unshare", [] { return call(SYS_unshare, 0); });
    expect_killed("setns", [] { return call(SYS_setns, 2, 0); });
    expect_killed("bpf", [] { return call(SYS_bpf, 0, nullptr, 0); });
    expect_killed("io_uring_setup", [] { return call(SYS_io_uring_setup, 1, buffer); });
    expect_killed("ioctl", [] { return call(SYS_ioctl, 2, 0, 0); });
    expect_killed("memfd_create", [] { return call(SYS_memfd_create, "x", 0); });
    expect_killed("userfaultfd", [] { return call(SYS_userfaultfd, 0); });
    expect_killed("perf_event_open",
                  [] { return call(SYS_perf_event_open, buffer, 0, -1, -1, 0); });
    expect_killed("keyctl", [] { return call(SYS_keyctl, 0, 0); });
    expect_killed("prctl", [] { return call(SYS_prctl, PR_SET_DUMPABLE, 1); });
    expect_killed("x32 call", [] { return call(0x40000000L + SYS_getpid); });
}

TEST(Jail, no_memory_becomes_executable) {
    expect_killed("mprotect",
                  [] { return call(SYS_mprotect, 0x10000, 4096, PROT_READ | PROT_EXEC); });
#ifndef UNDERSEER_SANITIZED  // the sanitizer's own allocator needs mmap without conditions
    expect_killed("mmap exec", [] {
        return call(SYS_mmap, 0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    });
    expect_killed("mmap of guest memory",
                  [] { return call(SYS_mmap, 0, 4096, PROT_READ, MAP_SHARED, kMemory, 0); });
#endif
}

TEST(Jail, the_discoverer_talks_to_its_peer_and_to_nobody_else) {
    const auto in_discoverer = [](const std::function<int()>& act, ManagerKind kind) {
        auto child = Child::fork([&] {
            const Fd null(::open("/dev/null", O_RDWR));
            for (const int fd : {0, 1, kChannel, kMemory}) ::dup2(null.get(), fd);
            const int peers[] = {kMemory};
            const int keep[] = {0, 1, 2, kChannel, kMemory};
            const auto closed =
                close_jail(discoverer_policy(kChannel, peers, kind), {.polled_fds = 2}, keep);
            if (!closed.has_value()) return kJailFailed;
            return act();
        });
        const Ending ending = child.value().wait(std::chrono::seconds(20)).value();
        return ending.exited ? ending.status : -ending.status;
    };
    const auto expect = [&](int expected, const char* what, const std::function<int()>& act) {
        EXPECT_EQ(in_discoverer(act, ManagerKind::monitor), expected) << what;
        EXPECT_EQ(in_discoverer(act, ManagerKind::libvirt), expected) << what;
    };
    expect(7, "read", [] { return call(SYS_read, kMemory, buffer, 1) == 0 ? 7 : 1; });
    expect(7, "write", [] { return call(SYS_write, kMemory, buffer, 1) == 1 ? 7 : 1; });
    expect(7, "poll", [] {
        pollfd both[] = {{kMemory, POLLIN, 0}, {kChannel, POLLIN, 0}};
        return call(SYS_poll, both, 2, 0) == 2 ? 7 : 1;
    });
    expect(-SIGSYS, "another fd", [] { return call(SYS_read, 1, buffer, 1); });
    expect(-SIGSYS, "pread", [] { return call(SYS_pread64, kMemory, buffer, 1, 0); });
    expect(-SIGSYS, "sendmsg", [] { return call(SYS_sendmsg, kMemory, buffer, 0); });
    expect(-SIGSYS, "connect", [] { return call(SYS_connect, kMemory, buffer, 16); });
    expect(-SIGSYS, "socket", [] { return call(SYS_socket, AF_UNIX, SOCK_STREAM, 0); });
    expect(-SIGSYS, "openat", [] { return call(SYS_openat, AT_FDCWD, "/", O_RDONLY); });
    expect(-SIGSYS, "setfsuid", [] { return call(SYS_setfsuid, 0); });
    expect(-SIGSYS, "execve", [] { return call(SYS_execve, "/bin/true", nullptr, nullptr); });
}

// What the filter hides is looked at with a policy that lets the look through.
int look_from_inside(const std::function<int()>& act, std::vector<SyscallRule> allowed) {
    auto child = Child::fork([&] {
        Policy policy = introspector_policy(kChannel, {}, 0);
        for (SyscallRule& rule : allowed) policy.rules.push_back(std::move(rule));
        const int keep[] = {2};
        const auto closed = close_jail(policy, {}, keep);
        if (!closed.has_value()) return kJailFailed;
        if (!closed->empty() && ::geteuid() == 0) return kJailFailed;
        return act();
    });
    const Ending ending = child.value().wait(std::chrono::seconds(20)).value();
    return ending.exited ? ending.status : -ending.status;
}

TEST(Jail, the_file_system_is_empty_even_without_the_filter) {
    EXPECT_EQ(look_from_inside(
                  [] { return call(SYS_open, "/etc/passwd", O_RDONLY) < 0 && errno != 0 ? 7 : 1; },
                  {{SYS_open, "open", "test", {}}}),
              7);
}

TEST(Jail, there_are_no_capabilities_and_no_way_to_a_user) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: only root has something to drop";
    EXPECT_EQ(look_from_inside([] { return call(SYS_getuid) == 65534 ? 7 : 1; },
                               {{SYS_getuid, "getuid", "test", {}}}),
              7);
    EXPECT_EQ(look_from_inside([] { return call(SYS_setuid, 0) != 0 ? 7 : 1; },
                               {{SYS_setuid, "setuid", "test", {}}}),
              7);
    EXPECT_EQ(
        look_from_inside([] { return call(SYS_prctl, PR_CAPBSET_READ, 21, 0, 0, 0) == 0 ? 7 : 1; },
                         {{SYS_prctl, "prctl", "test", {}}}),
        7);
}

TEST(Jail, the_network_is_empty_and_no_new_file_can_be_opened) {
    EXPECT_EQ(
        look_from_inside(
            [] { return call(SYS_socket, AF_INET, SOCK_STREAM, 0) < 0 && errno == EMFILE ? 7 : 1; },
            {{SYS_socket, "socket", "test", {}}}),
        7);
}

}  // namespace
}  // namespace underseer::jail
