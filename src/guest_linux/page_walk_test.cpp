#include "guest_linux/page_walk.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace underseer::guest_linux {
namespace {

constexpr GuestVirt kBegin{0xffff800000000000}, kEnd{0xfffffffffffff000};

// Bytes that change between two reads.
class TableMemory final : public guest_memory::GuestMemory {
  public:
    explicit TableMemory(std::vector<std::byte>* ram)
        : ram_(ram), regions_{{GuestPhys{0}, ram->size()}} {}
    std::span<const guest_memory::RamRegion> regions() const override { return regions_; }
    void read_many(std::span<guest_memory::ReadOp> ops) override {
        using guest_memory::ReadStatus;
        for (guest_memory::ReadOp& op : ops) {
            const bool inside = op.from.value + op.into.size() <= ram_->size();
            op.status = inside ? ReadStatus::ok : ReadStatus::outside;
            if (inside) std::memcpy(op.into.data(), ram_->data() + op.from.value, op.into.size());
        }
    }
    bool live() const override { return false; }
    std::string describe() const override { return "page tables"; }

  private:
    std::vector<std::byte>* ram_;
    std::vector<guest_memory::RamRegion> regions_;
};

// Page tables that a test writes entry by entry, at any place of 16 MiB.
class PageWalk : public testing::TestWithParam<unsigned> {
  protected:
    AddressSpace space() const { return {GuestPhys{0x1000}, GetParam()}; }
    void map(GuestVirt at, unsigned leaf_level, std::uint64_t bits) {
        GuestPhys table = space().root;
        for (unsigned level = space().levels; level > leaf_level; --level) {
            std::uint64_t entry = read(slot(table, level, at));
            if (entry == 0) {
                next_ += kPageSize;
                entry = next_ | kPtePresent | kPteWritable;
                write(slot(table, level, at), entry);
            }
            table = entry_target(entry);
        }
        write(slot(table, leaf_level, at), bits);
    }
    GuestPhys slot(GuestPhys table, unsigned level, GuestVirt at) const {
        return table + 8 * ((at.value >> (12 + 9 * (level - 1))) & 511);
    }
    std::uint64_t read(GuestPhys at) {
        std::uint64_t value;
        std::memcpy(&value, ram_.data() + at.value, 8);
        return value;
    }
    void write(GuestPhys at, std::uint64_t value) {
        std::memcpy(ram_.data() + at.value, &value, 8);
    }
    Result<CodeRanges> walk() { return executable_ranges(memory_, space(), kBegin, kEnd); }

    std::vector<std::byte> ram_ = std::vector<std::byte>(16u << 20);
    TableMemory memory_{&ram_};
    std::uint64_t next_ = 0x1000;
};
INSTANTIATE_TEST_SUITE_P(Levels, PageWalk, testing::Values(4u, 5u));

TEST_P(PageWalk, finds_what_is_executable_and_joins_neighbours) {
    const GuestVirt text{0xffffffff81000000};
    map(text, 2, 0x1000000 | kPtePresent | kPteHuge);
    map(text + 0x200000, 2, 0x1200000 | kPtePresent | kPteHuge);
    map(text + 0x400000, 2, 0x1400000 | kPtePresent | kPteHuge | kPteNoExecute);
    const GuestVirt module{0xffffffffc0000000};
    map(module, 1, 0x5000 | kPtePresent);
    map(module + 0x1000, 1, 0x9000 | kPtePresent | kPteWritable);
    map(module + 0x2000, 1, 0x8000);  // not present
    const auto found = walk().value();
    EXPECT_EQ(found.ranges, (std::vector<CodeRange>{{text, 0x400000, false},
                                                    {module, 0x1000, false},
                                                    {module + 0x1000, 0x1000, true}}));
    EXPECT_EQ(found.unreadable, 0u);
}

TEST_P(PageWalk, takes_the_rights_of_all_levels_together) {
    const GuestVirt module{0xffffffffc0000000};
    map(module, 1, 0x5000 | kPtePresent | kPteWritable);
    GuestPhys table = space().root;
    for (unsigned level = space().levels; level > 2; --level) {
        table = entry_target(read(slot(table, level, module)));
    }
    const GuestPhys directory = slot(table, 2, module);
    write(directory, read(directory) & ~kPteWritable);
    EXPECT_EQ(walk().value().ranges, (std::vector<CodeRange>{{module, 0x1000, false}}));
    write(directory, read(directory) | kPteNoExecute);
    EXPECT_TRUE(walk().value().ranges.empty());
}

TEST_P(PageWalk, looks_between_its_borders_only) {
    const GuestVirt module{0xffffffffc0000000};
    for (std::uint64_t i = 0; i < 8; ++i) map(module + i * 0x2000, 1, 0x5000 | kPtePresent);
    const auto found =
        executable_ranges(memory_, space(), module + 0x2000, module + 0x6000).value();
    EXPECT_EQ(found.ranges, (std::vector<CodeRange>{{module + 0x2000, 0x1000, false},
                                                    {module + 0x4000, 0x1000, false}}));
}

TEST_P(PageWalk, tables_that_lead_into_themselves_come_to_an_end) {
    for (std::uint64_t i = 256; i < 512; ++i) {
        write(space().root + 8 * i, space().root.value | kPtePresent);
    }
    EXPECT_EQ(walk().error().code, Code::limit);
}

// Of a process: the lower half.
constexpr GuestVirt kArea{0x7f1234400000};
constexpr std::uint64_t kMany = 1u << 20;

TEST_P(PageWalk, present_pages_of_a_process) {
    map(kArea, 1, 0x5000 | kPtePresent);
    map(kArea + 0x1000, 1, 0x6000 | kPtePresent | kPteNoExecute);  // beside it in RAM too
    map(kArea + 0x2000, 1, 0x9000 | kPtePresent);
    map(kArea + 0x3000, 1, 0x2a << 9);  // swapped out
    map(kArea + 0x200000, 2, 0x800000 | kPtePresent | kPteHuge);
    const auto found = present_pages(memory_, space(), kArea, kArea + 0x400000, kMany).value();
    EXPECT_EQ(found.runs,
              (std::vector<PageRun>{{kArea, GuestPhys{0x5000}, 0x2000},
                                    {kArea + 0x2000, GuestPhys{0x9000}, 0x1000},
                                    {kArea + 0x200000, GuestPhys{0x800000}, 0x200000}}));
    EXPECT_EQ(found.swapped, 1u);
    EXPECT_EQ(found.unreadable, 0u);
    EXPECT_EQ(found.next, kArea + 0x400000);
}

TEST_P(PageWalk, present_pages_within_borders_and_in_parts) {
    map(kArea, 2, 0x800000 | kPtePresent | kPteHuge);
    map(kArea + 0x200000, 1, 0x5000 | kPtePresent);
    const GuestVirt begin = kArea + 0x1fe000, end = kArea + 0x201000;
    const auto first = present_pages(memory_, space(), begin, end, 1).value();
    EXPECT_EQ(first.runs, (std::vector<PageRun>{{begin, GuestPhys{0x9fe000}, 0x1000}}));
    EXPECT_EQ(first.next, begin + 0x1000);
    const auto rest = present_pages(memory_, space(), first.next, end, kMany).value();
    EXPECT_EQ(rest.runs, (std::vector<PageRun>{{begin + 0x1000, GuestPhys{0x9ff000}, 0x1000},
                                               {kArea + 0x200000, GuestPhys{0x5000}, 0x1000}}));
    EXPECT_EQ(rest.next, end);
}

TEST_P(PageWalk, what_a_guest_says_of_an_area_may_be_nonsense) {
    map(kArea, 1, 0x5000 | kPtePresent);
    for (const auto& [begin, end] : {std::pair{kArea + 0x1000, kArea},
                                     {GuestVirt{~0ull}, GuestVirt{~0ull}},
                                     {GuestVirt{0xffff800000000000}, GuestVirt{~0ull}}}) {
        const auto found = present_pages(memory_, space(), begin, end, kMany).value();
        EXPECT_TRUE(found.runs.empty());
        EXPECT_EQ(found.next, end);
    }
    const auto all = present_pages(memory_, space(), GuestVirt{1}, GuestVirt{~0ull}, kMany).value();
    EXPECT_EQ(all.runs, (std::vector<PageRun>{{kArea, GuestPhys{0x5000}, 0x1000}}));
}

TEST_P(PageWalk, present_pages_come_to_an_end_whatever_the_tables_say) {
    for (std::uint64_t i = 0; i < 256; ++i) {
        write(space().root + 8 * i, space().root.value | kPtePresent);
    }
    const auto found =
        present_pages(memory_, space(), GuestVirt{0}, GuestVirt{1ull << 47}, kMany).value();
    EXPECT_LE(found.runs.size(), kMany);
    EXPECT_GT(found.next, GuestVirt{0});
}

TEST_P(PageWalk, a_table_of_a_process_that_cannot_be_read_is_told_and_passed) {
    map(kArea, 1, 0x5000 | kPtePresent);
    map(kArea + 0x40000000, 1, 0x6000 | kPtePresent);
    GuestPhys table = space().root;
    for (unsigned level = space().levels; level > 3; --level) {
        table = entry_target(read(slot(table, level, kArea)));
    }
    write(slot(table, 3, kArea), 0x7f000000 | kPtePresent);
    const auto found = present_pages(memory_, space(), kArea, kArea + 0x80000000, kMany).value();
    EXPECT_EQ(found.runs, (std::vector<PageRun>{{kArea + 0x40000000, GuestPhys{0x6000}, 0x1000}}));
    EXPECT_EQ(found.unreadable, 1u);
}

TEST_P(PageWalk, a_table_that_cannot_be_read_is_told) {
    const GuestVirt module{0xffffffffc0000000};
    map(module, 1, 0x5000 | kPtePresent);
    write(slot(space().root, space().levels, module), 0x7f000000 | kPtePresent);
    const auto found = walk().value();
    EXPECT_TRUE(found.ranges.empty());
    EXPECT_EQ(found.unreadable, 1u);
}

}  // namespace
}  // namespace underseer::guest_linux
