#include "agent/trace_supervisor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <system_error>

#include "agent/paths.h"
#include "event/wire.h"

namespace underseer::agent {

namespace {

using std::chrono::milliseconds;
constexpr milliseconds kSupervisorStart{5000};

std::filesystem::path record_folder(const std::filesystem::path& state_dir) {
    return state_dir / "traced";
}

std::filesystem::path record_path(const std::filesystem::path& state_dir,
                                  const hypervisor::Vm& vm) {
    return record_folder(state_dir) / fmt::format("{}-{}", vm.pid, vm.start_ticks);
}

}  // namespace

// ---- what is owed -----------------------------------------------------------------------------

Result<TraceRecord> TraceRecord::make(const std::filesystem::path& state_dir,
                                      const hypervisor::Vm& vm) {
    TRY(make_directory(record_folder(state_dir), 0700));
    const auto path = record_path(state_dir, vm);
    Fd file = TRY(open_file(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
    if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
        return fail(Code::unavailable,
                    fmt::format("another exact trace of {} is under way ({} is locked)", vm.label(),
                                path.native()));
    }
    TRY(write_all(file.get(), as_bytes(vm.label() + '\n')));
    if (::fsync(file.get()) != 0) return fail(os_error("writing " + path.native()));
    return TraceRecord(std::move(file));
}

bool TraceRecord::is_owed(const std::filesystem::path& state_dir, const hypervisor::Vm& vm) {
    const auto file = open_file(record_path(state_dir, vm), O_RDWR | O_NOFOLLOW);
    if (!file.has_value()) return false;
    struct stat status{};
    if (::fstat(file->get(), &status) != 0 || status.st_size == 0) return false;
    return ::flock(file->get(), LOCK_EX | LOCK_NB) == 0;
}

void TraceRecord::settle(const std::filesystem::path& state_dir, const hypervisor::Vm& vm) {
    std::error_code ignored;
    std::filesystem::remove(record_path(state_dir, vm), ignored);
}

// ---- the handle -------------------------------------------------------------------------------

std::string why_no_exact_trace(const hypervisor::Vm& vm) {
    if (vm.managed_by == "libvirt") {
        return "libvirt manages it: to start QEMU's GDB server taints the domain, and libvirt "
               "alone may speak to its monitor";
    }
    if (!hypervisor::has_monitor(vm)) {
        return fmt::format("its VMM (pid {}) has no QMP socket (-qmp unix:PATH,server=on,wait=off)",
                           vm.pid);
    }
    return "";
}

Result<TraceSupervisor> TraceSupervisor::start(const hypervisor::Vm& vm,
                                               const std::filesystem::path& state_dir,
                                               std::uint32_t max_stops) {
    TraceSupervisor supervisor = TRY(begin(vm, state_dir, max_stops));
    if (auto greeted = supervisor.take_hello(kSupervisorStart); !greeted.has_value()) {
        supervisor.child_.kill();
        return Unexpected(std::move(greeted).error());
    }
    return supervisor;
}

Result<TraceSupervisor> TraceSupervisor::begin(const hypervisor::Vm& vm,
                                               const std::filesystem::path& state_dir,
                                               std::uint32_t max_stops) {
    if (const std::string why = why_no_exact_trace(vm); !why.empty()) {
        return fail(Code::unavailable,
                    fmt::format("{} cannot be traced exactly: {}", vm.label(), why));
    }
    const TraceRecord record = TRY(TraceRecord::make(state_dir, vm));
    auto [ours, theirs] = TRY(jail::Channel::pair());
    int line[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, line) != 0) {
        return fail(os_error("making a line between the tracer and its supervisor"));
    }
    Fd tracers(line[0]);
    const Fd supervisors(line[1]);
    const int fds[] = {theirs.fd(), supervisors.get(), record.fd()};
    auto child = TRY(jail::Child::exec_worker("supervisor", fds, jail::Lifetime::its_own));
    TraceSupervisor supervisor(std::move(child), std::move(ours), std::move(tracers));
    TRY(supervisor.channel_.send(
        event::encode(SupervisorStart{.path = vm.qmp_socket,
                                      .pid = static_cast<std::uint32_t>(vm.pid),
                                      .user = vm.user,
                                      .group = vm.group,
                                      .max_stops = max_stops})));
    {
        const jail::Channel closed = std::move(theirs);
    }
    return supervisor;
}

Result<void> TraceSupervisor::take_hello(milliseconds longest) {
    if (is_greeted_) return {};
    const std::string hello = TRY(next_frame(longest));
    missing_layers_ = TRY(event::decode<std::vector<std::string>>(as_bytes(hello)));
    is_greeted_ = true;
    return {};
}

Result<std::string> TraceSupervisor::next_frame(milliseconds longest) {
    const auto deadline = std::chrono::steady_clock::now() + longest;
    for (;;) {
        const bool open = TRY(channel_.fill());
        if (auto frame = TRY(channel_.next())) return std::move(*frame);
        if (!open) return fail(Code::unavailable, "the supervisor of the exact trace has ended");
        const auto left =
            std::chrono::duration_cast<milliseconds>(deadline - std::chrono::steady_clock::now());
        pollfd readable{channel_.fd(), POLLIN, 0};
        if (left.count() <= 0 || ::poll(&readable, 1, static_cast<int>(left.count())) == 0) {
            return fail(Code::unavailable, "the supervisor of the exact trace does not answer");
        }
    }
}

void TraceSupervisor::end() {
    // As if we were gone; its report still comes.
    (void)::shutdown(channel_.fd(), SHUT_WR);
}

std::optional<Result<SupervisorReport>> TraceSupervisor::poll() {
    if (!child_.wait(milliseconds(0)).has_value()) return std::nullopt;
    return wait(milliseconds(0));
}

Result<SupervisorReport> TraceSupervisor::wait(milliseconds longest) {
    TRY(take_hello(longest));
    const std::string frame = TRY(next_frame(longest));
    return event::decode<SupervisorReport>(as_bytes(frame));
}

}  // namespace underseer::agent
