// How fast the memory of a guest's processes is scanned by YARA rules, against the `yara` program
// over the same bytes in a file: the same rules, compiled beforehand for both, in turns. A TCG
// guest that stands still meanwhile. `scan_bench FOLDER..` takes rules from there too.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <set>

#include "agent/memory_scan.h"
#include "guest_memory/cached_memory.h"
#include "guest_memory/sources.h"
#include "hypervisor/discover.h"
#include "hypervisor/ram.h"
#include "testing/test_vm.h"

namespace {

using namespace underseer;
namespace fs = std::filesystem;
constexpr int kRounds = 9;
constexpr double kMib = 1u << 20;

struct Times {
    double wall_s = 0, cpu_s = 0;
};

double cpu_seconds(int who) {
    rusage usage{};
    ::getrusage(who, &usage);
    const auto of = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
    };
    return of(usage.ru_utime) + of(usage.ru_stime);
}

template <typename F>
Times time_of(int who, F&& work) {
    const double cpu = cpu_seconds(who);
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
    return {wall.count(), cpu_seconds(who) - cpu};
}

double median(std::vector<double> values) {
    std::ranges::sort(values);
    return values[values.size() / 2];
}

// What the scan reads, one thing after the other.
class SameBytes {
  public:
    SameBytes(guest_linux::Guest& guest, const std::string& path)
        : memory_(guest.user_memory().physical()),
          file_(open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600).value()) {
        guest_linux::UserMemory& user = guest.user_memory();
        std::set<GuestVirt> files;
        for (const event::Task& task : guest.tasks({.user_memory = false, .paths = false}).items) {
            if (!task.is_process() || task.kernel_thread) continue;
            const auto process = user.process(GuestVirt{task.address}, task.pid).value();
            if (!process) continue;
            for (const auto& area : process->areas.items) {
                if (area.file && files.insert(area.file).second) {
                    const auto pages = user.file_pages(area.file).value();
                    for (const auto& run : pages.runs) put(run.phys, run.pages * kPageSize);
                }
                if (area.vma.path.starts_with("[vvar")) continue;
                const auto own = user.own_pages(process->space, area, GuestVirt{area.vma.begin},
                                                ~0ull >> kPageShift)
                                     .value();
                for (const auto& run : own.runs) put(run.phys, run.size_bytes);
            }
        }
    }
    std::uint64_t bytes() const { return bytes_; }

  private:
    static constexpr unsigned kPageShift = 12;
    void put(GuestPhys from, std::uint64_t size) {
        for (std::uint64_t at = 0; at < size; at += kPageSize) {
            std::byte page[kPageSize] = {};
            (void)memory_.read(from + at, page);
            CHECK(write_all(file_.get(), page).has_value());
        }
        bytes_ += size;
    }

    guest_memory::GuestMemory& memory_;
    Fd file_;
    std::uint64_t bytes_ = 0;
};

std::vector<agent::RuleText> rules_in(const char* folder) {
    std::vector<agent::RuleText> rules;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
        const fs::path extension = entry.path().extension();
        if (extension != ".yar" && extension != ".yara") continue;
        rules.push_back({entry.path(), read_file(entry.path(), limits::kMaxRuleBytes).value()});
    }
    return rules;
}

std::vector<agent::RuleText> made_rules(int count) {
    std::string text;
    for (int i = 0; i < count; ++i) {
        text += fmt::format(
            "rule made_{0} {{ strings: $a = \"marker number {0} of many\" $b = {{ {1:02x} {2:02x} "
            "5a "
            "a5 [4-8] c3 {1:02x} }} $c = /key{0}=[0-9a-f]{{8,16}}/ condition: any of them }}\n",
            i, i % 251, i % 241);
    }
    return {{"made.yar", text}};
}

std::string compile_for_yara(const std::vector<agent::RuleText>& rules, const fs::path& folder) {
    std::string words =
        "yarac -w -d filename=x -d filepath=x -d extension=x -d filetype=x -d owner=x";
    for (std::size_t i = 0; i < rules.size(); ++i) {
        const fs::path path = folder / fmt::format("{}.yar", i);
        const Fd file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600).value();
        CHECK(write_all(file.get(), as_bytes(rules[i].text)).has_value());
        words += fmt::format(" n{}:{}", i, path.native());
    }
    const std::string compiled = folder / "compiled";
    CHECK(std::system((words + " " + compiled).c_str()) == 0);
    return compiled;
}

void measure(const std::string& label, guest_linux::Guest& guest, const fs::path& folder,
             const std::vector<agent::RuleText>& rules) {
    const std::string compiled = compile_for_yara(rules, folder), dump = folder / "bytes";
    const std::uint64_t dumped = SameBytes(guest, dump).bytes();
    agent::MemoryScan scan;
    CHECK(scan.add_rules(rules).has_value());
    const auto ready = scan.compile().value().items.at(0);
    CHECK(ready.errors.empty());
    std::vector<double> ours_wall, ours_cpu, theirs_wall, theirs_cpu, wall, cpu;
    std::uint64_t bytes = 0, matches = 0;
    for (int round = 0; round < kRounds; ++round) {
        matches = 0;
        const Times ours = time_of(RUSAGE_SELF, [&] {
            guest.new_epoch();
            auto part = std::move(scan.begin(guest, std::nullopt).value().items.at(0));
            while (true) {
                matches += part.matches.size();
                if (part.finished) break;
                guest.new_epoch();
                part = std::move(scan.go_on(guest).value().items.at(0));
            }
            bytes = part.coverage.bytes_scanned;
            CHECK(part.coverage.gap_count == 0);
        });
        const Times theirs = time_of(RUSAGE_CHILDREN, [&] {
            CHECK(std::system(
                      fmt::format("yara -w -C {} {} > /dev/null", compiled, dump).c_str()) == 0);
        });
        ours_wall.push_back(static_cast<double>(bytes) / kMib / ours.wall_s);
        ours_cpu.push_back(static_cast<double>(bytes) / kMib / ours.cpu_s);
        theirs_wall.push_back(static_cast<double>(dumped) / kMib / theirs.wall_s);
        theirs_cpu.push_back(static_cast<double>(dumped) / kMib / theirs.cpu_s);
        wall.push_back(ours_wall.back() / theirs_wall.back());
        cpu.push_back(ours_cpu.back() / theirs_cpu.back());
    }
    fmt::print(
        "{:<18}{:>8}{:>10.0f}{:>10.0f}{:>12.0f}{:>12.0f}{:>12.0f}{:>12.0f}{:>12.2f}{:>10.2f}\n",
        label, ready.rules, static_cast<double>(bytes) / kMib, static_cast<double>(dumped) / kMib,
        median(ours_wall), median(ours_cpu), median(theirs_wall), median(theirs_cpu), median(wall),
        median(cpu));
    std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
    auto vm = testing::TestVm::boot({.kernel = "6.1-cloud", .memory_mib = 1024});
    if (!vm.has_value()) {
        fmt::print("{}\n", vm.error().to_text());
        return 0;
    }
    // One process with 100 MB of text, and fifty small ones.
    vm->output_of(
        "(x=$(tr -dc ' -~' < /dev/urandom | head -c 100000000); echo ${#x} > /tmp/filled; "
        "while :; do sleep 1000; done) > /dev/null 2>&1 & i=0; while [ $i -lt 50 ]; do "
        "/bin/workload sleeper > /dev/null & i=$((i+1)); done; true");
    for (int i = 0; i < 120; ++i) {
        if (vm->run("test -s /tmp/filled").value().status == 0) break;
        ::sleep(1);
    }
    CHECK(vm->output_of("cat /tmp/filled") == "100000000\n");
    vm->pause();
    const auto found = hypervisor::select(hypervisor::discover().value(), vm->name()).value();
    auto ram = hypervisor::open_ram(found).value();
    std::vector<int> fds;
    for (const Fd& fd : ram.fds) fds.push_back(fd.get());
    const auto memory = guest_memory::open_live(fds, ram.layouts.front(), vm->name()).value();
    guest_memory::CachedMemory cache(memory.get());
    const auto guest = guest_linux::Guest::attach(&cache).value();
    std::string folder = fs::temp_directory_path() / "underseer-scan-bench-XXXXXX";
    CHECK(::mkdtemp(folder.data()) != nullptr);
    fmt::print("{:<18}{:>8}{:>10}{:>10}{:>12}{:>12}{:>12}{:>12}{:>12}{:>10}\n", "rules", "count",
               "MiB", "yara's", "MiB/s wall", "MiB/s CPU", "yara wall", "yara CPU", "ours : yara",
               "by CPU");
    measure("one", *guest, folder, made_rules(1));
    measure("made", *guest, folder, made_rules(1000));
    for (int i = 1; i < argc; ++i) measure("given", *guest, folder, rules_in(argv[i]));
    fs::remove_all(folder);
    return 0;
}
