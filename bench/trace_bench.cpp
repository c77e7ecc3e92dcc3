// What a trace costs: CPU time of one sample of a thread that waits, of following
// its stacks, and of naming what was not seen before. A TCG guest.
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "agent/process_trace.h"
#include "guest_memory/cached_memory.h"
#include "guest_memory/sources.h"
#include "hypervisor/discover.h"
#include "hypervisor/ram.h"
#include "testing/test_vm.h"

namespace {

using namespace underseer;
using guest_linux::TaskMoment;
constexpr int kRounds = 201;

double cpu_us() {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

template <typename F>
double time_us(F&& work) {
    const double start = cpu_us();
    work();
    return cpu_us() - start;
}

template <typename F>
double median_us(F&& work) {
    std::vector<double> times;
    for (int i = 0; i < kRounds; ++i) times.push_back(time_us(work));
    std::ranges::nth_element(times, times.begin() + kRounds / 2);
    return times[kRounds / 2];
}

void print_row(std::string_view what, double us) {
    fmt::print("| {:<62} | {:>8.1f} us |\n", what, us);
}

void measure(const std::string& kernel) {
    auto vm = testing::TestVm::boot({.kernel = kernel, .workload = false});
    if (!vm.has_value()) {
        fmt::print("{}: {}\n", kernel, vm.error().to_text());
        return;
    }
    const std::string said =
        vm->output_of("/bin/workload-dynamic chain > /dev/null & sleep 1; echo $!");
    const auto pid = static_cast<std::uint32_t>(std::stoul(said));
    const auto found = hypervisor::select(hypervisor::discover().value(), vm->name()).value();
    auto ram = hypervisor::open_ram(found).value();
    std::vector<int> fds;
    for (const Fd& fd : ram.fds) fds.push_back(fd.get());
    const auto memory = guest_memory::open_live(fds, ram.layouts.front(), vm->name()).value();
    guest_memory::CachedMemory cache(memory.get());
    const auto guest = guest_linux::Guest::attach(&cache).value();
    const auto tasks = guest->tasks({.user_memory = false, .paths = false}, pid).items;
    const GuestVirt task{tasks.at(0).address};

    fmt::print("{}, a program with shared libraries\n", kernel);
    std::unique_ptr<guest_linux::TaskSampler> sampler;
    print_row("begin: the kernel's unwind tables",
              time_us([&] { sampler = guest->task_sampler(memory.get()).value(); }));
    const TaskMoment moment = sampler->sample(task).value();
    print_row("sample of a thread that has not run since",
              median_us([&] { CHECK(sampler->sample(task, &moment)->is_unchanged); }));
    print_row(fmt::format("sample with its kernel stack of {}", moment.stack.frames.size()),
              median_us([&] { CHECK(sampler->sample(task).has_value()); }));
    guest_linux::UserPrograms programs = guest->user_programs(memory.get());
    print_row("what the process has mapped, each second", median_us([&] {
                  guest->new_epoch();
                  programs.look_at(guest->user_memory().process(task, pid).value());
              }));
    guest_linux::UserStack stack;
    print_row("its program's stack, for the first time",
              time_us([&] { stack = programs.stack_of(*moment.user); }));
    print_row(fmt::format("its program's stack of {}, again", stack.frames.size()),
              median_us([&] { stack = programs.stack_of(*moment.user); }));
    const auto name_all = [&] {
        for (const auto& frame : stack.frames) (void)programs.place_of(frame);
    };
    print_row("names of that, for the first time", time_us(name_all));
    print_row("names of that, again", median_us(name_all));
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<std::string> kernels(argv + 1, argv + argc);
    if (kernels.empty()) kernels = {"6.1-cloud"};
    for (const std::string& kernel : kernels) measure(kernel);
}
