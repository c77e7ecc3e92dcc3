#include "guest_memory/elf_writer.h"

#include <elf.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "guest_memory/cached_memory.h"
#include "guest_memory/fake_memory.h"
#include "guest_memory/sources.h"

namespace underseer::guest_memory {
namespace {

const auto kOn = [](std::uint64_t, std::uint64_t) { return true; };

std::uint64_t size_of(const Fd& fd) {
    struct stat status{};
    CHECK(::fstat(fd.get(), &status) == 0);
    return static_cast<std::uint64_t>(status.st_size);
}

TEST(ElfWriter, what_it_writes_reads_as_the_memory_did) {
    EXPECT_TRUE(rc::check([] {
        // Regions that neither begin nor end at a page, too.
        std::vector<FakeRange> ranges;
        std::uint64_t at = *rc::gen::inRange<std::uint64_t>(0, 10000);
        for (unsigned i = 0; i < *rc::gen::inRange(1u, 4u); ++i) {
            const auto size = *rc::gen::inRange<std::size_t>(1, 2u << 20);
            ranges.push_back({at, fake_memory_bytes(size, i)});
            at += size + *rc::gen::inRange<std::uint64_t>(1, 1ull << 33);
        }
        FakeMemory memory(ranges);
        const Fd file = fake_file({});
        std::uint64_t told = 0, total = 0;
        const auto dump =
            write_elf_core(memory, file.get(), [&](std::uint64_t done, std::uint64_t all) {
                RC_ASSERT(done > told && done <= all);
                told = done;
                total = all;
                return true;
            });
        RC_ASSERT(dump.has_value());
        RC_ASSERT(told == total && total == memory.ram_bytes());
        RC_ASSERT(dump->file_bytes == size_of(file));
        RC_ASSERT(dump->absent_pages == 0u && dump->failed_pages == 0u);
        auto image = open_image(file.get(), size_of(file), "dump").value();
        RC_ASSERT(std::ranges::equal(image->regions(), memory.regions()));
        for (const FakeRange& range : ranges) {
            std::vector<std::byte> got(range.bytes.size());
            RC_ASSERT(image->read(GuestPhys{range.begin}, got).has_value());
            RC_ASSERT(got == range.bytes);
        }
    }));
}

// What a process has: pages that follow one another in its memory lie anywhere in RAM.
TEST(ElfWriter, runs_at_addresses_of_their_own_are_read_back_there) {
    FakeMemory memory({{0x10000, fake_memory_bytes(0x8000, 1)}});
    const std::vector<CoreRun> runs{{0x400000, GuestPhys{0x12000}, 0x1000, PF_R | PF_X},
                                    {0x401000, GuestPhys{0x10000}, 0x2000, PF_R | PF_X},
                                    {0x403000, GuestPhys{0x15000}, 0x1000, PF_R | PF_W}};
    std::string note("a note of eight words, of which a reader makes what it can..");
    const Fd file = fake_file({});
    const auto dump = write_elf_core(memory, runs, as_bytes(note), file.get(), kOn).value();
    EXPECT_EQ(dump.ram_bytes, 0x4000u);
    EXPECT_EQ(dump.file_bytes, size_of(file));
    std::vector<std::byte> bytes(dump.file_bytes);
    ASSERT_EQ(read_at(file.get(), bytes, 0).value(), bytes.size());
    const auto program = [&](std::size_t i) {
        Elf64_Phdr header;
        std::memcpy(&header, bytes.data() + sizeof(Elf64_Ehdr) + i * sizeof header, sizeof header);
        return header;
    };
    Elf64_Ehdr header;
    std::memcpy(&header, bytes.data(), sizeof header);
    ASSERT_EQ(header.e_phnum, 3);
    EXPECT_EQ(program(0).p_type, PT_NOTE);
    EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(bytes.data()) + program(0).p_offset,
                               program(0).p_filesz),
              note);
    EXPECT_EQ(program(1).p_vaddr, 0x400000u);
    EXPECT_EQ(program(1).p_filesz, 0x3000u);
    EXPECT_EQ(program(1).p_paddr, 0u);
    EXPECT_EQ(program(1).p_flags, static_cast<std::uint32_t>(PF_R | PF_X));
    EXPECT_EQ(program(2).p_vaddr, 0x403000u);
    for (const CoreRun& run : runs) {
        const Elf64_Phdr in = program(run.address == 0x403000 ? 2 : 1);
        const auto at = static_cast<std::ptrdiff_t>(in.p_offset + run.address - in.p_vaddr);
        std::vector<std::byte> want(run.size_bytes);
        ASSERT_TRUE(memory.read(run.phys, want).has_value());
        EXPECT_TRUE(std::equal(want.begin(), want.end(), bytes.begin() + at));
    }
}

TEST(ElfWriter, more_segments_than_a_core_may_have_are_refused) {
    FakeMemory memory({{0x10000, fake_memory_bytes(0x1000, 1)}});
    std::vector<CoreRun> runs;
    for (std::uint64_t i = 0; i < PN_XNUM; ++i) {
        runs.push_back({0x400000 + i * 0x2000, GuestPhys{0x10000}, 0x1000, PF_R});
    }
    EXPECT_EQ(write_elf_core(memory, runs, {}, fake_file({}).get(), kOn).error().code, Code::limit);
}

TEST(ElfWriter, zeros_are_holes_of_the_file) {
    std::vector<std::byte> bytes(64u << 20);
    bytes[32u << 20] = std::byte{1};
    FakeMemory memory({{0, std::move(bytes)}});
    const Fd file = fake_file({});
    const ElfDump dump = write_elf_core(memory, file.get(), kOn).value();
    EXPECT_EQ(dump.stored_bytes, kPageSize);
    struct stat status{};
    ASSERT_EQ(::fstat(file.get(), &status), 0);
    EXPECT_GE(status.st_size, 64 << 20);
    EXPECT_LE(status.st_blocks * 512, 64 << 10);
}

TEST(ElfWriter, pages_that_cannot_be_had_are_zeros_and_counted) {
    constexpr std::uint64_t kPages = 3000;
    FakeMemory memory({{1u << 20, std::vector<std::byte>(kPages * kPageSize, std::byte{7})}});
    FaultyMemory faulty(&memory, /*seed=*/5, /*holes=*/100, /*failures=*/50);
    RecordingMemory recording(&faulty);
    const Fd file = fake_file({});
    const ElfDump dump = write_elf_core(recording, file.get(), kOn).value();
    auto image = open_image(file.get(), dump.file_bytes, "dump").value();
    std::uint64_t holes = 0, failures = 0;
    GuestPhys first{~0ull};
    for (std::uint64_t page = 0; page < kPages; ++page) {
        const GuestPhys at{(1u << 20) + page * kPageSize};
        const ReadStatus status = faulty.status_of(at);
        holes += status == ReadStatus::hole;
        failures += status == ReadStatus::failed;
        if (status == ReadStatus::failed) first = std::min(first, at);
        std::byte byte{};
        ASSERT_TRUE(image->read(at + 5, {&byte, 1}).has_value());
        EXPECT_EQ(byte == std::byte{7}, status == ReadStatus::ok) << page;
        EXPECT_EQ(recording.was_read(at), status == ReadStatus::ok) << page;
    }
    EXPECT_GT(holes, 200u);
    EXPECT_GT(failures, 100u);
    EXPECT_EQ(dump.absent_pages, holes);
    EXPECT_EQ(dump.failed_pages, failures);
    EXPECT_EQ(dump.first_failed, first);
    EXPECT_EQ(dump.why, "broken on purpose");
}

TEST(ElfWriter, ends_when_it_is_told_to) {
    FakeMemory memory({{0, std::vector<std::byte>(4u << 20)}});
    const Fd file = fake_file({});
    const auto dump = write_elf_core(
        memory, file.get(), [](std::uint64_t done, std::uint64_t) { return done < (2u << 20); });
    EXPECT_EQ(dump.error().code, Code::gone);
}

TEST(ElfWriter, a_file_that_cannot_be_written_is_an_error) {
    FakeMemory memory({{0, std::vector<std::byte>(kPageSize, std::byte{1})}});
    EXPECT_EQ(write_elf_core(memory, -1, kOn).error().code, Code::os);
}

TEST(Decorators, count_and_record_what_is_read) {
    FakeMemory memory({{0, fake_memory_bytes(8 * kPageSize, 1)}});
    CountingMemory counting(&memory);
    CachedMemory cache(&counting, 16);
    RecordingMemory recording(&cache);
    std::byte byte{};
    for (const std::uint64_t at : {10u, 20u, 4100u, 11u}) {
        EXPECT_TRUE(recording.read(GuestPhys{at}, {&byte, 1}).has_value());
    }
    EXPECT_FALSE(recording.read(GuestPhys{1u << 20}, {&byte, 1}).has_value());
    EXPECT_EQ(counting.calls, 3u) << "two pages, and one that is not there";
    EXPECT_EQ(counting.not_ok, 1u);
    EXPECT_EQ(
        recording.read_ranges(),
        (std::vector<RamRegion>{{GuestPhys{10}, 2}, {GuestPhys{20}, 1}, {GuestPhys{4100}, 1}}));
    EXPECT_FALSE(recording.was_read(GuestPhys{12}));
}

}  // namespace
}  // namespace underseer::guest_memory
