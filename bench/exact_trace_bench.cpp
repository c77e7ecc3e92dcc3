// What an exact trace costs: stops a second, how long each is, and how much slower it makes a
// program that does nothing but system calls. A TCG guest with one CPU.
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "agent/introspector.h"
#include "agent/trace_supervisor.h"
#include "agent/worker.h"
#include "hypervisor/discover.h"
#include "testing/test_vm.h"

namespace {

using namespace underseer;
using namespace std::chrono_literals;

// Bytes that dd has copied one by one: two system calls each.
double copied(testing::TestVm& vm, const std::string& pid) {
    return std::stod(vm.output_of(
        fmt::format("awk '/^wchar/ {{print $2}}' /proc/{}/io 2>/dev/null || echo 0", pid)));
}

void measure(const std::string& kernel) {
    auto vm = testing::TestVm::boot({.kernel = kernel, .workload = false});
    if (!vm.has_value()) {
        fmt::print("{}: {}\n", kernel, vm.error().to_text());
        return;
    }
    const auto found = hypervisor::select(hypervisor::discover().value(), vm->name()).value();
    std::string pid =
        vm->output_of("dd if=/dev/zero of=/dev/null bs=1 > /dev/null 2>&1 & sleep 1; echo $!");
    pid.pop_back();
    const double before = copied(*vm, pid);
    vm->output_of("sleep 2");
    const double alone = (copied(*vm, pid) - before) / 2;

    const auto state = std::filesystem::temp_directory_path() / (vm->name() + "-state");
    auto supervisor = agent::TraceSupervisor::start(found, state, ~0u).value();
    agent::GuestSource source = agent::live_source(found).value();
    source.supervisor = supervisor.take_line();
    auto tracer = agent::Introspector::start(std::move(source)).value();
    agent::ExactSummary summary;
    const auto traced = tracer.ask_each<agent::ExactPart>(
        {.topic = agent::Topic::exact_trace,
         .one_pid = true,
         .pid = static_cast<std::uint32_t>(std::stoul(pid)),
         .trace = {.begin = true, .for_ms = 10'000}},
        [&](agent::ExactPart part) { summary = std::move(part.summary); });
    std::filesystem::remove_all(state);
    if (!traced.has_value()) {
        fmt::print("{}: {}\n", kernel, traced.error().to_text());
        return;
    }
    const double seconds = static_cast<double>(summary.duration_ns) / 1e9;
    const double stops = static_cast<double>(summary.stops);
    fmt::print("| {:<44} | {:>12} |\n|---|---|\n", "figure, kernel " + kernel, "measured");
    const auto row = [](std::string_view what, const std::string& value) {
        fmt::print("| {:<44} | {:>12} |\n", what, value);
    };
    row("system calls told, a second", fmt::format("{:.0f}", double(summary.calls) / seconds));
    row("stops of the VM, a second", fmt::format("{:.0f}", stops / seconds));
    row("a stop, on average", fmt::format("{:.0f} us", double(summary.frozen_ns) / stops / 1e3));
    row("the longest", fmt::format("{:.1f} ms", double(summary.longest_freeze_ns) / 1e6));
    row("share of the time that the VM stood still",
        fmt::format("{:.0f} %", 100 * double(summary.frozen_ns) / double(summary.duration_ns)));
    row("system calls of the same program, alone", fmt::format("{:.0f} /s", 2 * alone));
}

}  // namespace

int main(int argc, char** argv) {
    if (const auto status = underseer::agent::run_if_worker(argc, argv)) return *status;
    measure("6.1-cloud");
}
