#include "guest_linux/vital_signs.h"

#include <gtest/gtest.h>

#include "guest_linux/fake_guest.h"
#include "guest_linux/kernel.h"

namespace underseer::guest_linux {
namespace {

class VitalSignsTest : public testing::Test {
  protected:
    VitalSignsTest() {
        guest_.add_symbol("jiffies_64", 'D', ticks_.value);
        guest_.write(ticks_, std::uint64_t{1000});
        guest_.finish();
        kernel_ = Kernel::attach(&guest_).value();
        signs_ = read_vital_signs(*kernel_).value();
    }

    // What happens in the guest at every pause of the watch.
    Result<VitalSigns> prove(const std::function<void()>& meanwhile = [] {}) {
        pauses_ = 0;
        return prove_running(*kernel_, signs_, kernel_is_, [&] {
            ++pauses_;
            meanwhile();
        });
    }
    void write_low(std::uint64_t at, std::uint64_t value) {
        std::memcpy(guest_.host_phys(GuestPhys{at}), &value, sizeof value);
    }

    FakeGuest guest_{{.ram_bytes = 48u << 20}};
    GuestVirt ticks_ = guest_.allocate(8);
    std::unique_ptr<Kernel> kernel_;
    VitalSigns signs_;
    Acquaintance kernel_is_ = Acquaintance::seen_running;
    unsigned pauses_ = 0;
};

TEST_F(VitalSignsTest, a_clock_that_moved_is_proof_at_once) {
    guest_.write(ticks_, std::uint64_t{1001});
    EXPECT_EQ(prove().value().ticks, 1001u);
    EXPECT_EQ(pauses_, 0u);
}

TEST_F(VitalSignsTest, a_clock_that_moves_while_watched_is_proof) {
    std::uint64_t work = 0;
    const auto proof = prove([&] {
        write_low(0x5000, ++work);
        if (work == 5) guest_.write(ticks_, std::uint64_t{1001});
    });
    EXPECT_EQ(proof.value().ticks, 1001u);
    EXPECT_EQ(pauses_, 5u);
}

TEST_F(VitalSignsTest, a_guest_in_which_nothing_happens_is_paused_or_idle) {
    EXPECT_EQ(prove().value(), signs_);
    EXPECT_EQ(pauses_, 3u);
    kernel_is_ = Acquaintance::new_here;
    EXPECT_EQ(prove().value(), signs_);
    EXPECT_EQ(pauses_, 12u);
}

TEST_F(VitalSignsTest, a_firmware_that_waits_for_a_moment_does_not_pass_for_an_idle_kernel) {
    kernel_is_ = Acquaintance::new_here;
    std::uint64_t waits = 0;
    const auto proof = prove([&] {
        if (++waits % 9 == 0) write_low(0x5000, waits);
    });
    EXPECT_EQ(proof.error().code, Code::gone);
}

TEST_F(VitalSignsTest, a_guest_in_which_all_but_the_clock_moves_runs_something_else) {
    std::uint64_t work = 0;
    const auto proof = prove([&] { write_low(0x5000, ++work); });
    ASSERT_FALSE(proof.has_value());
    EXPECT_EQ(proof.error().code, Code::gone);
    EXPECT_NE(proof.error().message.find("booting"), std::string::npos);
}

TEST_F(VitalSignsTest, after_a_firmware_has_run_a_quiet_guest_is_no_proof) {
    write_low(0x46c, 4711);  // the BIOS's time of day
    guest_.write(ticks_, std::uint64_t{1001});
    EXPECT_EQ(prove().error().code, Code::gone);
    // A CPU that is plugged in writes there too: then the clock goes on.
    std::uint64_t ticks = 1001;
    EXPECT_TRUE(prove([&] { guest_.write(ticks_, ++ticks); }).has_value());
}

TEST_F(VitalSignsTest, a_clock_that_went_back_is_another_life) {
    guest_.write(ticks_, std::uint64_t{999});
    EXPECT_EQ(prove().error().code, Code::gone);
}

TEST_F(VitalSignsTest, a_kernel_whose_image_is_overwritten_is_gone) {
    guest_.write(kernel_->image().banner_virt, std::uint64_t{0});
    EXPECT_EQ(read_vital_signs(*kernel_).error().code, Code::gone);
}

TEST_F(VitalSignsTest, a_kernel_without_page_tables_is_gone) {
    for (std::uint64_t i = 0; i < 512; ++i) write_low(guest_.root().value + 8 * i, 0);
    EXPECT_EQ(read_vital_signs(*kernel_).error().code, Code::gone);
}

TEST_F(VitalSignsTest, what_a_kernel_left_behind_is_not_attached_to_unless_it_moves) {
    const auto remains = std::span(&signs_, 1);
    const auto again = Kernel::attach(&guest_, {.remains = remains});
    ASSERT_FALSE(again.has_value());
    EXPECT_NE(again.error().message.find("booting"), std::string::npos);
    guest_.write(ticks_, std::uint64_t{1001});
    EXPECT_TRUE(Kernel::attach(&guest_, {.remains = remains}).has_value());
}

TEST_F(VitalSignsTest, signs_that_cannot_be_read_are_an_error) {
    guest_.is_hole = [&](GuestPhys at) {
        return at.value / kPageSize == guest_.phys(ticks_).value / kPageSize;
    };
    EXPECT_FALSE(read_vital_signs(*kernel_).has_value());
}

}  // namespace
}  // namespace underseer::guest_linux
