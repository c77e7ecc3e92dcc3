// Machine types, memory backings and sizes; and image files of a guest.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "guest_memory/fake_images.h"
#include "guest_memory/sources.h"
#include "guests.h"
#include "hypervisor/discover.h"

namespace underseer::testing {
namespace {

using agent::Introspector;
using agent::Question;
using agent::Topic;

std::vector<event::Task> processes_seen_by(Introspector& introspector) {
    auto answer = introspector.ask<event::Task>(Question{.topic = Topic::tasks});
    EXPECT_TRUE(answer.has_value()) << answer.error().to_text();
    return answer.has_value() ? std::move(answer->items) : std::vector<event::Task>();
}

struct Machine {
    const char* name;
    VmSpec spec;
};
class Machines : public ::testing::TestWithParam<Machine> {};
INSTANTIATE_TEST_SUITE_P(
    , Machines,
    ::testing::Values(
        Machine{"q35_private", {.ram = Ram::anonymous}}, Machine{"q35_file", {.ram = Ram::file}},
        Machine{"pc", {.machine = "pc"}}, Machine{"microvm", {.machine = "microvm"}},
        Machine{"pc_5_gib_file", {.memory_mib = 5120, .ram = Ram::file, .machine = "pc"}},
        Machine{"two_cpus", {.vcpus = 2}}, Machine{"nokaslr", {.append = "nokaslr"}},
        Machine{"no5lvl", {.append = "no5lvl"}}, Machine{"pti", {.append = "pti=on"}},
        Machine{"q35_5_gib", {.memory_mib = 5120}},
        Machine{"pc_5_gib_private", {.memory_mib = 5120, .ram = Ram::anonymous, .machine = "pc"}},
        Machine{"numa_5_gib", {.memory_mib = 5120, .numa_nodes = 2}},
        Machine{"numa_5_gib_private",
                {.memory_mib = 5120, .ram = Ram::anonymous, .numa_nodes = 2}}),
    [](const auto& machine) { return std::string(machine.param.name); });

TEST_P(Machines, is_seen_into) {
    VmSpec spec = GetParam().spec;
    spec.workload = false;
    auto vm = TestVm::boot(spec);
    if (!vm.has_value() && vm.error().code == Code::unavailable)
        GTEST_SKIP() << vm.error().to_text();
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    // All memory touched, so that a wrong layout cannot hide.
    const std::string pid = start_long_arguments(*vm);
    Introspector introspector = attach(*vm);
    const auto tasks = processes_seen_by(introspector);
    const auto found = std::ranges::find(tasks, std::stoul(pid), &event::Task::pid);
    ASSERT_NE(found, tasks.end());
    EXPECT_EQ(found->argv.value().size(), 201u);
    const auto info =
        introspector.ask<event::SystemInfo>(Question{.topic = Topic::info}).value().items.front();
    EXPECT_EQ(info.kernel_release, vm->release());
    EXPECT_EQ(info.cpus, spec.vcpus);
    EXPECT_EQ(info.kaslr_slide_bytes == 0, spec.append == "nokaslr");
    EXPECT_EQ(info.page_table_levels, spec.append == "no5lvl" ? 4u : 5u);
    EXPECT_EQ(info.page_table_isolation.value(), spec.append == "pti=on");
}

// A hugetlbfs of the test's own, with as many pages more as it needs.
class HugePages : public ::testing::TestWithParam<unsigned> {
  protected:
    static constexpr const char* kCount = "/proc/sys/vm/nr_hugepages";
    static std::uint64_t count() { return std::stoull(read_file(kCount, 64).value_or("0")); }
    static void set(std::uint64_t pages) {
        const auto fd = open_file(kCount, O_WRONLY);
        if (fd.has_value()) (void)write_all(fd->get(), as_bytes(std::to_string(pages)));
    }
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root: it mounts a hugetlbfs";
        before_ = count();
        set(before_ + kPages);
        if (count() < before_ + kPages) {
            GTEST_SKIP() << "NOT TESTED: hugetlbfs: this host gives no " << kPages << " huge pages";
        }
        std::string pattern = (std::filesystem::temp_directory_path() / "underseer-huge-XXXXXX");
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        ASSERT_EQ(::mount("none", pattern.c_str(), "hugetlbfs", 0, "pagesize=2M"), 0);
        directory_ = pattern;
    }
    void TearDown() override {
        if (!directory_.empty()) {
            ::umount2(directory_.c_str(), MNT_DETACH);
            std::filesystem::remove(directory_);
        }
        set(before_);
    }

    static constexpr std::uint64_t kPages = 128;  // 256 MiB
    std::uint64_t before_ = 0;
    std::string directory_;
};
INSTANTIATE_TEST_SUITE_P(, HugePages, ::testing::Values(1u, 2u),
                         [](const auto& nodes) { return fmt::format("{}_nodes", nodes.param); });

TEST_P(HugePages, is_seen_into) {
    auto vm = TestVm::boot({.memory_mib = 256,
                            .ram = Ram::hugetlbfs,
                            .ram_directory = directory_,
                            .numa_nodes = GetParam(),
                            .workload = false});
    if (!vm.has_value() && vm.error().code == Code::unavailable)
        GTEST_SKIP() << vm.error().to_text();
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    const auto host = hypervisor::discover().value();
    const auto found = std::ranges::find(host.vms, vm->pid(), &hypervisor::Vm::pid);
    ASSERT_NE(found, host.vms.end());
    EXPECT_EQ(to_string(found->backing), "hugetlbfs");
    const std::string pid = start_long_arguments(*vm);
    Introspector introspector = attach(*vm);
    const auto tasks = processes_seen_by(introspector);
    const auto task = std::ranges::find(tasks, std::stoul(pid), &event::Task::pid);
    ASSERT_NE(task, tasks.end());
    EXPECT_EQ(task->argv.value().size(), 201u);
}

std::vector<guest_memory::FakeRange> ranges_of(const std::string& path) {
    const Fd file = open_file(path, O_RDONLY).value();
    const auto image =
        guest_memory::open_image(file.get(), std::filesystem::file_size(path), path).value();
    std::vector<guest_memory::FakeRange> ranges;
    for (const guest_memory::RamRegion& region : image->regions()) {
        // QEMU's dump has the video memory too, which lies far away: a raw image cannot have it.
        if (region.begin.value >= 3ull << 30) continue;
        ranges.push_back({region.begin.value, std::vector<std::byte>(region.size_bytes)});
        CHECK(image->read(region.begin, ranges.back().bytes).has_value());
    }
    return ranges;
}

void write_file(const std::string& path, const guest_memory::FakeFile& bytes) {
    const Fd file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600).value();
    CHECK(write_all(file.get(), bytes).has_value());
}

TEST(ImageFiles, say_the_same_as_the_live_guest) {
    auto vm = TestVm::boot({.memory_mib = 256});
    if (!vm.has_value() && vm.error().code == Code::unavailable)
        GTEST_SKIP() << vm.error().to_text();
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    vm->output_of("sleep 2");
    vm->pause();
    Introspector live = attach(*vm);
    const auto expected = processes_seen_by(live);
    EXPECT_GT(expected.size(), 40u);
    const auto path = std::filesystem::temp_directory_path() / fmt::format("{}.core", vm->name());
    const auto check = [&](const std::string& form) {
        Introspector image = Introspector::start(image_source(path)).value();
        EXPECT_EQ(processes_seen_by(image), expected) << form;
    };
    // Debian's QEMU has neither LZO nor snappy; the "raw" forms, which are not flattened, came with
    // QEMU 8.2.
    for (const std::string form : {"kdump-zlib", "kdump-lzo", "kdump-snappy", "kdump-raw-zlib",
                                   "kdump-raw-lzo", "kdump-raw-snappy", "elf"}) {
        const auto dumped = vm->dump_to(path, form);
        const bool may_lack = form != "kdump-zlib" && form != "elf";
        if (!dumped.has_value() && may_lack) {
            fmt::print("this QEMU does not write {}\n", form);
            continue;
        }
        ASSERT_TRUE(dumped.has_value()) << form << ": " << dumped.error().to_text();
        check("QEMU's " + form);
    }
    // The ELF core is what the other forms are made from.
    const std::vector<guest_memory::FakeRange> ranges = ranges_of(path);
    using guest_memory::KdumpCompression;
    const std::pair<const char*, guest_memory::FakeFile (*)(decltype(ranges)&)> forms[] = {
        {"LiME", [](auto& from) { return guest_memory::lime_image(from); }},
        {"AVML", [](auto& from) { return guest_memory::avml_image(from); }},
        {"kdump, not flattened",
         [](auto& from) {
             return guest_memory::kdump_image(from, {.compression = KdumpCompression::snappy});
         }},
        {"kdump, LZO",
         [](auto& from) {
             return guest_memory::kdump_image(
                 from, {.compression = KdumpCompression::lzo, .flattened = true});
         }},
        {"raw", [](auto& from) { return guest_memory::raw_image(from); }},
    };
    for (const auto& [form, make] : forms) {
        write_file(path, make(ranges));
        check(form);
    }
    std::filesystem::remove(path);
}

}  // namespace
}  // namespace underseer::testing
