#include "guest_linux/known_programs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "base/limits.h"
#include "guest_linux/direct_map.h"
#include "guest_linux/fake_elf.h"
#include "guest_linux/fake_guest.h"

namespace underseer::guest_linux {
namespace {

// A file in the page cache of a guest, and what its package has.
class ProgramOfAPackage : public testing::Test {
  protected:
    ProgramOfAPackage() {
        fake_.define("address_space", 40, "host:ptr@0 i_pages:xarray@8 a_ops:ptr@32");
        fake_.define("inode", 48, "i_mode:short@0 i_size:long@32 i_mapping:ptr@40");
        fake_.add_system();
        mapping_ = fake_.allocate(40);
        node_ = fake_.allocate(40 + 512);
        elf_.build_id = "\x12\x34\xab\xcd";
        bytes_ = elf_.build();
        bytes_.resize((bytes_.size() + kPageSize - 1) / kPageSize * kPageSize);
        content_ = fake_.allocate(bytes_.size(), kPageSize);
        std::memcpy(fake_.host(content_), bytes_.data(), bytes_.size());
        fake_.finish();
        kernel_ = Kernel::attach(&fake_).value();
        fake_.write(
            mapping_ + fake_.offset("address_space", "i_pages") + fake_.offset("xarray", "xa_head"),
            node_.value + 2);  // a node (include/linux/xarray.h)
        for (std::size_t i = 0; i < bytes_.size() / kPageSize; ++i) set_page(i, true);
        known_.know({package("daemon_1_amd64", bytes_)});
    }
    static ProgramSet package(const std::string& name, const std::string& elf) {
        ProgramSet set{.package = name, .programs = {read_program(as_bytes(elf)).value()}};
        set.programs.front().path = "/usr/sbin/daemon";
        return set;
    }
    void set_page(std::size_t index, bool is_there) {
        const std::uint64_t frame = fake_.phys(content_ + index * kPageSize).value / kPageSize;
        const std::uint64_t record =
            page_records(*kernel_).value().value + frame * kernel_->require_size_of("page").value();
        fake_.write(node_ + fake_.offset("xa_node", "slots") + 8 * index,
                    is_there ? record : std::uint64_t{0});
    }
    void alter(std::size_t at) { fake_.write(content_ + at, std::uint8_t{0xcc}); }
    std::optional<ProgramComparison> compare(const std::string& build_id = "1234abcd") {
        kernel_->new_epoch();
        std::uint64_t budget = 1000;
        return known_.compare(*kernel_, mapping_, build_id, budget).value();
    }

    FakeGuest fake_{{}};
    std::unique_ptr<Kernel> kernel_;
    GuestVirt mapping_, node_, content_;
    FakeElf elf_;
    std::string bytes_;
    KnownPrograms known_;
};

TEST_F(ProgramOfAPackage, is_known_by_its_build_id_and_is_as_the_package_has_it) {
    EXPECT_EQ(known_.build_id_of(*kernel_, mapping_).value(), "1234abcd");
    for (int i = 0; i < 2; ++i) {
        const auto same = compare();
        ASSERT_TRUE(same);
        EXPECT_EQ(same->package, "daemon_1_amd64");
        EXPECT_EQ(same->path, "/usr/sbin/daemon");
        EXPECT_EQ(same->compared, 4u);
        EXPECT_EQ(same->absent, 0u);
        EXPECT_EQ(same->unlike_count, 0u);
    }
    EXPECT_FALSE(compare("12"));
    EXPECT_TRUE(known_.loads("1234abcd", 3));
    EXPECT_FALSE(known_.loads("1234abcd", 4)) << "symbols are not loaded";
}

TEST_F(ProgramOfAPackage, that_is_altered_shows_which_page_before_and_after_it_was_seen_right) {
    alter(0x2004);
    EXPECT_EQ(compare()->unlike, std::vector<std::uint64_t>{2});
    alter(0x1004);
    const auto both = compare();
    EXPECT_EQ(both->unlike, (std::vector<std::uint64_t>{1, 2}));
    EXPECT_EQ(both->unlike_count, 2u);
    fake_.write(content_ + 0x2004, std::uint8_t{0x90});
    EXPECT_EQ(compare()->unlike, std::vector<std::uint64_t>{1});
}

TEST_F(ProgramOfAPackage, what_is_not_in_memory_is_not_compared) {
    alter(0x2004);
    set_page(2, false);
    const auto some = compare();
    EXPECT_EQ(some->compared, 3u);
    EXPECT_EQ(some->absent, 1u);
    EXPECT_EQ(some->unlike_count, 0u);
    set_page(0, false);
    EXPECT_EQ(known_.build_id_of(*kernel_, mapping_).value(), std::nullopt);
}

TEST_F(ProgramOfAPackage, that_cannot_be_read_is_an_error_and_so_is_too_much) {
    std::uint64_t budget = 2;
    EXPECT_EQ(known_.compare(*kernel_, mapping_, "1234abcd", budget).error().code, Code::limit);
    budget = 1000;
    kernel_->new_epoch();
    fake_.is_hole = [hole = fake_.phys(content_ + 0x1000)](GuestPhys at) {
        return at.value / kPageSize == hole.value / kPageSize;
    };
    EXPECT_FALSE(known_.compare(*kernel_, mapping_, "1234abcd", budget).has_value());
}

TEST_F(ProgramOfAPackage, is_one_of_several_with_the_same_build_id) {
    std::string other = bytes_;
    other[0x1004] = '\xcc';
    known_.know({package("daemon_2_amd64", other), package("daemon_1_amd64", bytes_)});
    EXPECT_EQ(compare()->package, "daemon_1_amd64");
    alter(0x1004);
    EXPECT_EQ(compare()->package, "daemon_2_amd64");
    EXPECT_EQ(compare()->unlike_count, 0u);
}

TEST_F(ProgramOfAPackage, is_known_by_its_path_wherever_bin_leads) {
    EXPECT_TRUE(known_.has_path("/usr/sbin/daemon"));
    EXPECT_TRUE(known_.has_path("/sbin/daemon"));
    EXPECT_FALSE(known_.has_path("/usr/local/sbin/daemon"));
    EXPECT_FALSE(known_.has_path("/bin/daemon"));
    alter(0x1004);
    std::uint64_t budget = 1000;
    const auto nearest =
        known_.compare_with_path(*kernel_, mapping_, "/sbin/daemon", budget).value();
    ASSERT_TRUE(nearest);
    EXPECT_EQ(nearest->unlike_count, 1u);
    EXPECT_EQ(nearest->compared, 4u);
}

TEST_F(ProgramOfAPackage, without_an_elf_header_has_no_build_id) {
    fake_.write(content_, std::uint32_t{0});
    EXPECT_EQ(known_.build_id_of(*kernel_, mapping_).value(), "");
}

}  // namespace
}  // namespace underseer::guest_linux
