#include "agent/hook_program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "base/os.h"
#include "jail/jail.h"

namespace underseer::agent {

namespace {

constexpr std::size_t kKeptBytes = 4096;  // of what it says
constexpr int kNoSuchProgram = 127;

// Whoever may write the file decides what runs as the agent's user.
Result<void> check_owner(const std::string& path) {
    struct stat status{};
    if (::stat(path.c_str(), &status) != 0) return fail(os_error("examining " + path));
    if (!S_ISREG(status.st_mode)) {
        return fail(Code::invalid_argument, path + " is no regular file");
    }
    const bool own = status.st_uid == 0 || status.st_uid == ::geteuid();
    if (!own || (status.st_mode & 022) != 0) {
        return fail(Code::permission,
                    fmt::format("{} can be written by others: it is not started (chown root {}; "
                                "chmod 755 {})",
                                path, path, path));
    }
    return {};
}

Result<Fd> as_file(const std::string& text) {
    Fd file(::memfd_create("event", MFD_CLOEXEC));
    if (!file) return fail(os_error("making a file for the event"));
    TRY(write_all(file.get(), as_bytes(text)));
    if (::lseek(file.get(), 0, SEEK_SET) != 0) return fail(os_error("winding back the event"));
    return file;
}

// Between fork and exec: as a fresh process of this user has it. Only returns when that failed.
int become(const std::string& path, int input, int output) {
    if (::dup2(input, STDIN_FILENO) < 0 || ::dup2(output, STDOUT_FILENO) < 0 ||
        ::dup2(output, STDERR_FILENO) < 0) {
        return kNoSuchProgram;
    }
    ::syscall(SYS_close_range, 3u, ~0u, 0);
    ::setsid();
    if (::chdir("/") != 0) return kNoSuchProgram;
    ::signal(SIGPIPE, SIG_DFL);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    std::string name = path;
    std::string search = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    char* argv[] = {name.data(), nullptr};
    char* environment[] = {search.data(), nullptr};
    ::execve(name.c_str(), argv, environment);
    return kNoSuchProgram;
}

}  // namespace

struct HookPrograms::Program {
    std::string path;
    Done done;
    std::optional<jail::Child> child;
    Fd output;
    std::string said;
    bool late = false;
    EventLoop::Timer deadline = 0;

    // Takes what is there. False when nobody holds the other end any more.
    bool listen() {
        std::array<char, kKeptBytes> piece;
        for (;;) {
            const ssize_t got = ::read(output.get(), piece.data(), piece.size());
            if (got <= 0) return got < 0;
            const std::size_t room = kKeptBytes - said.size();
            said.append(piece.data(), std::min(room, static_cast<std::size_t>(got)));
        }
    }

    void end() {
        ::kill(-child->pid(), SIGKILL);  // whom it has started, too
        child->kill();
    }

    Result<std::string> result() {
        const auto ending = child->wait(std::chrono::seconds(1));
        const std::string line = said.substr(0, said.find('\n'));
        const std::string words = line.empty() ? "" : ": " + line;
        if (late) {
            return fail(Code::unavailable,
                        fmt::format("{} took too long and was ended{}", path, words));
        }
        if (!ending.has_value()) return fail(ending.error());
        if (!ending->exited || ending->status != 0) {
            return fail(Code::unavailable, fmt::format("{} {}{}", path, ending->to_text(), words));
        }
        return path + words;
    }
};

HookPrograms::HookPrograms(EventLoop* loop, std::chrono::milliseconds longest)
    : loop_(loop), longest_(longest) {}

HookPrograms::~HookPrograms() {
    for (const auto& [id, program] : running_) {
        loop_->cancel(program->deadline);
        loop_->unwatch(program->output.get());
        loop_->unwatch(program->child->pidfd());
    }
}

void HookPrograms::stop(const Error& why) {
    for (const auto& [id, program] : std::exchange(running_, {})) {
        loop_->cancel(program->deadline);
        loop_->unwatch(program->output.get());
        loop_->unwatch(program->child->pidfd());
        program->end();
        program->done(fail(why));
    }
}

void HookPrograms::run(const std::string& path, const std::string& input, Done done) {
    auto program = std::make_unique<Program>();
    const auto started = [&]() -> Result<void> {
        if (running_.size() >= kMaxRunning) {
            return fail(Code::limit, fmt::format("{} such programs run already", kMaxRunning));
        }
        TRY(check_owner(path));
        const Fd event = TRY(as_file(input));
        int ends[2];
        if (::pipe2(ends, O_CLOEXEC) != 0) return fail(os_error("making a pipe"));
        const Fd theirs(ends[1]);
        program->output = Fd(ends[0]);
        if (::fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0) return fail(os_error("setting up a pipe"));
        program->child.emplace(
            TRY(jail::Child::fork([&] { return become(path, event.get(), theirs.get()); })));
        return {};
    }();
    if (!started.has_value()) {
        loop_->after(std::chrono::milliseconds(0),
                     [done = std::move(done), why = started.error()] { done(fail(why)); });
        return;
    }
    const std::uint64_t id = next_++;
    program->path = path;
    program->done = std::move(done);
    Program& running = *program;
    running_.emplace(id, std::move(program));
    loop_->watch(running.child->pidfd(), [this, id] { finish(id); });
    loop_->watch(running.output.get(), [this, &running] {
        if (!running.listen()) loop_->unwatch(running.output.get());
    });
    running.deadline = loop_->after(longest_, [&running] {
        running.deadline = 0;
        running.late = true;
        running.end();
    });
}

void HookPrograms::finish(std::uint64_t id) {
    const auto program = std::move(running_.at(id));
    running_.erase(id);
    loop_->cancel(program->deadline);
    loop_->unwatch(program->output.get());
    loop_->unwatch(program->child->pidfd());
    (void)program->listen();
    program->done(program->result());
}

}  // namespace underseer::agent
