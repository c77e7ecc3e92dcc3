#include "guest_memory/guest_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "base/os.h"
#include "guest_memory/cached_memory.h"
#include "guest_memory/fake_images.h"
#include "guest_memory/sources.h"

namespace underseer::guest_memory {
namespace {

std::vector<std::byte> pattern(std::size_t size, unsigned seed) {
    std::vector<std::byte> bytes(size);
    for (std::size_t i = 0; i < size; ++i) bytes[i] = std::byte((i * 31 + seed + (i >> 8)) & 0xff);
    return bytes;
}

TEST(Live, reading_a_hole_of_a_memfd_allocates_nothing) {
    Fd fd(::memfd_create("ram", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(fd.get(), 64 << 20), 0);
    auto memory = open_live({fd.get()}, {{GuestPhys{0}, 64u << 20, 0, 0}}, "test").value();
    std::vector<std::byte> into(1 << 20);
    for (std::uint64_t at = 0; at < (64u << 20); at += into.size()) {
        ASSERT_TRUE(memory->read(GuestPhys{at}, into).has_value());
    }
    struct stat status{};
    ::fstat(fd.get(), &status);
    EXPECT_EQ(status.st_blocks, 0);
}

TEST(Live, a_memfd_that_shrinks_is_a_failed_read_and_no_signal) {
    Fd fd = fake_file(pattern(8 * kPageSize, 3));
    auto memory = open_live({fd.get()}, {{GuestPhys{0}, 8 * kPageSize, 0, 0}}, "test").value();
    ASSERT_EQ(::ftruncate(fd.get(), kPageSize), 0);
    std::vector<std::byte> page(kPageSize);
    EXPECT_TRUE(memory->read(GuestPhys{0}, page).has_value());
    EXPECT_EQ(memory->read(GuestPhys{4 * kPageSize}, page).error().code, Code::os);
}

TEST(Live, reads_cross_slices_and_stop_at_the_pci_hole) {
    const auto bytes = pattern(4 * kPageSize, 9);
    const Fd fd = fake_file(bytes);
    // The file's second half comes first in guest-physical space.
    auto memory = open_live({fd.get()},
                            {{GuestPhys{2 * kPageSize}, 2 * kPageSize, 0, 0},
                             {GuestPhys{0}, 2 * kPageSize, 0, 2 * kPageSize}},
                            "test")
                      .value();
    ASSERT_EQ(memory->regions().size(), 1u);
    std::vector<std::byte> got(4 * kPageSize);
    ASSERT_TRUE(memory->read(GuestPhys{0}, got).has_value());
    EXPECT_EQ(std::memcmp(got.data(), bytes.data() + 2 * kPageSize, 2 * kPageSize), 0);
    EXPECT_EQ(std::memcmp(got.data() + 2 * kPageSize, bytes.data(), 2 * kPageSize), 0);
    EXPECT_EQ(memory->read(GuestPhys{kPageSize}, got).error().code, Code::unreadable);
}

TEST(Live, layouts_that_overlap_or_wrap_are_refused) {
    const auto refused = [](std::vector<RamSlice> slices) {
        const Fd fd = fake_file(pattern(16, 0));
        return !open_live({fd.get()}, std::move(slices), "test").has_value();
    };
    EXPECT_TRUE(refused({}));
    EXPECT_TRUE(refused({{GuestPhys{0}, 8192, 0, 0}, {GuestPhys{4096}, 4096, 0, 0}}));
    EXPECT_TRUE(refused({{GuestPhys{0}, ~0ull, 0, 0}}));
    EXPECT_TRUE(refused({{GuestPhys{0}, 4096, 0, ~0ull - 100}}));
    EXPECT_TRUE(refused({{GuestPhys{0}, 4096, 1, 0}}));
}

TEST(Cache, a_page_is_the_same_until_the_next_epoch) {
    Fd fd = fake_file(pattern(kPageSize, 1));
    auto live = open_live({fd.get()}, {{GuestPhys{0}, kPageSize, 0, 0}}, "test").value();
    CachedMemory cache(live.get(), 16);
    std::byte before{}, again{}, after{};
    ASSERT_TRUE(cache.read(GuestPhys{8}, {&before, 1}).has_value());
    const std::byte changed{static_cast<unsigned char>(~std::to_integer<unsigned>(before) & 0xff)};
    ASSERT_EQ(::pwrite(fd.get(), &changed, 1, 8), 1);
    ASSERT_TRUE(cache.read(GuestPhys{8}, {&again, 1}).has_value());
    EXPECT_EQ(again, before);
    cache.new_epoch();
    ASSERT_TRUE(cache.read(GuestPhys{8}, {&after, 1}).has_value());
    EXPECT_EQ(after, changed);
}

}  // namespace
}  // namespace underseer::guest_memory
