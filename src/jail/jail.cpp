#include "jail/jail.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace underseer::jail {

namespace {

constexpr uid_t kNobody = 65534;

// Layers that could not be put on are collected, not passed over in silence.
class Layers {
  public:
    void attempt(std::string_view what, bool worked) {
        if (!worked) missing_.push_back(fmt::format("{} ({})", what, std::strerror(errno)));
    }
    std::vector<std::string> take() { return std::move(missing_); }

  private:
    std::vector<std::string> missing_;
};

void close_all_but(std::span<const int> keep) {
    std::vector<int> fds(keep.begin(), keep.end());
    std::ranges::sort(fds);
    unsigned next = 0;
    for (const int fd : fds) {
        const auto number = static_cast<unsigned>(fd);
        if (number > next) ::syscall(__NR_close_range, next, number - 1, 0);
        next = number + 1;
    }
    ::syscall(__NR_close_range, next, ~0u, 0);
}

void enter_namespaces(Layers& layers) {
    const int spaces = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
    if (::geteuid() == 0) {
        layers.attempt("own namespaces", ::unshare(spaces) == 0);
    } else {
        layers.attempt("own user namespace and all others", ::unshare(CLONE_NEWUSER | spaces) == 0);
    }
}

// An empty, read-only file system as the only thing there is.
bool empty_root() {
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return false;
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (::mount("none", "/tmp", "tmpfs", flags, "size=4k,nr_inodes=2,mode=555") != 0) return false;
    if (::chdir("/tmp") != 0) return false;
    if (::syscall(SYS_pivot_root, ".", ".") != 0) return false;
    if (::umount2(".", MNT_DETACH) != 0 || ::chdir("/") != 0) return false;
    return ::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, nullptr) == 0;
}

bool limit(int resource, std::uint64_t value) {
    const rlimit both{value, value};
    return ::setrlimit(static_cast<__rlimit_resource_t>(resource), &both) == 0;
}

void limit_resources(Layers& layers, const Confinement& confinement) {
#ifndef UNDERSEER_SANITIZED  // the sanitizers' shadow memory takes terabytes of address space
    layers.attempt("limit of memory", limit(RLIMIT_AS, confinement.max_memory_bytes));
#endif
    layers.attempt("limit of files written", limit(RLIMIT_FSIZE, confinement.max_file_bytes));
    layers.attempt("no core dump", limit(RLIMIT_CORE, 0));
    layers.attempt("no processes", limit(RLIMIT_NPROC, 0));
    layers.attempt("no more files", limit(RLIMIT_NOFILE, confinement.polled_fds));
}

void drop_user(Layers& layers) {
    if (::geteuid() != 0) return;
    layers.attempt("no groups", ::setgroups(0, nullptr) == 0);
    layers.attempt("group 65534", ::setresgid(kNobody, kNobody, kNobody) == 0);
    layers.attempt("user 65534", ::setresuid(kNobody, kNobody, kNobody) == 0);
}

void drop_capabilities(Layers& layers) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct none[2] = {};
    layers.attempt("no capabilities", ::syscall(SYS_capset, &header, none) == 0);
    ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

void drop_bounding_set(Layers& layers) {
    bool dropped = true;
    for (int capability = 0; ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
        dropped &= ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0;
    }
    layers.attempt("empty bounding set", dropped);
}

}  // namespace

Result<std::vector<std::string>> close_jail(const Policy& policy, const Confinement& confinement,
                                            std::span<const int> keep) {
    Policy whole = policy;
#ifdef UNDERSEER_SANITIZED
    for (SyscallRule& rule : sanitizer_extension()) whole.rules.push_back(std::move(rule));
#endif
    const std::vector<sock_filter> filter = TRY(compile(whole));
    const pid_t parent = ::getppid();
    Layers layers;
    close_all_but(keep);
    enter_namespaces(layers);
    layers.attempt("empty file system", empty_root());
    if (::geteuid() == 0) drop_bounding_set(layers);
    limit_resources(layers, confinement);
    drop_user(layers);
    drop_capabilities(layers);
    layers.attempt("not dumpable", ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0);
    if (confinement.die_with_parent) {
        // Changing the user clears it, so it comes after.
        layers.attempt("dies with its parent", ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0);
        if (::getppid() != parent) return fail(Code::os, "the parent ended while the jail closed");
    }
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return fail(os_error("no new privileges"));
    const sock_fprog program{static_cast<unsigned short>(filter.size()),
                             const_cast<sock_filter*>(filter.data())};
    if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0) {
        return fail(os_error("installing the system-call filter"));
    }
    return layers.take();
}

std::string Ending::to_text() const {
    if (exited) return fmt::format("exited with {}", status);
    if (status == SIGSYS) return "killed by its system-call filter (SIGSYS)";
    return fmt::format("killed by SIG{}", ::sigabbrev_np(status) ? ::sigabbrev_np(status) : "?");
}

Result<Child> Child::fork(const std::function<int()>& body) {
    const pid_t pid = ::fork();
    if (pid < 0) return fail(os_error("starting a worker"));
    if (pid == 0) ::_exit(body());
    Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!pidfd) {
        const Error error = os_error("opening a pidfd for a worker");
        ::kill(pid, SIGKILL);
        ::waitpid(pid, nullptr, 0);
        return fail(error);
    }
    return Child(pid, std::move(pidfd));
}

namespace {

constexpr const char* kWorkerOption = "--worker";

// Between fork and exec: the fds to their numbers, nothing else open, signals as a fresh process
// has them. Only returns when something failed.
void become_worker(const char* role, std::span<const int> fds, pid_t parent, Lifetime lifetime) {
    std::vector<int> high;
    for (const int fd : fds) high.push_back(::fcntl(fd, F_DUPFD, 200));
    for (std::size_t i = 0; i < high.size(); ++i) {
        if (high[i] < 0 || ::dup2(high[i], kFirstWorkerFd + static_cast<int>(i)) < 0) return;
    }
    const int null = ::open("/dev/null", O_RDWR);
    if (null < 0 || ::dup2(null, STDIN_FILENO) < 0 || ::dup2(null, STDOUT_FILENO) < 0) return;
    const auto first_unused =
        static_cast<unsigned>(kFirstWorkerFd) + static_cast<unsigned>(fds.size());
    ::syscall(__NR_close_range, first_unused, ~0u, 0);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    if (lifetime == Lifetime::its_own) {
        if (::setsid() < 0) return;
    } else {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        if (::getppid() != parent) return;
    }
    std::string name = std::string("underseer: ") + role;
    std::string option = kWorkerOption, value = role;
    char* argv[] = {name.data(), option.data(), value.data(), nullptr};
    char* environment[] = {nullptr};
    ::execve("/proc/self/exe", argv, environment);
}

}  // namespace

Result<Child> Child::exec_worker(std::string_view role, std::span<const int> fds,
                                 Lifetime lifetime) {
    const std::string name(role);
    const pid_t parent = ::getpid();
    return fork([&] {
        become_worker(name.c_str(), fds, parent, lifetime);
        return 127;
    });
}

std::optional<std::string> worker_role(int argc, char** argv) {
    if (argc != 3 || std::string_view(argv[1]) != kWorkerOption) return std::nullopt;
    return argv[2];
}

Child& Child::operator=(Child&& other) noexcept {
    std::swap(pid_, other.pid_);
    std::swap(pidfd_, other.pidfd_);
    return *this;
}

Child::~Child() {
    if (!pidfd_) return;
    kill();
    (void)wait(std::chrono::seconds(10));
}

void Child::kill() {
    if (pidfd_) ::syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
}

Result<Ending> Child::wait(std::chrono::milliseconds timeout) {
    if (!pidfd_) return fail(Code::not_found, "the worker has already been waited for");
    pollfd ended{pidfd_.get(), POLLIN, 0};
    int ready = 0;
    do {
        ready = ::poll(&ended, 1, static_cast<int>(timeout.count()));
    } while (ready < 0 && errno == EINTR);
    if (ready == 0) return fail(Code::unavailable, "the worker is still running");
    siginfo_t info{};
    if (::waitid(P_PIDFD, static_cast<id_t>(pidfd_.get()), &info, WEXITED) != 0) {
        return fail(os_error("waiting for a worker"));
    }
    pidfd_.reset();
    return Ending{info.si_code == CLD_EXITED, info.si_status};
}

}  // namespace underseer::jail
