#include "jail/jail.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

namespace underseer::jail {
namespace {

constexpr int kChannel = 10, kMemory = 11;
constexpr std::uint64_t kBegin = 0x5000000000, kEnd = 0x5000004000;
constexpr int kJailFailed = 99, kSurvived = 42;

const ReadableRange kRange{kMemory, kBegin, kEnd};
const Policy kIntrospector = introspector_policy(kChannel, {&kRange, 1}, 4096);
const Policy kAnalyser = analyser_policy(kChannel);
const Policy kMonitorReader = discoverer_policy(kChannel, {&kMemory, 1}, ManagerKind::monitor);
const Policy kLibvirtReader = discoverer_policy(kChannel, {&kMemory, 1}, ManagerKind::libvirt);

// The memory's file as one that evidence is written to, with room for four pages.
constexpr std::uint64_t kRoom = kMaxOutputPiece + 0x4000;
const OutputFile kOutput{kMemory, kRoom};
const Policy kKeeper =
    introspector_policy(kChannel, {}, 4096, IntrospectorDuty::looks, {&kOutput, 1});

constexpr int kTracer = 12, kMonitor = 13, kGdb = 14;
const Policy kSupervisor = supervisor_policy(
    {.channel = kChannel, .tracer = kTracer, .monitor = kMonitor, .gdb = kGdb, .record = kMemory});

// Runs `act` in a closed jail of that role and tells how the process ended.
Ending in_jail(const Policy& policy, const std::function<int()>& act) {
    auto child = Child::fork([&] {
        Fd memory(::memfd_create("ram", 0));
        if (::ftruncate(memory.get(), static_cast<off_t>(kEnd)) != 0) return kJailFailed;
        ::dup2(memory.get(), kMemory);
        const Fd null(::open("/dev/null", O_RDWR));
        ::dup2(null.get(), kChannel);
        const int keep[] = {2, kChannel, kMemory};
        const std::uint64_t writes = &policy == &kKeeper ? kRoom : 0;
        const auto closed = close_jail(policy, {.max_file_bytes = writes}, keep);
        if (!closed.has_value()) return kJailFailed;
        (void)act();
        return kSurvived;
    });
    return child.value().wait(std::chrono::seconds(20)).value();
}

void expect_allowed(const char* what, const std::function<int()>& act,
                    const Policy& policy = kIntrospector) {
    const Ending ending = in_jail(policy, act);
    EXPECT_TRUE(ending.exited && ending.status == kSurvived) << what << ": " << ending.to_text();
}
void expect_killed(const std::string& what, const std::function<int()>& act,
                   const Policy& policy = kIntrospector) {
    const Ending ending = in_jail(policy, act);
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

// As std::call_once does at its end.
TEST(Jail, an_introspector_may_wake_and_not_wait) {
    static std::uint32_t word = 0;
    expect_allowed("wake", [] { return call(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1); });
#ifndef UNDERSEER_SANITIZED  // whose run-time has locks
    expect_killed("wait", [] { return call(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 1, nullptr); });
    expect_killed(
        "of an analyser", [] { return call(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1); }, kAnalyser);
#endif
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

TEST(Jail, evidence_is_written_to_its_file_and_no_further_than_its_bound) {
    expect_allowed(
        "write", [] { return call(SYS_pwrite64, kMemory, buffer, 4096, 0x4000); }, kKeeper);
    expect_allowed("length", [] { return call(SYS_ftruncate, kMemory, kRoom); }, kKeeper);
    expect_allowed("hash", [] { return call(SYS_pread64, kMemory, buffer, 4096, 0); }, kKeeper);
    expect_allowed("sync", [] { return call(SYS_fsync, kMemory); }, kKeeper);
    expect_killed("above", [] { return call(SYS_pwrite64, kMemory, buffer, 1, 0x4001); }, kKeeper);
    expect_killed(
        "far above", [] { return call(SYS_pwrite64, kMemory, buffer, 1, 1ull << 40); }, kKeeper);
    expect_killed(
        "too long", [] { return call(SYS_pwrite64, kMemory, buffer, kMaxOutputPiece + 1, 0); },
        kKeeper);
    expect_killed("length", [] { return call(SYS_ftruncate, kMemory, kRoom + 1); }, kKeeper);
    expect_killed("append", [] { return call(SYS_write, kMemory, buffer, 1); }, kKeeper);
    expect_killed("another", [] { return call(SYS_pwrite64, 2, buffer, 1, 0); }, kKeeper);
}

TEST(Jail, the_analyser_has_a_channel_and_nothing_else) {
    expect_allowed("channel", [] { return call(SYS_write, kChannel, buffer, 1); }, kAnalyser);
    expect_killed(
        "memory", [] { return call(SYS_pread64, kMemory, buffer, 1, kBegin); }, kAnalyser);
    expect_killed("read", [] { return call(SYS_read, kMemory, buffer, 1); }, kAnalyser);
    expect_killed("write", [] { return call(SYS_write, kMemory, buffer, 1); }, kAnalyser);
}

class EveryRole : public testing::TestWithParam<const Policy*> {
  protected:
    // Every number that the filter has no rule for, known to this kernel or not, at both calling
    // conventions. The filter decides before the kernel looks at the call.
    bool has_rule(long number) const {
        const auto names = [&](const SyscallRule& rule) { return rule.number == number; };
        if (std::ranges::any_of(GetParam()->rules, names)) return true;
#ifdef UNDERSEER_SANITIZED
        return std::ranges::any_of(sanitizer_extension(), names);
#else
        return false;
#endif
    }
};
// uretprobe and uprobe: the kernel's own trampolines call them, they do nothing elsewhere, and
// seccomp lets them through unasked (kernel/seccomp.c of 6.14 and 6.18).
bool goes_past_every_filter(long number) {
    return number == 335 || number == 336;
}
INSTANTIATE_TEST_SUITE_P(Jail, EveryRole,
                         testing::Values(&kIntrospector, &kAnalyser, &kMonitorReader,
                                         &kLibvirtReader, &kSupervisor),
                         [](const auto& role) {
                             return fmt::format("{}_{}", role.param->role, role.index);
                         });

TEST_P(EveryRole, is_killed_by_every_call_without_a_rule) {
    constexpr long kBehindTheLast = 512;
    for (long number = 0; number < kBehindTheLast; ++number) {
        if (has_rule(number) || goes_past_every_filter(number)) continue;
        expect_killed(
            fmt::format("call {}", number), [number] { return call(number, 0, 0, 0, 0); },
            *GetParam());
    }
    expect_killed("x32", [] { return call(0x40000000L + SYS_getpid); }, *GetParam());
    expect_killed(
        "x32 read", [] { return call(0x40000000L + SYS_read, kChannel, buffer, 1); }, *GetParam());
}

TEST_P(EveryRole, can_do_none_of_what_an_attacker_wants_first) {
    for (const long number :
         {SYS_open,           SYS_openat,  SYS_openat2,      SYS_socket,      SYS_connect,
          SYS_sendmsg,        SYS_recvmsg, SYS_execve,       SYS_execveat,    SYS_fork,
          SYS_clone,          SYS_clone3,  SYS_kill,         SYS_ptrace,      SYS_process_vm_readv,
          SYS_pidfd_getfd,    SYS_mount,   SYS_unshare,      SYS_setns,       SYS_bpf,
          SYS_io_uring_setup, SYS_ioctl,   SYS_memfd_create, SYS_userfaultfd, SYS_perf_event_open,
          SYS_keyctl,         SYS_prctl,   SYS_preadv,       SYS_pwrite64}) {
        // Over one socket only, as below.
        if (number == SYS_sendmsg && GetParam() == &kSupervisor) continue;
        EXPECT_FALSE(has_rule(number)) << number;
    }
}

TEST_P(EveryRole, makes_no_memory_executable) {
    const Policy& role = *GetParam();
    expect_killed(
        "mprotect", [] { return call(SYS_mprotect, 0x10000, 4096, PROT_READ | PROT_EXEC); }, role);
#ifndef UNDERSEER_SANITIZED  // the sanitizer's own allocator needs mmap without conditions
    expect_killed(
        "mmap exec",
        [] {
            const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
            return call(SYS_mmap, 0, 4096, PROT_READ | PROT_EXEC, flags, -1, 0);
        },
        role);
    expect_killed(
        "mmap of guest memory",
        [] { return call(SYS_mmap, 0, 4096, PROT_READ, MAP_SHARED, kMemory, 0); }, role);
#endif
}

TEST(Jail, the_supervisor_gives_sockets_to_the_monitor_and_files_nothing_but_their_emptiness) {
    const auto give = [](int fd) {
        return [fd] {
            const msghdr nothing{};
            return call(SYS_sendmsg, fd, &nothing, MSG_DONTWAIT);
        };
    };
    expect_allowed("sendmsg to the monitor", give(kMonitor), kSupervisor);
    for (const int fd : {kChannel, kTracer, kGdb, kMemory}) {
        expect_killed(fmt::format("sendmsg to {}", fd), give(fd), kSupervisor);
    }
    expect_allowed("empty", [] { return call(SYS_ftruncate, kMemory, 0); }, kSupervisor);
    expect_killed("longer", [] { return call(SYS_ftruncate, kMemory, 1); }, kSupervisor);
    expect_killed("another", [] { return call(SYS_ftruncate, kGdb, 0); }, kSupervisor);
    expect_killed("write", [] { return call(SYS_write, kMemory, buffer, 1); }, kSupervisor);
    expect_killed(
        "memory", [] { return call(SYS_pread64, kMemory, buffer, 1, kBegin); }, kSupervisor);
    expect_allowed(
        "tracer", [] { return call(SYS_recvfrom, kTracer, buffer, 1, 0, 0, 0); }, kSupervisor);
    expect_killed("gdb", [] { return call(SYS_recvfrom, kGdb, buffer, 1, 0, 0, 0); }, kSupervisor);
}

TEST(Jail, a_tracer_has_a_line_to_its_supervisor_and_other_introspectors_none) {
    const Policy tracer =
        introspector_policy(kChannel, {&kRange, 1}, 4096, IntrospectorDuty::looks, {}, kTracer);
    const auto tell = [] { return call(SYS_write, kTracer, buffer, 1); };
    expect_allowed("supervisor", tell, tracer);
    expect_killed("supervisor", tell);
    const auto post = [] { return call(SYS_sendto, kChannel, buffer, 1, 0, 0, 0); };
    expect_allowed("channel", post, tracer);
    expect_killed("channel", post);
    expect_killed("sendto", [] { return call(SYS_sendto, kTracer, buffer, 1, 0, 0, 0); }, tracer);
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
