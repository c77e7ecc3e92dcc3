// What the watch costs, how soon it sees a change, and how long a process must live to be seen: CPU
// time of one look and its share of a core, the time from a write into the guest's memory to the
// look that saw it, and how many of the processes that compute for so long were seen running. TCG
// guests, at rest and busy.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>
#include <random>
#include <thread>

#include "detect/watches.h"
#include "guest_memory/cached_memory.h"
#include "guest_memory/sources.h"
#include "hypervisor/discover.h"
#include "hypervisor/ram.h"
#include "testing/test_vm.h"

namespace {

using namespace underseer;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

double thread_cpu_s() {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// The value below which this share of them lies.
double quantile(std::vector<double> values, double share) {
    std::ranges::sort(values);
    return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
}

struct Rig {
    explicit Rig(const testing::TestVm& vm)
        : ram(hypervisor::open_ram(
                  hypervisor::select(hypervisor::discover().value(), vm.name()).value())
                  .value()) {
        std::vector<int> fds;
        for (const Fd& fd : ram.fds) fds.push_back(fd.get());
        memory = guest_memory::open_live(fds, ram.layouts.front(), vm.name()).value();
        cache = std::make_unique<guest_memory::CachedMemory>(memory.get());
        guest = guest_linux::Guest::attach(cache.get()).value();
        writable = open_file(fmt::format("/proc/self/fd/{}", fds.front()), O_RDWR).value();
    }
    // RAM starts at the begin of its file in these guests.
    void write(GuestVirt at, std::uint64_t value) {
        const auto phys = guest->kernel().memory().translate(at).value().phys;
        CHECK(::pwrite(writable.get(), &value, sizeof value, static_cast<off_t>(phys.value)) == 8);
    }

    hypervisor::OpenRam ram;
    std::unique_ptr<guest_memory::GuestMemory> memory;
    std::unique_ptr<guest_memory::CachedMemory> cache;
    std::unique_ptr<guest_linux::Guest> guest;
    Fd writable;
};

template <typename Look>
double us_of(Look&& look) {
    constexpr int kLooks = 2000;
    const double start = thread_cpu_s();
    for (int i = 0; i < kLooks; ++i) look();
    return (thread_cpu_s() - start) / kLooks * 1e6;
}

void cost(Rig& rig, const char* what) {
    detect::MemoryWatch watch(rig.guest.get(), rig.memory.get(), Clock::now());
    detect::HiddenRunnerWatch runners(rig.guest.get(), rig.memory.get());
    watch.begin(Clock::now());
    runners.begin(Clock::now());
    const double memory = us_of([&] { CHECK(!watch.poll(Clock::now())); });
    const double sampling = us_of([&] { CHECK(!runners.sample(Clock::now())); });
    fmt::print(
        "{:<8}{:>4} places in {:>3} reads of {} bytes: {:.1f} us a look; sampling: {:.1f} us\n",
        what, watch.places(), watch.reads(), watch.bytes_read(), memory, sampling);
    for (const auto period : {8ms, 1ms}) {
        const auto until = Clock::now() + 3s;
        const double from = thread_cpu_s();
        while (Clock::now() < until) {
            std::this_thread::sleep_for(period);
            watch.poll(Clock::now());
            runners.sample(Clock::now());
        }
        fmt::print("{:<8}every {} ms: {:.2f} % of a core\n", what, period.count(),
                   (thread_cpu_s() - from) / 3 * 100);
    }
    std::fflush(stdout);
}

// Processes that compute for so long, one after the other; which of them were seen running?
void lives(Rig& rig, testing::TestVm& vm, std::chrono::milliseconds period) {
    constexpr int kProcesses = 200;
    for (const double ms : {0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 16.0}) {
        detect::HiddenRunnerWatch runners(rig.guest.get(), rig.memory.get());
        std::atomic<bool> over = false;
        std::thread guest([&] {
            vm.output_of(
                fmt::format("i=0; while [ $i -lt {} ]; do /bin/workload measure_spin {}; "
                            "i=$((i+1)); done > /dev/null",
                            kProcesses, ms / 1000));
            over = true;
        });
        runners.begin(Clock::now());
        while (!over) {
            std::this_thread::sleep_for(period);
            runners.sample(Clock::now());
        }
        guest.join();
        (void)runners.report(std::chrono::system_clock::now(), Clock::now());
        const auto& tally = runners.tally();
        fmt::print("every {} ms, {} processes that compute for {} ms: {:.1f} % seen running\n",
                   period.count(), tally.pids_used, ms,
                   100 - 100 * static_cast<double>(tally.pids_unseen) /
                             static_cast<double>(tally.pids_used));
        std::fflush(stdout);
    }
}

// A word of the table of system calls that no program uses is changed at random moments.
void latency(Rig& rig, const char* what, std::chrono::milliseconds period, int rounds) {
    const GuestVirt at = rig.guest->kernel().symbol("sys_call_table").value() + 8 * 180;
    const auto before = rig.guest->kernel().memory().read<std::uint64_t>(at).value();
    const auto phys = rig.guest->kernel().memory().translate(at).value().phys;
    std::mt19937 random(1);
    std::vector<double> ms;
    detect::MemoryWatch watch(rig.guest.get(), rig.memory.get(), Clock::now());
    watch.begin(Clock::now());
    for (int i = 0; i < rounds; ++i) {
        Clock::time_point written;
        const auto delay = 20ms + std::chrono::microseconds(random() % 20'000);
        std::thread writer([&] {
            std::this_thread::sleep_for(delay);
            const std::uint64_t value = before + 16 * static_cast<std::uint64_t>(i + 1);
            written = Clock::now();
            CHECK(::pwrite(rig.writable.get(), &value, 8, static_cast<off_t>(phys.value)) == 8);
        });
        Clock::time_point seen;
        do {
            std::this_thread::sleep_for(period);
        } while (!watch.poll(Clock::now()));
        seen = Clock::now();
        writer.join();
        ms.push_back(std::chrono::duration<double, std::milli>(seen - written).count());
        CHECK(::pwrite(rig.writable.get(), &before, 8, static_cast<off_t>(phys.value)) == 8);
        watch.poll(Clock::now());
        (void)watch.report(std::chrono::system_clock::now(), Clock::now());
        watch.begin(Clock::now());
    }
    fmt::print(
        "{:<8}every {} ms, {} changes: seen after {:.2f} ms (median), {:.2f} (p99), {:.2f} "
        "(longest)\n",
        what, period.count(), rounds, quantile(ms, 0.5), quantile(ms, 0.99), quantile(ms, 1));
    std::fflush(stdout);
}

void measure(const std::string& kernel, int rounds) {
    auto vm = testing::TestVm::boot({.kernel = kernel, .workload = false});
    if (!vm.has_value()) {
        fmt::print("{}: {}\n", kernel, vm.error().to_text());
        return;
    }
    Rig rig(*vm);
    fmt::print("\n{}\n", kernel);
    cost(rig, "at rest");
    if (rounds > 0) {
        latency(rig, "at rest", 8ms, rounds);
        latency(rig, "at rest", 1ms, rounds);
    }
    lives(rig, *vm, 8ms);
    lives(rig, *vm, 1ms);
    vm->output_of("(while :; do :; done) & (while :; do /bin/true; done) > /dev/null & sleep 1");
    cost(rig, "busy");
    if (rounds > 0) {
        latency(rig, "busy", 8ms, rounds);
        latency(rig, "busy", 1ms, rounds);
    }
}

}  // namespace

//     watch_bench [ROUNDS [KERNEL..]]
int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 500;
    if (argc > 2) {
        for (int i = 2; i < argc; ++i) measure(argv[i], rounds);
        return 0;
    }
    for (const std::string& kernel : testing::TestVm::kernels_at_hand()) measure(kernel, rounds);
}
