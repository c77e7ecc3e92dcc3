#include "guest_linux/dispatch.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "guest_linux/disassembly.h"
#include "guest_linux/fake_guest.h"

namespace underseer::guest_linux {
namespace {

constexpr char kReturn = '\xc3', kJumpByte = '\xe9';

// A kernel with two system calls, a table and a switch that lead to them, and an interrupt.
class Dispatch : public testing::Test {
  protected:
    Dispatch() {
        guest_.add_system();
        read_ = guest_.add_function("__x64_sys_read", std::string(1, kReturn));
        kill_ = guest_.add_function("__x64_sys_kill", std::string(1, kReturn));
        evil_ = guest_.add_function("quite_something_else", std::string(1, kReturn));
        // push %rbp; two jumps; ret
        switch_ = guest_.add_function("x64_sys_call", std::string(1024, '\x90'));
        guest_.write(switch_, '\x55');
        jump(1, read_);
        jump(6, kill_);
        guest_.write(switch_ + 11, kReturn);
        table_ = guest_.allocate(63 * 8);
        guest_.add_symbol("sys_call_table", 'R', table_.value);
        guest_.add_symbol("fake_end_of_table", 'R', table_.value + 63 * 8);
        for (unsigned i = 0; i < 63; ++i) guest_.write(table_ + 8 * i, nothing());
        guest_.write(table_, read_);
        guest_.write(table_ + 8 * 62, kill_);
        gates_ = guest_.allocate(256 * 16);
        guest_.add_symbol("idt_table", 'R', gates_.value);
        guest_.add_symbol("_etext", 'T', evil_.value + 4096);
        gate(3, read_);
        guest_.finish();
        kernel_ = Kernel::attach(&guest_).value();
    }

    GuestVirt nothing() {
        if (!nothing_) nothing_ = guest_.add_function("__x64_sys_ni_syscall", "\xc3");
        return nothing_;
    }
    void jump(std::uint64_t offset, GuestVirt target) {
        guest_.write(switch_ + offset, kJumpByte);
        guest_.write(switch_ + offset + 1,
                     static_cast<std::int32_t>(target.value - (switch_.value + offset + 5)));
    }
    void gate(unsigned number, GuestVirt target) {
        const std::uint64_t at = target.value;
        guest_.write(gates_ + 16ull * number,
                     (at & 0xffff) | 0x8e0000100000ull | (at & 0xffff0000) << 32);
        guest_.write(gates_ + 16ull * number + 8, at >> 32);
    }
    std::vector<Misdirection> misdirected_calls() {
        kernel_->new_epoch();
        const DispatchReport report = inspect_syscalls(*kernel_);
        EXPECT_TRUE(report.gaps.empty()) << report.gaps.texts.front();
        EXPECT_EQ(report.gates, 65u);  // of the table 63, of the switch two
        return report.misdirected;
    }

    FakeGuest guest_{{}};
    std::unique_ptr<Kernel> kernel_;
    GuestVirt read_, kill_, evil_, switch_, table_, gates_, nothing_;
};

TEST_F(Dispatch, of_a_kernel_as_it_was_built_is_all_right) {
    EXPECT_TRUE(misdirected_calls().empty());
    EXPECT_TRUE(inspect_interrupts(*kernel_).misdirected.empty());
}

TEST_F(Dispatch, another_function_in_the_table_is_named_with_its_call) {
    guest_.write(table_ + 8 * 62, evil_);
    const auto found = misdirected_calls();
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].gate, "kill (sys_call_table[62])");
    EXPECT_EQ(found[0].expected, "__x64_sys_kill");
    EXPECT_EQ(found[0].target, evil_);
}

// Both are system calls: only the number tells.
TEST_F(Dispatch, exchanged_entries_of_the_table_are_found) {
    guest_.write(table_ + 8 * 62, read_);
    ASSERT_EQ(misdirected_calls().size(), 1u);
}

// Its compiler puts no call at the begin of this one: a jump there stands for it.
TEST_F(Dispatch, of_a_call_of_ftrace_at_the_begin_of_the_switch_is_said_where_it_is) {
    jump(0, evil_);
    const auto report = inspect_syscalls(*kernel_);
    ASSERT_FALSE(report.misdirected.empty());
    EXPECT_EQ(report.misdirected[0].gate, "x64_sys_call+0x0");
    EXPECT_TRUE(report.misdirected[0].is_trace_site);
}

TEST_F(Dispatch, a_jump_of_the_switch_that_leads_elsewhere_is_found) {
    jump(6, evil_);
    const auto found = misdirected_calls();
    ASSERT_EQ(found.size(), 1u);
    EXPECT_FALSE(found[0].is_trace_site);
    EXPECT_EQ(found[0].gate, "x64_sys_call+0x6");
    EXPECT_EQ(found[0].record, switch_ + 6);
    EXPECT_EQ(found[0].target, evil_);
}

TEST_F(Dispatch, a_switch_that_is_no_code_is_a_gap) {
    guest_.write(switch_ + 12, '\x06');  // no instruction in 64-bit mode
    kernel_->new_epoch();
    const DispatchReport report = inspect_syscalls(*kernel_);
    ASSERT_EQ(report.gaps.texts.size(), 1u);
    EXPECT_NE(report.gaps.texts[0].find("x64_sys_call: "), std::string::npos);
}

TEST_F(Dispatch, what_cannot_be_read_is_a_gap) {
    const GuestPhys page = guest_.phys(table_);
    guest_.is_hole = [&](GuestPhys at) { return at.value >> 12 == page.value >> 12; };
    kernel_->new_epoch();
    EXPECT_FALSE(inspect_syscalls(*kernel_).gaps.empty());
}

TEST_F(Dispatch, a_gate_outside_of_the_kernels_code_is_found) {
    gate(0x81, gates_);
    kernel_->new_epoch();
    const DispatchReport report = inspect_interrupts(*kernel_);
    ASSERT_EQ(report.misdirected.size(), 1u);
    EXPECT_EQ(report.misdirected[0].gate, "interrupt 0x81");
    EXPECT_EQ(report.misdirected[0].target, gates_);
}

TEST(Disassembler, tells_where_calls_and_jumps_go) {
    Disassembler disassembler;
    const std::string code = "\xe8\x0b\x10\x20\x30\x90\xeb\xfe";  // call; nop; jmp to itself
    std::vector<GuestVirt> targets;
    const auto decoded =
        disassembler.decode(as_bytes(code), GuestVirt{0x1000}, [&](const Instruction& one) {
            if (one.target) targets.push_back(*one.target);
            return true;
        });
    EXPECT_EQ(decoded, code.size());
    EXPECT_EQ(targets, (std::vector{GuestVirt{0x30202010}, GuestVirt{0x1006}}));
    EXPECT_EQ(disassembler.text(as_bytes(code), GuestVirt{0x1000}, 2), "call 0x30202010; nop");
}

TEST(Disassembler, stops_at_what_is_no_instruction) {
    Disassembler disassembler;
    const std::string code = "\x90\x06\x90";
    EXPECT_EQ(
        disassembler.decode(as_bytes(code), GuestVirt{0}, [](const Instruction&) { return true; }),
        1u);
    EXPECT_EQ(disassembler.text(as_bytes(code).subspan(1), GuestVirt{0}, 4), "no instruction");
}

}  // namespace
}  // namespace underseer::guest_linux
