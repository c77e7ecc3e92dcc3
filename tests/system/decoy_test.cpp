// Decoy kernels in real guests: a whole copy of the running kernel, laid into RAM that the guest
// does not use, with page tables of its own that map it where the real one is, and a clock that is
// kept going. The trampoline below 1 MiB is bent to it, so that whoever goes by memory alone
// believes it.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <thread>

#include "agent/managers.h"
#include "detect/decoy_kernel/decoy_kernel.h"
#include "guest_linux/guest.h"
#include "guest_memory/sources.h"
#include "guests.h"
#include "hypervisor/discover.h"
#include "testing/test_agent.h"

namespace underseer::testing {
namespace {

using namespace std::chrono_literals;
using agent::Question;
using agent::Topic;
using event::Outcome;

// Of the guest's 512 MiB; the decoy takes the rest.
constexpr std::string_view kGuestUses = "mem=384M";
constexpr std::uint64_t kFreeBegin = 400u << 20, kLargePage = 2u << 20;

class Decoy {
  public:
    // The guest stands still while the copy is made.
    explicit Decoy(TestVm* vm) : source_(source_of(*vm)) {
        std::vector<int> fds;
        for (const Fd& fd : source_.fds) fds.push_back(fd.get());
        memory_ = guest_memory::open_live(fds, source_.layout, vm->name()).value();
        auto guest = guest_linux::Guest::attach(memory_.get()).value();
        writable_ = open_file(fmt::format("/proc/self/fd/{}", fds.front()), O_RDWR).value();
        auto& kernel = guest->kernel();
        image_ = kernel.image();
        jiffies_ = image_.phys_of(kernel.symbol("jiffies_64").value()).value();
        seconds_ = image_
                       .phys_of(kernel.symbol({"tk_core", "timekeeper_data"}).value() +
                                kernel.timekeeper_offset() +
                                kernel.field("timekeeper", "xtime_sec").offset)
                       .value();
        vm->pause();
        copy_image();
        bend_trampoline();
        vm->resume();
        clock_ = std::jthread([this](const std::stop_token& stop) {
            while (!stop.stop_requested()) {
                write(moved(jiffies_), read<std::uint64_t>(jiffies_) + 1000);
                // Of two kernels, memory alone would prefer the one with the later clock.
                write(moved(seconds_), read<std::uint64_t>(seconds_) + 3600);
                std::this_thread::sleep_for(2ms);
            }
        });
    }

    GuestPhys root() const { return moved(image_.space.root); }

  private:
    using Table = std::array<std::uint64_t, 512>;

    template <typename T>
    T read(GuestPhys at) {
        T value;
        CHECK(memory_->read(at, std::as_writable_bytes(std::span(&value, 1))).has_value());
        return value;
    }
    template <typename T>
    void write(GuestPhys at, const T& value) {
        CHECK(::pwrite(writable_.get(), &value, sizeof value, static_cast<off_t>(at.value)) ==
              static_cast<ssize_t>(sizeof value));
    }
    std::uint64_t begin() const { return image_.extents.front().phys.value & ~(kLargePage - 1); }
    std::uint64_t end() const {
        const auto& last = image_.extents.back();
        return (last.phys.value + last.size_bytes + kLargePage - 1) & ~(kLargePage - 1);
    }
    GuestPhys moved(GuestPhys at) const { return {at.value - begin() + kFreeBegin}; }
    // The entry, leading into the copy where it led into the image.
    std::uint64_t moved_entry(std::uint64_t entry) const {
        const GuestPhys target{entry & guest_linux::kPteAddressMask & ~std::uint64_t{0}};
        if ((entry & guest_linux::kPtePresent) == 0 || target.value < begin() ||
            target.value >= end()) {
            return entry;
        }
        return (entry & ~guest_linux::kPteAddressMask) | moved(target).value;
    }

    void copy_image() {
        std::vector<std::byte> page(kPageSize);
        for (std::uint64_t at = begin(); at < end(); at += kPageSize) {
            CHECK(memory_->read(GuestPhys{at}, page).has_value());
            CHECK(::pwrite(writable_.get(), page.data(), page.size(),
                           static_cast<off_t>(moved(GuestPhys{at}).value)) ==
                  static_cast<ssize_t>(page.size()));
        }
        next_table_ = GuestPhys{moved(GuestPhys{end()}).value};
        GuestPhys table = image_.space.root;
        for (unsigned level = image_.space.levels; level > 3; --level) {
            table = follow(table, 511);
        }
        const GuestPhys level2 = follow(table, 510);
        Table entries = read<Table>(level2);
        for (std::uint64_t& entry : entries) {
            const bool to_table =
                (entry & guest_linux::kPtePresent) != 0 && (entry & guest_linux::kPteHuge) == 0;
            entry = to_table ? copied_leaves(entry) : moved_entry(entry);
        }
        write(moved(level2), entries);
    }
    // Bends one entry of a table in the copy; returns where it leads in the original.
    GuestPhys follow(GuestPhys table, std::size_t index) {
        const auto entry = read<std::uint64_t>(table + index * 8);
        write(moved(table) + index * 8, moved_entry(entry));
        return guest_linux::entry_target(entry);
    }
    std::uint64_t copied_leaves(std::uint64_t entry) {
        Table leaves = read<Table>(guest_linux::entry_target(entry));
        for (std::uint64_t& leaf : leaves) leaf = moved_entry(leaf);
        const GuestPhys at = next_table_;
        next_table_ = next_table_ + kPageSize;
        write(at, leaves);
        return (entry & ~guest_linux::kPteAddressMask) | at.value;
    }
    void bend_trampoline() {
        const auto last = read<std::uint64_t>(image_.space.root + 511 * 8);
        unsigned bent = 0;
        for (std::uint64_t page = 0; page < (1u << 20); page += kPageSize) {
            const GuestPhys at{page + 511 * 8};
            if (read<std::uint64_t>(at) != last) continue;
            write(at, moved_entry(last));
            ++bent;
        }
        CHECK(bent > 0);
    }

    agent::GuestSource source_;
    std::unique_ptr<guest_memory::GuestMemory> memory_;
    Fd writable_;
    guest_linux::KernelImage image_;
    GuestPhys jiffies_, seconds_, next_table_;
    std::jthread clock_;
};

TestVm booted(const VmSpec& spec) {
    auto vm = TestVm::boot(spec);
    if (!vm.has_value()) fmt::print(stderr, "{}\n", vm.error().to_text());
    CHECK(vm.has_value());
    return std::move(*vm);
}

std::vector<event::CpuRegisters> cpus_of(const TestVm& vm) {
    const auto host = hypervisor::discover().value();
    auto told = agent::ask_registers(hypervisor::select(host, vm.name()).value());
    EXPECT_TRUE(told.has_value()) << told.error().to_text();
    return told.value_or(std::vector<event::CpuRegisters>());
}

event::CheckReport hear(agent::Introspector& introspector, const TestVm& vm) {
    const auto answer = introspector.ask<event::CheckReport>(
        Question{.topic = Topic::decoy_kernel, .cpus = cpus_of(vm)});
    EXPECT_TRUE(answer.has_value()) << answer.error().to_text();
    return answer.has_value() ? answer->items.front() : event::CheckReport{};
}

std::uint64_t root_seen_by(agent::Introspector& introspector) {
    const auto answer = introspector.ask<event::SystemInfo>(Question{.topic = Topic::info});
    EXPECT_TRUE(answer.has_value()) << answer.error().to_text();
    return answer.has_value() ? answer->items.front().page_table_root : 0;
}

class DecoyKernel : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(, DecoyKernel, ::testing::ValuesIn(all_kernels()), test_name);

TEST_P(DecoyKernel, is_believed_by_memory_alone_and_found_by_the_cpus) {
    if (TestVm::release_of(GetParam()).empty())
        GTEST_SKIP() << "the kernel is not at hand; tools/guests/make.py makes it";
    TestVm vm = booted(
        {.kernel = GetParam(), .vcpus = 2, .append = std::string(kGuestUses), .workload = false});
    agent::Introspector before = attach(vm);
    const auto clean = hear(before, vm);
    EXPECT_EQ(clean.outcome, Outcome::clean) << clean.reason;
    EXPECT_EQ(clean.coverage.looked_at, 2u);
    const std::uint64_t real = root_seen_by(before);

    const Decoy decoy(&vm);
    agent::Introspector introspector = attach(vm);
    EXPECT_EQ(root_seen_by(introspector), decoy.root().value);
    event::CheckReport report;
    for (unsigned i = 0; i <= detect::DecoyKernelCheck::kHearings; ++i) {
        report = hear(introspector, vm);
        if (report.outcome == Outcome::finding) break;
        EXPECT_EQ(report.outcome, Outcome::unavailable);
        std::this_thread::sleep_for(50ms);
    }
    ASSERT_EQ(report.findings.size(), 1u) << report.reason;
    EXPECT_EQ(report.findings[0].evidence[0].address, decoy.root().value);
    EXPECT_EQ(report.findings[0].evidence[2].address, real);
    // Every other answer is about the real one by now.
    EXPECT_EQ(root_seen_by(introspector), real);

    agent::Introspector anew = attach(vm);
    (void)hear(anew, vm);
    EXPECT_EQ(root_seen_by(anew), real) << "the registers were told with the first question";
}

// QEMU puts the registers beside the memory.
TEST(DecoyImage, is_not_believed_in_a_dump_that_has_the_registers) {
    TestVm vm = booted({.append = std::string(kGuestUses), .workload = false});
    agent::Introspector live = attach(vm);
    const std::uint64_t real = root_seen_by(live);
    const Decoy decoy(&vm);
    for (const std::string format : {"elf", "kdump-zlib"}) {
        const std::string path =
            std::filesystem::temp_directory_path() / fmt::format("{}.{}", vm.name(), format);
        ASSERT_TRUE(vm.dump_to(path, format).has_value());
        agent::Introspector image = agent::Introspector::start(image_source(path)).value();
        EXPECT_EQ(root_seen_by(image), real) << format;
        const auto answer =
            image.ask<event::CheckReport>(Question{.topic = Topic::decoy_kernel}).value();
        EXPECT_EQ(answer.items.at(0).outcome, Outcome::clean) << answer.items.at(0).reason;
        EXPECT_EQ(answer.items.at(0).coverage.looked_at, 1u);
        std::filesystem::remove(path);
    }
}

struct Variant {
    std::string name, append;
    unsigned vcpus = 1;
};
class VouchedFor : public ::testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(, VouchedFor,
                         ::testing::Values(Variant{"pti", "pti=on", 2},
                                           Variant{"four_levels", "no5lvl", 1},
                                           Variant{"no_kaslr", "nokaslr", 1}),
                         [](const auto& variant) { return variant.param.name; });

// In user mode with page-table isolation, a CPU walks tables in which most of the kernel is
// missing.
TEST_P(VouchedFor, by_a_cpu_in_user_mode_and_under_forks) {
    TestVm vm = booted({.vcpus = GetParam().vcpus, .append = GetParam().append});
    agent::Introspector introspector = attach(vm);
    const auto count_clean = [&] {
        unsigned clean = 0;
        for (unsigned i = 0; i < 20; ++i) {
            const auto report = hear(introspector, vm);
            EXPECT_NE(report.outcome, Outcome::finding);
            clean += report.outcome == Outcome::clean;
            if (report.outcome == Outcome::unavailable) fmt::print("{}\n", report.reason);
        }
        return clean;
    };
    vm.output_of("while :; do :; done > /dev/null 2>&1 & echo $! > /tmp/spinner");
    EXPECT_EQ(count_clean(), 20u);
    vm.output_of("kill $(cat /tmp/spinner)");
    vm.output_of("/bin/workload mix > /dev/null & true");
    // A process whose page table CR3 named may have ended before it is read.
    EXPECT_GE(count_clean(), 1u);
}

TEST(DecoyAgent, tells_of_a_decoy_and_goes_on_looking_into_the_real_kernel) {
    TestVm vm = booted({.append = std::string(kGuestUses), .workload = false});
    TestAgent agent(fmt::format(
        "[schedule]\nhidden_process = \"1s\"\n[instances]\nonly = [\"name:{}\"]\n", vm.name()));
    agent.start();
    agent.wait_until_watched(vm.name());
    agent.wait_until("its CPUs are heard", [&] {
        const auto instance = agent.instance(vm.name());
        return instance && instance->at("kernel_outcome").value().as_string().value() == "clean";
    });
    // What was heard is not true for ever: here another client holds the monitor.
    ASSERT_TRUE(vm.qmp("query-status").has_value());
    agent.wait_until("it is not known any more", [&] {
        const auto instance = agent.instance(vm.name());
        return instance &&
               instance->at("kernel_outcome").value().as_string().value() == "unavailable";
    });
    const auto unknown = agent.cli({"check", vm.name()});
    EXPECT_EQ(unknown.status, 0) << unknown.output;
    EXPECT_NE(unknown.output.find("have not been told for a while"), std::string::npos)
        << unknown.output;

    const Decoy decoy(&vm);
    const auto workers = agent.workers("introspector");
    ASSERT_EQ(workers.size(), 1u);
    ::kill(workers.front(), SIGKILL);  // the next one finds the decoy first
    const auto finding = agent.wait_for_finding("decoy_kernel");
    EXPECT_EQ(finding.at("finding").value().at("subject").value().as_string().value(),
              vm.release());
    EXPECT_EQ(agent.logged("decoy kernel in the guest's memory").size(), 1u);
    const auto check = agent.cli({"check", vm.name()});
    EXPECT_EQ(check.status, 1) << check.output;
    EXPECT_NE(check.output.find("A decoy kernel in the guest's memory"), std::string::npos)
        << check.output;
    const auto direct = agent.cli({"check", vm.name(), "--direct"});
    EXPECT_EQ(direct.status, 1) << direct.output;
}

}  // namespace
}  // namespace underseer::testing
