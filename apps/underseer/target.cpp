#include "target.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "agent/managers.h"
#include "agent/paths.h"
#include "detect/decoy_kernel/decoy_kernel.h"
#include "hypervisor/discover.h"
#include "table.h"

namespace underseer::cli {

bool names_an_image(const std::string& target) {
    return target.find('/') != std::string::npos || ::access(target.c_str(), F_OK) == 0;
}

Result<agent::GuestSource> file_source(const std::string& path, std::string_view what) {
    agent::GuestSource source;
    source.name = path;
    source.image = true;
    Fd fd = TRY(open_file(path, O_RDONLY | O_NONBLOCK));
    struct stat status{};
    if (::fstat(fd.get(), &status) != 0) return fail(os_error(fmt::format("examining {}", path)));
    if (!S_ISREG(status.st_mode)) {
        return fail(Code::unsupported,
                    fmt::format("{} is {}, not {}", path,
                                S_ISDIR(status.st_mode) ? "a directory" : "no regular file", what));
    }
    source.image_bytes = static_cast<std::uint64_t>(status.st_size);
    source.fds.push_back(std::move(fd));
    return source;
}

namespace {

Result<hypervisor::Vm> find_vm(const std::string& wanted) {
    const hypervisor::Host host = TRY(hypervisor::discover());
    auto selected = hypervisor::select(host, wanted);
    if (!selected.has_value() && selected.error().code == Code::not_found && ::geteuid() != 0) {
        // What program another user's process runs is hidden from us: it may be there all the same.
        return fail(Code::permission,
                    fmt::format("no VM that this user may see is called '{}'; VMs of other users "
                                "are looked into by root, or by asking the agent (underseerd)",
                                wanted));
    }
    hypervisor::Vm vm = TRY(std::move(selected));
    if (!vm.not_introspectable.empty() && ::geteuid() == 0) {
        return fail(Code::unavailable, fmt::format("the VM {} is not introspectable: {}",
                                                   vm.label(), vm.not_introspectable));
    }
    return vm;
}

void note_missing(const std::vector<std::string>& layers) {
    for (const std::string& layer : layers) {
        fmt::print(stderr, "underseer: note: this host does not allow a layer of the jail: {}\n",
                   printable(layer));
    }
}

// `vm` is filled in when it is a VM that is read.
Result<agent::Introspector> start_introspector(const Options& options,
                                               std::optional<hypervisor::Vm>& vm) {
    if (options.target.empty()) {
        return fail(
            Code::invalid_argument,
            fmt::format("'{}' needs a VM (its name, UUID or pid; see underseer ls) or an image "
                        "file",
                        options.command));
    }
    agent::GuestSource source;
    if (names_an_image(options.target)) {
        source = TRY(file_source(options.target,
                                 "a memory image; an image is a file (LiME, AVML, ELF core, "
                                 "kdump-compressed, raw)"));
    } else {
        vm = TRY(find_vm(options.target));
        source = TRY(agent::live_source(*vm));
    }
    source.scans = !options.rules.empty();
    auto introspector = TRY(agent::Introspector::start(std::move(source)));
    note_missing(TRY(introspector.missing_layers()));
    return introspector;
}

constexpr std::chrono::milliseconds kBetweenHearings{100};

void note_unheard(const std::string& why) {
    fmt::print(
        stderr,
        "underseer: note: which kernel the guest's CPUs run is not known ({}): shown is what "
        "its memory holds\n",
        printable(why));
}

}  // namespace

Result<agent::Introspector> open_introspector(const Options& options) {
    std::optional<hypervisor::Vm> vm;
    return start_introspector(options, vm);
}

Result<std::string> put_right(const hypervisor::Vm& vm, const Options& options) {
    constexpr unsigned kAttempts = 10;
    constexpr std::chrono::milliseconds kBetweenAttempts{200};
    Result<std::string> last = fail(Code::unavailable, "not tried");
    for (unsigned i = 0; i < kAttempts; ++i) {
        auto inquiry = TRY(agent::Inquiry::to_act(vm, event::Action::resume, /*dry_run=*/false));
        const auto facts =
            inquiry.wait(std::chrono::steady_clock::now() + agent::Inquiry::kLongest);
        if (facts.has_value() && facts->size() == 1) {
            agent::TraceRecord::settle(options.state_dir, vm);
            return facts->front().done;
        }
        if (!facts.has_value()) last = fail(facts.error());
        std::this_thread::sleep_for(kBetweenAttempts);
    }
    return std::move(last).context("putting the VM right");
}

Result<ExactTarget> open_exact(const Options& options) {
    if (options.target.empty() || names_an_image(options.target)) {
        return fail(
            Code::invalid_argument,
            "an exact trace is of a VM that runs: its name, UUID or pid (see underseer ls)");
    }
    hypervisor::Vm vm = TRY(find_vm(options.target));
    if (const std::string why = agent::why_no_exact_trace(vm); !why.empty()) {
        return fail(Code::unavailable,
                    fmt::format("{} cannot be traced exactly: {}", vm.label(), why));
    }
    agent::GuestSource source = TRY(agent::live_source(vm));
    if (agent::TraceRecord::is_owed(options.state_dir, vm)) {
        fmt::print(stderr, "underseer: an earlier exact trace was killed; {} was {}\n",
                   printable(vm.label()), printable(TRY(put_right(vm, options))));
    }
    // Before the supervisor has the monitor to itself.
    std::vector<event::CpuRegisters> cpus;
    if (auto told = agent::ask_registers(vm); told.has_value()) {
        cpus = std::move(*told);
    } else {
        note_unheard(told.error().to_text());
    }
    auto supervisor = TRY(agent::TraceSupervisor::start(
        vm, options.state_dir, options.stops.value_or(agent::kMaxStopsPerSecond)));
    note_missing(supervisor.missing_layers());
    source.supervisor = supervisor.take_line();
    auto introspector = agent::Introspector::start(std::move(source));
    if (!introspector.has_value()) {
        // It has no tracer to wait for, and ends.
        (void)supervisor.wait(agent::Inquiry::kLongest);
        agent::TraceRecord::settle(options.state_dir, vm);
        return Unexpected(std::move(introspector).error());
    }
    note_missing(TRY(introspector->missing_layers()));
    return ExactTarget{std::move(vm), std::move(supervisor), std::move(*introspector),
                       std::move(cpus)};
}

Result<Target> Target::open(const Options& options) {
    Target target;
    const bool agents = !options.target.empty() && !names_an_image(options.target);
    if (agents && !options.direct) {
        auto client = agent::AgentClient::connect(options.run_dir / agent::kControlSocketName);
        if (client.has_value()) {
            target.client_.emplace(std::move(*client));
            target.instance_ = options.target;
            return target;
        }
        if (client.error().code != Code::not_found) return fail(std::move(client).error());
    }
    target.introspector_.emplace(TRY(start_introspector(options, target.vm_)));
    // So that the kernel that the CPUs run is looked into; where nobody tells, what memory shows.
    if (target.vm_ && hypervisor::has_monitor(*target.vm_)) {
        auto monitor = agent::Inquiry::of_monitor(*target.vm_);
        if (monitor.has_value()) {
            target.monitor_.emplace(std::move(*monitor));
        } else {
            note_unheard(monitor.error().to_text());
        }
    }
    return target;
}

std::vector<event::CpuRegisters> Target::take_cpus() {
    if (!monitor_) return {};
    const auto told = monitor_->wait(std::chrono::steady_clock::now() + agent::Inquiry::kLongest);
    monitor_.reset();
    if (told.has_value() && !told->empty() && !told->front().cpus.empty()) {
        return told->front().cpus;
    }
    note_unheard(told.has_value() ? hypervisor::why_no_registers(*vm_) : told.error().to_text());
    return {};
}

Result<event::CheckReport> Target::hear_cpus() {
    std::vector<event::CpuRegisters> cpus;
    if (vm_) {
        cpus = take_cpus();
        if (cpus.empty()) cpus = TRY(agent::ask_registers(*vm_));
    }
    const auto answer = TRY(
        ask<event::CheckReport>({.topic = agent::Topic::decoy_kernel, .cpus = std::move(cpus)}));
    if (answer.items.size() != 1) return fail(Code::malformed, "the introspector sent no report");
    return answer.items.front();
}

Result<event::CheckReport> Target::check_kernel() {
    using detect::DecoyKernelCheck;
    event::CheckReport report;
    // One time more than a finding needs: at the first, the kernel may still be the wrong one.
    for (unsigned i = 0; i <= DecoyKernelCheck::kHearings; ++i) {
        if (i > 0) std::this_thread::sleep_for(kBetweenHearings);
        auto heard = hear_cpus();
        if (!heard.has_value()) {
            if (heard.error().code != Code::unavailable) return fail(std::move(heard).error());
            report.check = DecoyKernelCheck::kName;
            report.outcome = event::Outcome::unavailable;
            report.reason = heard.error().message;
            return report;
        }
        report = std::move(*heard);
        // The agent hears them at its own pace, and an image says the same each time.
        if (report.outcome != event::Outcome::unavailable || !vm_) break;
    }
    return report;
}

}  // namespace underseer::cli
