// Machine types, memory backings and sizes; and image files of a guest.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "guests.h"

namespace underseer::testing {
namespace {

using agent::Introspector;
using agent::Question;
using agent::Topic;

std::vector<event::Task> processes(Introspector& introspector) {
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
    ::testing::Values(Machine{"q35_private", {.ram = Ram::anonymous}},
                      Machine{"q35_file", {.ram = Ram::file}}, Machine{"pc", {.machine = "pc"}},
                      Machine{"microvm", {.machine = "microvm"}}, Machine{"two_cpus", {.vcpus = 2}},
                      Machine{"nokaslr", {.append = "nokaslr"}},
                      Machine{"no5lvl", {.append = "no5lvl"}}, Machine{"pti", {.append = "pti=on"}},
                      Machine{"q35_5_gib", {.memory_mib = 5120}},
                      Machine{"pc_5_gib_private",
                              {.memory_mib = 5120, .ram = Ram::anonymous, .machine = "pc"}},
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
    const std::string pid = vm->output_of("/bin/workload long > /dev/null & echo $!");
    vm->output_of("sleep 1");
    Introspector introspector = attach(*vm);
    const auto tasks = processes(introspector);
    const auto found = std::ranges::find(tasks, std::stoul(pid), &event::Task::pid);
    ASSERT_NE(found, tasks.end());
    EXPECT_EQ(found->argv.value().size(), 201u);
    const auto info =
        introspector.ask<event::SystemInfo>(Question{.topic = Topic::info}).value().items.front();
    EXPECT_EQ(info.kernel_release, vm->release());
    EXPECT_EQ(info.cpus, spec.vcpus);
    EXPECT_EQ(info.kaslr_slide_bytes == 0, spec.append == "nokaslr");
    EXPECT_EQ(info.page_table_levels, spec.append == "no5lvl" ? 4u : 5u);
    EXPECT_EQ(info.page_table_isolation, spec.append == "pti=on");
}

TEST(ImageFiles, say_the_same_as_the_live_guest) {
    auto vm = TestVm::boot({});
    if (!vm.has_value() && vm.error().code == Code::unavailable)
        GTEST_SKIP() << vm.error().to_text();
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    vm->output_of("sleep 2");
    vm->pause();
    Introspector live = attach(*vm);
    const auto expected = processes(live);
    EXPECT_GT(expected.size(), 40u);
    const auto path = std::filesystem::temp_directory_path() / fmt::format("{}.core", vm->name());
    ASSERT_TRUE(vm->dump_to(path, "elf").has_value());
    agent::GuestSource source;
    source.name = path;
    source.image = true;
    source.fds.push_back(open_file(path, O_RDONLY).value());
    source.image_bytes = std::filesystem::file_size(path);
    Introspector image = Introspector::start(std::move(source)).value();
    EXPECT_EQ(processes(image), expected);
    std::filesystem::remove(path);
}

}  // namespace
}  // namespace underseer::testing
