// Every executable page of a real kernel has an owner.
#include <fmt/format.h>

#include "guest_linux/code_map.h"
#include "guest_linux/guest.h"
#include "guest_memory/cached_memory.h"
#include "guest_memory/sources.h"
#include "guests.h"

namespace underseer::testing {
namespace {

class KernelCode : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(, KernelCode, ::testing::ValuesIn(all_kernels()), test_name);

TEST_P(KernelCode, of_a_clean_kernel_is_all_accounted_for) {
    if (GetParam() != "6.1-cloud" && !nightly()) GTEST_SKIP() << "in the nightly run only";
    auto vm = TestVm::boot({.kernel = GetParam(), .vcpus = 2});
    if (!vm.has_value() && vm.error().code == Code::unavailable) {
        GTEST_SKIP() << vm.error().to_text();
    }
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    const agent::GuestSource source = source_of(*vm);
    std::vector<int> fds;
    for (const Fd& fd : source.fds) fds.push_back(fd.get());
    const auto memory = guest_memory::open_live(fds, source.layout, source.name).value();
    guest_memory::CachedMemory cache(memory.get());
    const auto guest = guest_linux::Guest::attach(&cache).value();
    guest->new_epoch();
    const auto map = guest_linux::map_code(guest->kernel());
    ASSERT_TRUE(map.has_value()) << map.error().to_text();
    for (const std::string& gap : map->gaps.texts) ADD_FAILURE() << gap;
    for (const auto& stray : map->strays) {
        ADD_FAILURE() << fmt::format("{:#x} + {:#x}{} of {}", stray.range.begin.value,
                                     stray.range.size_bytes,
                                     stray.range.writable ? " writable" : "", stray.area);
    }
    std::uint64_t bytes = 0;
    for (const auto& range : map->executable) bytes += range.size_bytes;
    fmt::print("{} ranges, {} KiB, {} owners\n", map->executable.size(), bytes >> 10,
               map->owners.size());
    EXPECT_GT(bytes, 4u << 20);
}

}  // namespace
}  // namespace underseer::testing
