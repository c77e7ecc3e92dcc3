#include "detect/watched_memory/watched_memory.h"

#include <gtest/gtest.h>

#include <cstring>

#include "guest_linux/fake_guest.h"

namespace underseer::detect {
namespace {

using event::Outcome;
using guest_linux::FakeGuest;
using namespace std::chrono_literals;

constexpr unsigned kCalls = 63, kKill = 62;

// A kernel with a table and a switch of system calls, an interrupt, a table of /proc and the name
// of a program; and time that passes as the test has it.
class WatchedMemory : public ::testing::Test {
  protected:
    explicit WatchedMemory(bool has_security_hooks = false) : fake_({}) {
        fake_.define("seq_operations", 32, "start:ptr@0 stop:ptr@8 next:ptr@16 show:ptr@24");
        fake_.add_system();
        read_ = fake_.add_function("__x64_sys_read", "\xc3");
        kill_ = fake_.add_function("__x64_sys_kill", "\xc3");
        evil_ = fake_.add_function("quite_something_else", "\xc3");
        switch_ = fake_.add_function("x64_sys_call", std::string(64, '\x90'));
        fake_.add_function("behind_the_switch", "\xc3");
        jump(0, read_);
        jump(5, kill_);
        table_ = fake_.allocate(kCalls * 8);
        fake_.add_symbol("sys_call_table", 'R', table_.value);
        fake_.add_symbol("fake_end_of_table", 'R', table_.value + kCalls * 8);
        for (unsigned i = 0; i < kCalls; ++i) fake_.write(table_ + 8 * i, read_);
        gates_ = fake_.allocate(256 * 16);
        fake_.add_symbol("idt_table", 'R', gates_.value);
        program_ = fake_.allocate(128);
        fake_.add_symbol("core_pattern", 'D', program_.value);
        fake_.write(program_, std::array{'c', 'o', 'r', 'e', '\0'});
        fake_.add_symbol("_etext", 'T', evil_.value + 4096);
        if (has_security_hooks) {
            fake_.define("security_hook_list", 32, "list:ptr@0 hook:ptr@24");
            fake_.define("security_hook_heads", 8, "file_open:ptr@0");
            heads_ = fake_.allocate(8), hook_ = fake_.allocate(32);
            fake_.add_symbol("security_hook_heads", 'D', heads_.value);
            fake_.write(heads_, hook_);
            fake_.write(hook_ + 24, read_);
        }
        fake_.finish();
        guest_ = guest_linux::Guest::attach(&fake_).value();
        watch_ = std::make_unique<MemoryWatch>(guest_.get(), &fake_, now_);
        watch_->begin(now_);
    }

    void jump(std::uint64_t offset, GuestVirt target) {
        fake_.write(switch_ + offset, '\xe9');
        fake_.write(switch_ + offset + 1,
                    static_cast<std::int32_t>(target.value - (switch_.value + offset + 5)));
    }
    bool poll(std::chrono::milliseconds later = 8ms) {
        now_ += later;
        return watch_->poll(now_);
    }
    // Of what was seen since the last one.
    event::CheckReport report() {
        auto report = watch_->report(kNoon, now_);
        watch_->begin(now_);
        return report;
    }
    static std::string evidence(const event::Finding& finding, std::string_view name) {
        for (const event::Evidence& item : finding.evidence) {
            if (item.name == name) return item.text;
        }
        return "";
    }

    static constexpr std::chrono::sys_days kNoon =
        std::chrono::sys_days(std::chrono::year_month_day(
            std::chrono::year(2026), std::chrono::month(5), std::chrono::day(17)));
    FakeGuest fake_;
    GuestVirt read_, kill_, evil_, switch_, table_, gates_, program_, heads_, hook_;
    std::unique_ptr<guest_linux::Guest> guest_;
    std::unique_ptr<MemoryWatch> watch_;
    MemoryWatch::Moment now_ = MemoryWatch::Moment() + 1h;
};

TEST_F(WatchedMemory, that_stays_as_it_is_is_clean) {
    for (int i = 0; i < 10; ++i) EXPECT_FALSE(poll());
    const auto clean = report();
    EXPECT_EQ(clean.outcome, Outcome::clean) << clean.reason;
    EXPECT_EQ(clean.coverage.looked_at, 4u);
    EXPECT_TRUE(clean.coverage.gaps.empty()) << clean.coverage.gaps.front();
}

TEST_F(WatchedMemory, a_call_that_leads_elsewhere_is_told_with_before_and_after) {
    EXPECT_FALSE(poll());
    fake_.write(table_ + 8 * kKill, evil_);
    EXPECT_TRUE(poll());
    const auto found = report();
    ASSERT_EQ(found.findings.size(), 1u);
    const event::Finding& finding = found.findings[0];
    EXPECT_EQ(finding.rule, "watched_memory_changed");
    EXPECT_EQ(finding.subject, "kill (sys_call_table[62])");
    EXPECT_NE(evidence(finding, "before").find("__x64_sys_read"), std::string::npos);
    EXPECT_NE(evidence(finding, "after").find("quite_something_else"), std::string::npos);
    EXPECT_EQ(evidence(finding, "seen"),
              "as before at 2026-05-16 23:59:59.992 UTC, changed 8.0 ms later at the latest");
}

TEST_F(WatchedMemory, what_lasts_is_told_in_each_report_and_is_new_once) {
    fake_.write(table_ + 8 * kKill, evil_);
    EXPECT_TRUE(poll());
    const auto first = report();
    EXPECT_FALSE(poll());
    const auto second = report();
    ASSERT_EQ(second.findings.size(), 1u);
    EXPECT_EQ(first.findings[0].key, second.findings[0].key);
    EXPECT_EQ(evidence(first.findings[0], "seen"), evidence(second.findings[0], "seen"));
}

TEST_F(WatchedMemory, what_was_put_back_is_told_all_the_same_and_is_gone_afterwards) {
    fake_.write(table_ + 8 * kKill, evil_);
    EXPECT_TRUE(poll());
    fake_.write(table_ + 8 * kKill, read_);
    EXPECT_TRUE(poll());
    const auto found = report();
    ASSERT_EQ(found.findings.size(), 1u);
    EXPECT_NE(evidence(found.findings[0], "seen").find("; put back after 8.0 ms to 16.0 ms"),
              std::string::npos)
        << evidence(found.findings[0], "seen");
    EXPECT_FALSE(poll());
    EXPECT_EQ(report().outcome, Outcome::clean);
}

TEST_F(WatchedMemory, a_gate_is_one_change) {
    const std::uint64_t at = evil_.value;
    fake_.write(gates_ + 16 * 0x81, (at & 0xffff) | 0x8e0000100000ull | (at & 0xffff0000) << 32);
    fake_.write(gates_ + 16 * 0x81 + 8, at >> 32);
    EXPECT_TRUE(poll());
    const auto found = report();
    ASSERT_EQ(found.findings.size(), 1u);
    EXPECT_EQ(found.findings[0].subject, "interrupt 0x81");
    EXPECT_NE(evidence(found.findings[0], "after").find("quite_something_else"), std::string::npos);
}

TEST_F(WatchedMemory, code_that_jumps_elsewhere_is_told) {
    jump(5, evil_);
    EXPECT_TRUE(poll());
    const auto found = report();
    ASSERT_EQ(found.findings.size(), 1u) << found.reason;
    EXPECT_TRUE(found.findings[0].subject.starts_with("x64_sys_call+"))
        << found.findings[0].subject;
}

// The kernel writes an instruction in three steps, the first of which is a breakpoint.
TEST_F(WatchedMemory, code_that_is_being_written_is_judged_when_it_has_been) {
    fake_.write(switch_ + 5, '\xcc');
    EXPECT_FALSE(poll());
    EXPECT_FALSE(poll());
    jump(5, kill_);
    EXPECT_FALSE(poll());
    EXPECT_EQ(report().outcome, Outcome::clean);
    fake_.write(switch_ + 5, '\xcc');
    EXPECT_FALSE(poll());
    EXPECT_TRUE(poll(MemoryWatch::kSettles)) << "nobody has said that there is a probe";
    EXPECT_EQ(report().findings.size(), 1u);
}

TEST_F(WatchedMemory, an_operand_that_looks_like_a_breakpoint_is_told_at_once) {
    fake_.write(switch_ + 6, '\xcc');
    EXPECT_TRUE(poll());
    EXPECT_EQ(report().findings.size(), 1u);
}

TEST_F(WatchedMemory, a_program_that_is_not_the_systems_is_told_once_it_stands_there) {
    fake_.write(program_, std::array{'|', '/', 't', 'm', 'p', '/', 'x', '\0'});
    EXPECT_FALSE(poll());
    EXPECT_TRUE(poll(MemoryWatch::kSettles));
    const auto found = report();
    ASSERT_EQ(found.findings.size(), 1u);
    EXPECT_EQ(found.findings[0].rule, "kernel_program_changed");
    EXPECT_EQ(found.findings[0].subject, "core_pattern = |/tmp/x");
}

TEST_F(WatchedMemory, a_program_of_the_system_is_a_setting) {
    fake_.write(program_, std::array{'|', '/', 'u', 's', 'r', '/', 'b', 'i', 'n', '/', 'x', '\0'});
    EXPECT_FALSE(poll());
    EXPECT_FALSE(poll(MemoryWatch::kSettles));
    EXPECT_EQ(report().outcome, Outcome::clean);
}

TEST_F(WatchedMemory, that_was_looked_at_too_seldom_says_so) {
    EXPECT_FALSE(poll());
    EXPECT_FALSE(poll(500ms));
    EXPECT_EQ(watch_->late(), 490ms);
    EXPECT_EQ(watch_->longest_pause(), 500ms);
    EXPECT_EQ(report().outcome, Outcome::clean);
    EXPECT_EQ(watch_->late(), 0ms) << "of each report by itself";
}

TEST_F(WatchedMemory, that_cannot_be_read_is_not_clean) {
    fake_.is_hole = [](GuestPhys) { return true; };
    EXPECT_FALSE(poll());
    EXPECT_EQ(report().outcome, Outcome::unavailable);
    fake_.is_hole = [&](GuestPhys at) {
        return (at.value & kPageMask) == (fake_.phys(table_).value & kPageMask);
    };
    EXPECT_FALSE(poll());
    EXPECT_FALSE(report().coverage.gaps.empty());
}

class WatchedHooks : public WatchedMemory {
  protected:
    WatchedHooks() : WatchedMemory(/*has_security_hooks=*/true) {}
};

TEST_F(WatchedHooks, are_watched_one_by_one) {
    EXPECT_FALSE(poll());
    EXPECT_EQ(report().outcome, Outcome::clean);
    fake_.write(hook_ + 24, evil_);
    EXPECT_TRUE(poll());
    EXPECT_EQ(report().findings.size(), 1u);
}

// What a list that has no end leads to is not watched, and who made it so may have a reason.
TEST_F(WatchedHooks, in_a_list_without_an_end_are_not_clean) {
    fake_.write(hook_, hook_);
    watch_ = std::make_unique<MemoryWatch>(guest_.get(), &fake_, now_);
    watch_->begin(now_);
    EXPECT_FALSE(poll());
    const auto unknown = report();
    EXPECT_EQ(unknown.outcome, Outcome::unavailable);
    EXPECT_NE(unknown.reason.find("security_hook_heads"), std::string::npos) << unknown.reason;
}

// A guest may change as much of it as it likes.
TEST_F(WatchedMemory, more_changes_than_are_told_are_counted) {
    for (unsigned round = 1; round < 10; ++round) {
        for (unsigned i = 0; i < kCalls; ++i) fake_.write(table_ + 8 * i, evil_ + round);
        poll();
    }
    const auto found = report();
    EXPECT_EQ(found.findings.size(), 64u);
    ASSERT_FALSE(found.coverage.gaps.empty());
    EXPECT_NE(found.coverage.gaps.back().find("more changes than are told"), std::string::npos);
}

}  // namespace
}  // namespace underseer::detect
