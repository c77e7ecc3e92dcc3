#include "guest_linux/task_scan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "guest_linux/fake_guest.h"

namespace underseer::guest_linux {
namespace {

class TaskScanOf : public testing::TestWithParam<unsigned> {
  protected:
    TaskScanOf() : fake_({.levels = GetParam()}) {
        init_ = fake_.add_task(1, 1, "init", fake_.init_task());
        shell_ = fake_.add_task(7, 7, "sh", init_);
        hidden_ = fake_.add_task(9, 9, "hidden", init_);
        fake_.finish();
        kernel_ = Kernel::attach(&fake_).value();
    }

    GuestVirt at(GuestVirt task, std::string_view member) const {
        return task + fake_.offset("task_struct", member);
    }
    std::vector<GuestVirt> scan() {
        kernel_->new_epoch();
        TaskScan scan(kernel_.get());
        const TaskPlaces places = scan.search({init_, shell_});
        gap_ = places.gap.value_or("");
        return scan.live(places, {init_, shell_});
    }
    bool finds(GuestVirt task) { return std::ranges::count(scan(), task) == 1; }

    FakeGuest fake_;
    GuestVirt init_, shell_, hidden_;
    std::unique_ptr<Kernel> kernel_;
    std::string gap_;
};
INSTANTIATE_TEST_SUITE_P(Levels, TaskScanOf, testing::Values(4, 5));

TEST_P(TaskScanOf, finds_every_task_at_the_address_that_lists_know) {
    EXPECT_EQ(scan(), (std::vector{init_, shell_, hidden_}));
    EXPECT_EQ(gap_, "");
}

TEST_P(TaskScanOf, a_dead_task_in_freed_memory_is_none) {
    fake_.write(at(hidden_, "__state"), std::uint32_t{0x80});
    EXPECT_FALSE(finds(hidden_));
    fake_.write(at(hidden_, "__state"), std::uint32_t{1});
    EXPECT_TRUE(finds(hidden_));
    fake_.write(at(hidden_, "stack"), std::uint64_t{0});
    EXPECT_FALSE(finds(hidden_));
}

TEST_P(TaskScanOf, a_task_that_is_being_made_is_none_yet) {
    fake_.write(at(hidden_, "__state"), std::uint32_t{0x800});
    EXPECT_FALSE(finds(hidden_));
}

TEST_P(TaskScanOf, the_frame_on_the_stack_must_return_into_the_kernel) {
    const auto sp = fake_.read_back<GuestVirt>(at(hidden_, "thread"));
    fake_.write(sp + fake_.offset("inactive_task_frame", "ret_addr"), std::uint64_t{0x1234});
    EXPECT_FALSE(finds(hidden_));
    // That of one that runs is wherever the last switch left it.
    fake_.write(at(hidden_, "on_cpu"), std::uint32_t{1});
    EXPECT_TRUE(finds(hidden_));
    fake_.write(at(hidden_, "thread"), sp.value + (1u << 20));
    EXPECT_FALSE(finds(hidden_));
}

TEST_P(TaskScanOf, a_copy_outside_the_slabs_is_none) {
    const GuestVirt copy = fake_.direct(fake_.allocate(384));
    std::memcpy(fake_.host(copy), fake_.host(hidden_), 384);
    EXPECT_FALSE(finds(copy));
    EXPECT_TRUE(finds(hidden_));
}

TEST_P(TaskScanOf, what_shares_the_stack_of_a_known_task_is_a_copy_of_it) {
    for (const char* member : {"stack", "thread"}) {
        fake_.write(at(hidden_, member), fake_.read_back<std::uint64_t>(at(shell_, member)));
    }
    EXPECT_EQ(scan(), (std::vector{init_, shell_}));
}

TEST_P(TaskScanOf, memory_that_cannot_be_read_is_a_gap_and_the_rest_is_searched) {
    const GuestPhys hole{fake_.phys(hidden_).value + (8u << 20)};
    fake_.is_hole = [&](GuestPhys page) {
        return page.value / kPageSize == hole.value / kPageSize ||
               // A piece that has the hole in it cannot be read as a whole.
               (page.value <= hole.value && hole.value - page.value < (256u << 10) &&
                page.value % (256u << 10) == 0);
    };
    EXPECT_EQ(scan().size(), 3u);
    EXPECT_NE(gap_, "");
}

TEST_P(TaskScanOf, a_search_that_misses_what_is_known_says_so) {
    // The variable says another direct map than there is: no place passes, and that is no clean
    // bill.
    const GuestVirt base = kernel_->symbol("page_offset_base").value();
    fake_.write(base, fake_.read_back<std::uint64_t>(base) + (1u << 30));
    EXPECT_TRUE(scan().empty());
    EXPECT_NE(gap_.find("0 of the 2 tasks"), std::string::npos) << gap_;
}

TEST_P(TaskScanOf, memory_full_of_bait_is_bounded) {
    const auto bait = fake_.read_back<std::uint64_t>(at(hidden_, "sched_class"));
    for (std::uint64_t i = 0; i < (16u << 20); i += 8) {
        std::memcpy(fake_.host_phys(GuestPhys{(32u << 20) + i}), &bait, sizeof bait);
    }
    EXPECT_EQ(scan().size(), 3u);
}

TEST(TaskScan, without_types_the_reason_is_theirs) {
    FakeGuest fake({.btf = false});
    const GuestVirt init = fake.add_system().init;
    fake.finish();
    const auto kernel = Kernel::attach(&fake).value();
    const TaskPlaces places = TaskScan(kernel.get()).search({init});
    ASSERT_TRUE(places.gap);
    EXPECT_NE(places.gap->find("CONFIG_DEBUG_INFO_BTF is off"), std::string::npos) << *places.gap;
}

}  // namespace
}  // namespace underseer::guest_linux
