#include "detect/decoy_kernel/decoy_kernel.h"

#include <gtest/gtest.h>

#include <cstring>

#include "guest_linux/fake_guest.h"

namespace underseer::detect {
namespace {

using event::Outcome;
using guest_linux::FakeGuest;

class DecoyKernel : public ::testing::Test {
  protected:
    DecoyKernel() : fake_({}) {
        fake_.finish();
        const GuestVirt idt = fake_.allocate(kPageSize, kPageSize);
        cpu_ = {.cr0 = 0x80050033,
                .cr3 = fake_.root().value,
                .cr4 = 0xf0,
                .efer = 0xd01,
                .idt_base = idt.value,
                .idt_limit = 0xfff};
        guest_ = guest_linux::Guest::attach(&fake_).value();
        // A second kernel, as far as the check looks at one.
        other_ = {.release = "6.4.0-fake",
                  .banner = "Linux version 6.4.0-fake, the other",
                  .root = GuestPhys{9u << 20},
                  .banner_at = GuestPhys{8u << 20},
                  .ticks_at = GuestPhys{(8u << 20) + 512}};
        std::memcpy(fake_.host_phys(other_.banner_at), other_.banner.data(), other_.banner.size());
        tick();
    }
    void tick() {
        ++ticks_;
        std::memcpy(fake_.host_phys(other_.ticks_at), &ticks_, sizeof ticks_);
    }
    event::CheckReport hear() { return check_.hear(*guest_, std::span(&cpu_, 1)); }

    FakeGuest fake_;
    std::unique_ptr<guest_linux::Guest> guest_;
    event::CpuRegisters cpu_;
    guest_linux::UnrunKernel other_;
    std::uint64_t ticks_ = 1000;
    DecoyKernelCheck check_;
};

TEST_F(DecoyKernel, a_guest_whose_cpu_runs_its_only_kernel_is_clean) {
    const auto report = hear();
    EXPECT_EQ(report.outcome, Outcome::clean) << report.reason;
    EXPECT_EQ(report.coverage.looked_at, 1u);
}

TEST_F(DecoyKernel, that_keeps_time_is_found_at_the_third_hearing) {
    check_.suspect(other_);
    EXPECT_EQ(hear().outcome, Outcome::unavailable);
    tick();
    EXPECT_EQ(hear().outcome, Outcome::unavailable);
    tick();
    const auto report = hear();
    ASSERT_EQ(report.findings.size(), 1u);
    EXPECT_EQ(report.outcome, Outcome::finding);
    EXPECT_EQ(report.findings[0].key, "900000");
    // A guest that is paused then does not take it back.
    EXPECT_EQ(hear().outcome, Outcome::finding);
    // Gone is gone.
    std::memset(fake_.host_phys(other_.banner_at), 0, 8);
    EXPECT_EQ(hear().outcome, Outcome::clean);
}

TEST_F(DecoyKernel, what_kexec_has_left_does_not_count_any_more) {
    check_.suspect(other_);
    EXPECT_EQ(hear().outcome, Outcome::unavailable) << "it has been seen once only";
    for (int i = 0; i < 5; ++i) EXPECT_EQ(hear().outcome, Outcome::clean);
}

TEST_F(DecoyKernel, without_registers_nothing_is_known_and_nothing_forgotten) {
    check_.suspect(other_);
    (void)hear();
    tick();
    (void)hear();
    const auto report = check_.hear(*guest_, {});
    EXPECT_EQ(report.outcome, Outcome::unavailable);
    EXPECT_EQ(report.reason, "nobody tells the registers of its CPUs");
    tick();
    EXPECT_EQ(hear().outcome, Outcome::finding);
}

TEST_F(DecoyKernel, a_cpu_that_says_nothing_leaves_it_open) {
    cpu_.cr3 = 10u << 20;
    const auto report = hear();
    EXPECT_EQ(report.outcome, Outcome::unavailable);
    EXPECT_EQ(report.coverage.unreadable, 1u);
    EXPECT_NE(report.reason.find("lead to no kernel"), std::string::npos) << report.reason;
}

TEST_F(DecoyKernel, an_interrupt_table_elsewhere_is_found_at_the_third_hearing_in_a_row) {
    const event::CpuRegisters sound = cpu_;
    event::CpuRegisters hooked = cpu_;
    hooked.idt_base = fake_.direct(GuestVirt{cpu_.idt_base}).value -
                      fake_.phys(GuestVirt{cpu_.idt_base}).value + (11u << 20);
    cpu_ = hooked;
    EXPECT_EQ(hear().outcome, Outcome::unavailable);
    EXPECT_EQ(hear().outcome, Outcome::unavailable);
    cpu_ = sound;
    EXPECT_EQ(hear().outcome, Outcome::clean);
    cpu_ = hooked;
    EXPECT_EQ(hear().outcome, Outcome::unavailable);
    EXPECT_EQ(hear().outcome, Outcome::unavailable);
    const auto report = hear();
    ASSERT_EQ(report.findings.size(), 1u);
    EXPECT_EQ(report.findings[0].subject, "CPU 0");
}

TEST_F(DecoyKernel, a_cpu_that_lets_the_kernel_write_everywhere_is_found_at_the_third_hearing) {
    cpu_.cr0 &= ~(1ull << 16);
    EXPECT_EQ(hear().outcome, Outcome::unavailable);
    EXPECT_EQ(hear().outcome, Outcome::unavailable);
    const auto report = hear();
    ASSERT_EQ(report.findings.size(), 1u);
    EXPECT_EQ(report.findings[0].rule, "cpu_protection_off");
    EXPECT_EQ(report.findings[0].evidence[0].text, "CR0.WP");
}

}  // namespace
}  // namespace underseer::detect
