// How fast all RAM of a guest is searched for task structures (check --deep), against copying the
// same memory with memcpy. TCG guests whose memory is touched (85 % of it, with noise); they stand
// still meanwhile.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>

#include "guest_linux/guest.h"
#include "guest_linux/task_scan.h"
#include "guest_memory/cached_memory.h"
#include "guest_memory/sources.h"
#include "hypervisor/discover.h"
#include "hypervisor/ram.h"
#include "testing/test_vm.h"

namespace {

using namespace underseer;
constexpr int kRounds = 7;
constexpr std::size_t kPieceBytes = 256u << 10;  // as the search reads

// The machine has other work: CPU time is what the work itself took.
struct Times {
    double wall_ms = 0, cpu_ms = 0;
};

double cpu_ms() {
    timespec time{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) / 1e6;
}

template <typename F>
Times time_of(F&& work) {
    const auto start = std::chrono::steady_clock::now();
    const double cpu = cpu_ms();
    work();
    const std::chrono::duration<double, std::milli> wall = std::chrono::steady_clock::now() - start;
    return {wall.count(), cpu_ms() - cpu};
}

Times median(const std::vector<Times>& rounds) {
    const auto of = [&](double Times::* member) {
        std::vector<double> values;
        for (const Times& round : rounds) values.push_back(round.*member);
        std::ranges::nth_element(values, values.begin() + kRounds / 2);
        return values[kRounds / 2];
    };
    return {of(&Times::wall_ms), of(&Times::cpu_ms)};
}

// A shared file of guest RAM as its VMM has it in its own address space.
class Mapping {
  public:
    Mapping(int fd, std::uint64_t size_bytes)
        : at_(::mmap(nullptr, size_bytes, PROT_READ, MAP_SHARED, fd, 0)), size_bytes_(size_bytes) {
        CHECK(at_ != MAP_FAILED);
        // Mapped beforehand: the figure is that of copying.
        volatile std::byte sum{};
        for (std::uint64_t at = 0; at < size_bytes; at += kPageSize) sum = sum ^ bytes()[at];
    }
    ~Mapping() { ::munmap(at_, size_bytes_); }
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    const std::byte* bytes() const { return static_cast<const std::byte*>(at_); }

  private:
    void* at_;
    std::uint64_t size_bytes_;
};

void measure(const char* label, unsigned memory_mib) {
    auto vm = testing::TestVm::boot({.memory_mib = memory_mib, .workload = false});
    if (!vm.has_value()) {
        fmt::print("{:<16}{}\n", label, vm.error().to_text());
        return;
    }
    vm->output_of(
        "mount -o remount,size=85% /dev/shm 2>/dev/null || mount -t tmpfs -o size=85% tmpfs "
        "/dev/shm");
    vm->output_of(
        "dd if=/dev/urandom of=/tmp/noise bs=1M count=4 2>/dev/null; "
        "while cat /tmp/noise >> /dev/shm/fill 2>/dev/null; do :; done; rm -f /dev/shm/fill; true");
    const auto found = hypervisor::select(hypervisor::discover().value(), vm->name()).value();
    vm->pause();
    auto ram = hypervisor::open_ram(found).value();
    std::vector<int> fds;
    for (const Fd& fd : ram.fds) fds.push_back(fd.get());
    const auto memory = guest_memory::open_live(fds, ram.layouts.front(), vm->name()).value();
    guest_memory::CachedMemory cache(memory.get());
    auto guest = guest_linux::Guest::attach(&cache).value();
    std::vector<GuestVirt> known;
    for (const event::Task& task : guest->tasks({.user_memory = false, .paths = false}).items) {
        known.push_back(GuestVirt{task.address});
    }
    const std::uint64_t bytes = memory->ram_bytes();
    const Mapping mapping(fds.front(), bytes);
    std::vector<std::byte> piece(kPieceBytes);
    std::vector<Times> searches, reads, copies;
    std::size_t places = 0;
    for (int round = 0; round < kRounds; ++round) {
        searches.push_back(time_of([&] {
            guest->new_epoch();
            const auto result = guest_linux::TaskScan(&guest->kernel()).search(known);
            CHECK(!result.gap && result.searched_bytes == bytes);
            places = result.addresses.size();
        }));
        reads.push_back(time_of([&] {
            for (const guest_memory::RamRegion& region : memory->regions()) {
                for (std::uint64_t at = 0; at < region.size_bytes; at += kPieceBytes) {
                    CHECK(memory->read(region.begin + at, piece).has_value());
                }
            }
        }));
        copies.push_back(time_of([&] {
            for (std::uint64_t at = 0; at < bytes; at += kPieceBytes) {
                std::memcpy(piece.data(), mapping.bytes() + at, kPieceBytes);
                asm volatile("" : : "r"(piece.data()) : "memory");
            }
        }));
    }
    const Times search = median(searches), read = median(reads), copy = median(copies);
    const double gib = static_cast<double>(bytes) / (1u << 30) * 1e3;
    const auto row = [&](const char* what, const Times& times) {
        fmt::print("{:<16}{:<12}{:>10.1f}{:>10.1f}{:>12.2f}{:>12.2f}{:>16.2f}{:>16.2f}\n", label,
                   what, times.wall_ms, times.cpu_ms, gib / times.wall_ms, gib / times.cpu_ms,
                   copy.wall_ms / times.wall_ms, copy.cpu_ms / times.cpu_ms);
    };
    row("search", search);
    row("read alone", read);
    row("memcpy", copy);
    fmt::print("{:<16}{} places of tasks, {} known\n", label, places, known.size());
    std::fflush(stdout);
}

}  // namespace

int main() {
    fmt::print("{:<16}{:<12}{:>10}{:>10}{:>12}{:>12}{:>16}{:>16}\n", "guest", "what", "wall ms",
               "CPU ms", "GiB/s wall", "GiB/s CPU", "/ memcpy wall", "/ memcpy CPU");
    measure("512 MiB", 512);
    measure("4 GiB", 4096);
}
