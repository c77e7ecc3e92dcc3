// How long it takes to see into a guest: cold attach to the first process list, and the warm list
// with the hidden-process views, on guests whose memory is all touched. TCG guests.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "guest_linux/guest.h"
#include "guest_memory/cached_memory.h"
#include "guest_memory/sources.h"
#include "hypervisor/discover.h"
#include "hypervisor/ram.h"
#include "testing/test_vm.h"

namespace {

using namespace underseer;
using Clock = std::chrono::steady_clock;
constexpr int kRounds = 9;

double ms_since(Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

template <typename F>
double median_ms(F&& round) {
    std::vector<double> times;
    for (int i = 0; i < kRounds; ++i) {
        const auto start = Clock::now();
        round();
        times.push_back(ms_since(start));
    }
    std::ranges::nth_element(times, times.begin() + kRounds / 2);
    return times[kRounds / 2];
}

struct OpenGuest {
    std::vector<Fd> fds;
    std::unique_ptr<guest_memory::GuestMemory> memory;
};

OpenGuest open(const testing::TestVm& vm) {
    const auto found = hypervisor::select(hypervisor::discover().value(), vm.name()).value();
    auto ram = hypervisor::open_ram(found).value();
    std::vector<int> fds;
    for (const Fd& fd : ram.fds) fds.push_back(fd.get());
    auto memory = guest_memory::open_live(fds, ram.layouts.front(), vm.name()).value();
    return {std::move(ram.fds), std::move(memory)};
}

void measure(const char* label, testing::VmSpec spec) {
    auto vm = testing::TestVm::boot(spec);
    if (!vm.has_value()) {
        fmt::print("{:<28}{}\n", label, vm.error().to_text());
        return;
    }
    // Touch what is free, so that no hole makes a search cheap; then a guest of 300 tasks.
    vm->output_of("dd if=/dev/zero of=/dev/shm/fill bs=1M 2>/dev/null; rm -f /dev/shm/fill; true");
    vm->output_of(
        "i=0; while [ $i -lt 240 ]; do /bin/workload sleeper > /dev/null & i=$((i+1)); done; sleep "
        "3");
    OpenGuest open_guest = open(*vm);
    std::size_t tasks = 0;
    const double cold = median_ms([&] {
        guest_memory::CachedMemory cache(open_guest.memory.get());
        auto guest = guest_linux::Guest::attach(&cache).value();
        tasks = guest->tasks().items.size();
    });
    const double model = median_ms([&] {
        guest_memory::CachedMemory cache(open_guest.memory.get());
        (void)guest_linux::Guest::attach(&cache).value();
    });
    guest_memory::CachedMemory cache(open_guest.memory.get());
    auto guest = guest_linux::Guest::attach(&cache).value();
    const double warm = median_ms([&] {
        guest->new_epoch();
        tasks = guest->tasks().items.size();
    });
    const double views = median_ms([&] {
        guest->new_epoch();
        (void)guest->task_views();
    });
    std::vector<std::byte> piece(1 << 20), copy(1 << 20);
    const auto ram = open_guest.memory->regions().front();
    const double read = median_ms([&] {
        for (std::uint64_t at = 0; at < (256u << 20); at += piece.size()) {
            (void)open_guest.memory->read(ram.begin + at, piece);
        }
    });
    const double copying = median_ms([&] {
        for (std::uint64_t at = 0; at < (256u << 20); at += piece.size()) {
            std::memcpy(copy.data(), piece.data(), piece.size());
            asm volatile("" : : "r"(copy.data()) : "memory");
        }
    });
    fmt::print("{:<28}{:>6}{:>14.1f}{:>10.1f}{:>14.2f}{:>14.2f}{:>16.2f}\n", label, tasks, cold,
               model, warm, views, copying / read);
    std::fflush(stdout);
}

}  // namespace

int main() {
    fmt::print("{:<28}{:>6}{:>14}{:>10}{:>14}{:>14}{:>16}\n", "guest", "tasks", "cold list ms",
               "model ms", "warm list ms", "views ms", "read / memcpy");
    measure("512 MiB shared", {.workload = false});
    measure("512 MiB private", {.ram = testing::Ram::anonymous, .workload = false});
    measure("4 GiB shared", {.memory_mib = 4096, .workload = false});
    measure("4 GiB private",
            {.memory_mib = 4096, .ram = testing::Ram::anonymous, .workload = false});
}
