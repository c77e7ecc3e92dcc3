// What each check costs: CPU time of one look at a guest in which nothing is found, and the share
// of a core that this is at the schedule of an agent without a policy. TCG guests.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <filesystem>

#include "agent/baseline_maker.h"
#include "base/os.h"
#include "detect/check.h"
#include "guest_memory/cached_memory.h"
#include "guest_memory/sources.h"
#include "hypervisor/discover.h"
#include "hypervisor/ram.h"
#include "testing/test_vm.h"

namespace {

using namespace underseer;
constexpr int kRounds = 15;

double cpu_ms() {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

template <typename F>
double median_ms(F&& round) {
    std::vector<double> times;
    for (int i = 0; i < kRounds; ++i) {
        const double start = cpu_ms();
        round();
        times.push_back(cpu_ms() - start);
    }
    std::ranges::nth_element(times, times.begin() + kRounds / 2);
    return times[kRounds / 2];
}

long peak_kib() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

// All code of the kernel against how it was built: once, when the baseline is there.
void measure_baseline(const std::string& vmlinuz, guest_linux::Guest& guest) {
    const Fd file = open_file(vmlinuz, O_RDONLY).value();
    std::string baseline;
    const auto timed = [](auto&& work) {
        const double start = cpu_ms();
        work();
        return cpu_ms() - start;
    };
    const double made = timed([&] {
        baseline = agent::make_baselines(file.get(), std::filesystem::file_size(vmlinuz), "vmlinuz")
                       .value()
                       .front()
                       .bytes;
    });
    const auto code = guest.code_map().value();
    std::uint64_t pages = 0;
    const double compared = median_ms([&] {
        guest.new_epoch();
        CHECK(guest.know_built(guest_linux::unpack_built_kernel(as_bytes(baseline)).value())
                  .has_value());
        const auto comparison = guest.compare_built(code).value();
        CHECK(comparison.altered.empty() && comparison.unreadable == 0);
        pages = comparison.pages;
    });
    const double again = median_ms([&] { CHECK(guest.compare_built(code).has_value()); });
    fmt::print(
        "baseline of {} bytes made in {:.0f} ms; {} pages compared with it in {:.1f} ms, the "
        "next time {:.3f} ms; peak memory {} MiB\n",
        baseline.size(), made, pages, compared, again, peak_kib() >> 10);
    std::string seen;
    const double looked = median_ms([&] {
        guest.new_epoch();
        seen = agent::describe(guest.see_code().value()).bytes;
    });
    fmt::print("its code as it runs seen and packed in {:.1f} ms, {} bytes; peak memory {} MiB\n",
               looked, seen.size(), peak_kib() >> 10);
}

// The guest's programs but for its fixtures: busybox, as this host has it.
std::vector<guest_linux::ProgramSet> programs() {
    const std::string file = read_file("/bin/busybox", 64u << 20).value();
    guest_linux::ProgramSet set{.package = "busybox_1_amd64",
                                .programs = {guest_linux::read_program(as_bytes(file)).value()}};
    set.programs.front().path = "/bin/busybox";
    return {std::move(set)};
}

void measure_programs(guest_linux::KnownPrograms& known, guest_linux::Guest& guest) {
    const detect::CheckKind& kind = *detect::find_check("program_integrity");
    event::CheckReport report;
    const auto look = [&] {
        detect::Snapshot snapshot(&guest);
        const auto check = kind.make({});
        check->look(snapshot);
        report = check->report(guest);
    };
    const double cold = median_ms([&] {
        known.know(programs());
        look();
    });
    const double warm = median_ms(look);
    CHECK(report.outcome == event::Outcome::clean);
    fmt::print(
        "program_integrity of busybox: the first time {:.2f} ms with the reading of the "
        "file, then {:.2f} ms\n",
        cold, warm);
}

void measure(const std::string& kernel, int sleepers) {
    auto vm = testing::TestVm::boot({.kernel = kernel, .workload = false});
    if (!vm.has_value()) {
        fmt::print("{}: {}\n", kernel, vm.error().to_text());
        return;
    }
    vm->output_of(
        fmt::format("i=0; while [ $i -lt {} ]; do /bin/workload sleeper > /dev/null & "
                    "i=$((i+1)); done; sleep 3",
                    sleepers));
    const auto found = hypervisor::select(hypervisor::discover().value(), vm->name()).value();
    auto ram = hypervisor::open_ram(found).value();
    std::vector<int> fds;
    for (const Fd& fd : ram.fds) fds.push_back(fd.get());
    const auto memory = guest_memory::open_live(fds, ram.layouts.front(), vm->name()).value();
    guest_memory::CachedMemory cache(memory.get());
    const auto guest = guest_linux::Guest::attach(&cache).value();

    guest_linux::KnownPrograms known;
    known.know(programs());
    guest->use(&known);

    const auto look = [&](const detect::CheckKind& kind, detect::Snapshot& snapshot) {
        kind.make({})->look(snapshot);
    };
    fmt::print("\n{}, {} tasks\n{:<20}{:>12}{:>10}{:>16}\n", kernel, guest->tasks().items.size(),
               "check", "look, ms", "every, s", "of a core, %");
    double share = 0;
    for (const detect::CheckKind& kind : detect::all_checks()) {
        const double alone = median_ms([&] {
            detect::Snapshot snapshot(guest.get());
            look(kind, snapshot);
        });
        const double every = std::chrono::duration<double>(kind.every).count();
        share += alone / every / 10;
        fmt::print("{:<20}{:>12.2f}{:>10}{:>16.3f}\n", kind.name, alone, every, alone / every / 10);
        std::fflush(stdout);
    }
    const double together = median_ms([&] {
        detect::Snapshot snapshot(guest.get());
        for (const detect::CheckKind& kind : detect::all_checks()) look(kind, snapshot);
    });
    for (const auto& [sign, what] : {std::pair{guest_linux::kSignOfTasks, "processes"},
                                     std::pair{guest_linux::kSignOfModules, "modules"},
                                     std::pair{guest_linux::kSignOfCode, "patched code"}}) {
        const double out_of_turn = median_ms([&] {
            detect::Snapshot snapshot(guest.get(), detect::Turn::out_of);
            for (const detect::CheckKind& kind : detect::all_checks()) {
                if ((kind.signs & sign) != 0) look(kind, snapshot);
            }
        });
        fmt::print("for a sign of {}: {:.2f} ms\n", what, out_of_turn);
    }
    fmt::print("{:<42}{:>16.3f}\n", "each by itself", share);
    fmt::print("{:<20}{:>12.2f}\npeak memory {} MiB\n", "all in one look", together,
               peak_kib() >> 10);
    measure_programs(known, *guest);
    measure_baseline(testing::TestVm::kernel_path(kernel) + "/vmlinuz", *guest);
}

}  // namespace

// Of the kernels that are named, else of all at hand; the peak of memory is that of the whole run.
int main(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) measure(argv[i], 240);
    if (argc > 1) return 0;
    for (const std::string& kernel : testing::TestVm::kernels_at_hand()) measure(kernel, 240);
    measure("6.1-cloud", 2000);
}
