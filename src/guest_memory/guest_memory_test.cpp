#include "guest_memory/guest_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "base/os.h"
#include "guest_memory/cached_memory.h"
#include "guest_memory/sources.h"

namespace underseer::guest_memory {
namespace {

Fd memfd_with(Bytes bytes) {
    Fd fd(::memfd_create("test", MFD_CLOEXEC));
    CHECK(write_all(fd.get(), bytes).has_value());
    return fd;
}

std::vector<std::byte> pattern(std::size_t size, unsigned seed) {
    std::vector<std::byte> bytes(size);
    for (std::size_t i = 0; i < size; ++i) bytes[i] = std::byte((i * 31 + seed + (i >> 8)) & 0xff);
    return bytes;
}

template <typename T>
void put(std::vector<std::byte>& out, T value) {
    const auto* raw = reinterpret_cast<const std::byte*>(&value);
    out.insert(out.end(), raw, raw + sizeof value);
}

struct Range {
    std::uint64_t begin;
    std::vector<std::byte> bytes;
};

std::vector<std::byte> as_lime(const std::vector<Range>& ranges) {
    std::vector<std::byte> out;
    for (const Range& range : ranges) {
        put<std::uint32_t>(out, 0x4c694d45);
        put<std::uint32_t>(out, 1);
        put<std::uint64_t>(out, range.begin);
        put<std::uint64_t>(out, range.begin + range.bytes.size() - 1);
        put<std::uint64_t>(out, 0);
        out.insert(out.end(), range.bytes.begin(), range.bytes.end());
    }
    return out;
}

std::vector<std::byte> as_elf_core(const std::vector<Range>& ranges) {
    std::vector<std::byte> out;
    const std::uint8_t ident[16] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
    for (const std::uint8_t byte : ident) out.push_back(std::byte(byte));
    put<std::uint16_t>(out, 4);   // ET_CORE
    put<std::uint16_t>(out, 62);  // EM_X86_64
    put<std::uint32_t>(out, 1);
    put<std::uint64_t>(out, 0);
    put<std::uint64_t>(out, 64);  // program headers follow
    put<std::uint64_t>(out, 0);
    put<std::uint32_t>(out, 0);
    put<std::uint16_t>(out, 64);
    put<std::uint16_t>(out, 56);
    put<std::uint16_t>(out, static_cast<std::uint16_t>(ranges.size()));
    put<std::uint16_t>(out, 64);
    put<std::uint16_t>(out, 0);
    put<std::uint16_t>(out, 0);
    std::uint64_t offset = 64 + 56 * ranges.size();
    for (const Range& range : ranges) {
        put<std::uint32_t>(out, 1);  // PT_LOAD
        put<std::uint32_t>(out, 0);
        put<std::uint64_t>(out, offset);
        put<std::uint64_t>(out, 0);
        put<std::uint64_t>(out, range.begin);
        put<std::uint64_t>(out, range.bytes.size());
        put<std::uint64_t>(out, range.bytes.size());
        put<std::uint64_t>(out, 0);
        offset += range.bytes.size();
    }
    for (const Range& range : ranges) out.insert(out.end(), range.bytes.begin(), range.bytes.end());
    return out;
}

TEST(Image, the_same_memory_reads_the_same_through_every_format) {
    rc::check([] {
        const auto low_pages = *rc::gen::inRange<std::size_t>(1, 8);
        const auto high_pages = *rc::gen::inRange<std::size_t>(1, 8);
        // A PCI hole: the second range begins at 4 GiB.
        const std::vector<Range> ranges{{0, pattern(low_pages * kPageSize, 1)},
                                        {1ull << 32, pattern(high_pages * kPageSize, 2)}};
        for (const auto& file : {as_lime(ranges), as_elf_core(ranges)}) {
            const Fd fd = memfd_with(file);
            auto image = open_image(fd.get(), file.size(), "image");
            RC_ASSERT(image.has_value());
            RC_ASSERT((*image)->regions().size() == 2u);
            for (const Range& range : ranges) {
                std::vector<std::byte> got(range.bytes.size());
                RC_ASSERT((*image)->read(GuestPhys{range.begin}, got).has_value());
                RC_ASSERT(got == range.bytes);
            }
            std::byte one{};
            const auto hole = (*image)->read(GuestPhys{3ull << 30}, {&one, 1});
            RC_ASSERT(!hole.has_value() && hole.error().code == Code::unavailable);
        }
    });
}

TEST(Image, truncated_files_are_refused_with_the_place) {
    const std::vector<Range> ranges{{0, pattern(4 * kPageSize, 1)}};
    for (auto file : {as_lime(ranges), as_elf_core(ranges)}) {
        file.resize(file.size() - 100);
        const Fd fd = memfd_with(file);
        const auto image = open_image(fd.get(), file.size(), "mem.img");
        ASSERT_FALSE(image.has_value());
        EXPECT_EQ(image.error().code, Code::malformed);
        EXPECT_NE(image.error().message.find("mem.img"), std::string::npos);
        EXPECT_NE(image.error().message.find("truncated"), std::string::npos);
    }
}

TEST(Image, every_damaged_header_byte_is_survived) {
    const std::vector<Range> ranges{{0, pattern(kPageSize, 1)}, {1u << 20, pattern(kPageSize, 2)}};
    for (const auto& good : {as_lime(ranges), as_elf_core(ranges)}) {
        for (std::size_t at = 0; at < 200; ++at) {
            auto bad = good;
            bad[at] ^= std::byte{0xff};
            const Fd fd = memfd_with(bad);
            auto image = open_image(fd.get(), bad.size(), "bad");
            if (!image.has_value()) continue;
            std::vector<std::byte> page(kPageSize);
            for (const RamRegion& region : (*image)->regions())
                (void)(*image)->read(region.begin, page);
        }
    }
}

TEST(Image, an_empty_file_is_refused) {
    const Fd fd = memfd_with({});
    EXPECT_FALSE(open_image(fd.get(), 0, "empty").has_value());
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
    Fd fd = memfd_with(pattern(8 * kPageSize, 3));
    auto memory = open_live({fd.get()}, {{GuestPhys{0}, 8 * kPageSize, 0, 0}}, "test").value();
    ASSERT_EQ(::ftruncate(fd.get(), kPageSize), 0);
    std::vector<std::byte> page(kPageSize);
    EXPECT_TRUE(memory->read(GuestPhys{0}, page).has_value());
    EXPECT_EQ(memory->read(GuestPhys{4 * kPageSize}, page).error().code, Code::os);
}

TEST(Live, reads_cross_slices_and_stop_at_the_pci_hole) {
    const auto bytes = pattern(4 * kPageSize, 9);
    const Fd fd = memfd_with(bytes);
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
    EXPECT_EQ(memory->read(GuestPhys{kPageSize}, got).error().code, Code::unavailable);
}

TEST(Live, layouts_that_overlap_or_wrap_are_refused) {
    const auto refused = [](std::vector<RamSlice> slices) {
        const Fd fd = memfd_with(pattern(16, 0));
        return !open_live({fd.get()}, std::move(slices), "test").has_value();
    };
    EXPECT_TRUE(refused({}));
    EXPECT_TRUE(refused({{GuestPhys{0}, 8192, 0, 0}, {GuestPhys{4096}, 4096, 0, 0}}));
    EXPECT_TRUE(refused({{GuestPhys{0}, ~0ull, 0, 0}}));
    EXPECT_TRUE(refused({{GuestPhys{0}, 4096, 0, ~0ull - 100}}));
    EXPECT_TRUE(refused({{GuestPhys{0}, 4096, 1, 0}}));
}

TEST(Cache, a_page_is_the_same_until_the_next_epoch) {
    Fd fd = memfd_with(pattern(kPageSize, 1));
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
