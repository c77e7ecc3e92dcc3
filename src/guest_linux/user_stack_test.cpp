#include "guest_linux/user_stack.h"

#include <gtest/gtest.h>

#include <map>

#include "base/limits.h"

namespace underseer::guest_linux {
namespace {

constexpr std::uint64_t kProgram = 0x401000, kUserStack = 0x7ffd0000;

UnwindRow usual_row(std::uint64_t cfa_offset) {
    UnwindRow row;
    row.cfa_register = kDwarfRsp;
    row.cfa_offset = cfa_offset;
    row.registers[kDwarfRip] = {RegisterRule::Kind::at_offset, -8};
    return row;
}

struct FakeThread {
    std::map<std::uint64_t, UnwindRow> rows;  // by the address that is asked for
    std::map<std::uint64_t, std::uint64_t> words;
    UserRegisters registers;
    UnwindUserBy by{
        .is_code =
            [](GuestVirt at) { return at.value >= kProgram && at.value < kProgram + 0x10000; },
        .find = [this](GuestVirt at) -> Result<const UnwindRow*> {
            const auto found = rows.find(at.value);
            if (found == rows.end()) return fail(Code::not_found, "no row");
            return &found->second;
        },
        .word = [this](GuestVirt at) -> Result<std::uint64_t> {
            const auto found = words.find(at.value);
            if (found == words.end()) return fail(Code::unavailable, "the stack is not in memory");
            return found->second;
        }};

    FakeThread() {
        registers.code = GuestVirt{kProgram};
        registers.registers.fill(0);
        registers.registers[kDwarfRsp] = kUserStack;
    }
    UserStack walk() { return walk_user_stack(registers, by); }
};

std::vector<std::uint64_t> codes_of(const UserStack& stack) {
    std::vector<std::uint64_t> codes;
    for (const UserFrame& frame : stack.frames) codes.push_back(frame.code.value - kProgram);
    return codes;
}

TEST(UserStack, goes_from_caller_to_caller_until_nobody_has_called) {
    FakeThread thread;
    thread.rows[kProgram] = usual_row(0x10);
    thread.words[kUserStack + 8] = kProgram + 0x100;
    thread.rows[kProgram + 0xff] = usual_row(0x20);
    thread.words[kUserStack + 0x28] = kProgram + 0x200;
    thread.rows[kProgram + 0x1ff] = usual_row(8);
    thread.rows[kProgram + 0x1ff].registers[kDwarfRip].kind = RegisterRule::Kind::undefined;
    const UserStack stack = thread.walk();
    EXPECT_EQ(stack.ended, "");
    EXPECT_EQ(codes_of(stack), (std::vector<std::uint64_t>{0, 0x100, 0x200}));
    EXPECT_FALSE(stack.frames[0].is_caller);
    EXPECT_TRUE(stack.frames[1].is_caller);
    // One that returns to 0 has been called by nobody either.
    thread.rows[kProgram + 0x1ff] = usual_row(8);
    thread.words[kUserStack + 0x30] = 0;
    EXPECT_EQ(thread.walk().ended, "");
}

// vfork() takes what it returns to off the stack, as its child would overwrite that.
TEST(UserStack, goes_on_where_the_first_function_has_nothing_on_it) {
    FakeThread thread;
    thread.rows[kProgram] = usual_row(0);
    thread.rows[kProgram].registers[kDwarfRip] = {RegisterRule::Kind::of_register, 5};
    thread.registers.registers[5] = kProgram + 0x100;
    thread.rows[kProgram + 0xff] = usual_row(0);
    thread.rows[kProgram + 0xff].registers[kDwarfRip] = {RegisterRule::Kind::of_register, 3};
    thread.registers.registers[3] = kProgram + 0x200;
    const UserStack stack = thread.walk();
    EXPECT_EQ(codes_of(stack), (std::vector<std::uint64_t>{0, 0x100}));
    EXPECT_NE(stack.ended.find("goes back"), std::string::npos) << stack.ended;
}

// What a signal has interrupted is looked up itself, and may be on another stack.
TEST(UserStack, goes_on_behind_a_signal) {
    FakeThread thread;
    thread.rows[kProgram] = usual_row(0x10);
    thread.rows[kProgram].is_signal = true;
    thread.rows[kProgram].registers[kDwarfRsp] = {RegisterRule::Kind::is_offset, -0x8000};
    thread.words[kUserStack + 8] = kProgram + 0x100;
    const UserStack stack = thread.walk();
    ASSERT_EQ(codes_of(stack), (std::vector<std::uint64_t>{0, 0x100}));
    EXPECT_FALSE(stack.frames[1].is_caller);
    EXPECT_NE(stack.ended.find("no row"), std::string::npos) << stack.ended;
}

TEST(UserStack, follows_frame_pointers_where_nothing_else_is_known_and_says_so) {
    FakeThread thread;
    thread.registers.registers[kDwarfRbp] = kUserStack + 0x20;
    thread.words = {{kUserStack + 0x20, kUserStack + 0x40},
                    {kUserStack + 0x28, kProgram + 0x100},
                    {kUserStack + 0x40, 7},
                    {kUserStack + 0x48, kProgram + 0x200}};
    const UserStack stack = thread.walk();
    EXPECT_EQ(stack.frames, (std::vector<UserFrame>{{GuestVirt{kProgram}, false, false},
                                                    {GuestVirt{kProgram + 0x100}, true, true},
                                                    {GuestVirt{kProgram + 0x200}, true, true}}));
    EXPECT_NE(stack.ended.find("no frame pointer"), std::string::npos) << stack.ended;
    // A caller whose stack hangs on a register that frame pointers do not tell.
    thread.rows[kProgram + 0xff] = usual_row(8);
    thread.rows[kProgram + 0xff].cfa_register = 3;
    EXPECT_NE(thread.walk().ended.find("register 3"), std::string::npos);
}

TEST(UserStack, does_not_take_what_rbp_happens_to_be_for_a_frame_pointer) {
    FakeThread thread;
    const auto frames = [&](std::uint64_t rbp, std::uint64_t saved_at, std::uint64_t code) {
        thread.registers.registers[kDwarfRbp] = rbp;
        thread.words = {{saved_at, kUserStack + 0x40}, {saved_at + 8, code}};
        return thread.walk().frames.size();
    };
    EXPECT_EQ(frames(kUserStack + 0x20, kUserStack + 0x20, kProgram + 0x100), 2u);
    EXPECT_EQ(frames(kUserStack + 0x20, kUserStack + 0x20, 0x100), 1u);  // no code
    EXPECT_EQ(frames(kUserStack - 0x20, kUserStack - 0x20, kProgram + 0x100),
              1u);  // below the stack
    EXPECT_EQ(frames(kUserStack + 0x21, kUserStack + 0x21, kProgram + 0x100),
              1u);  // no word's place
    EXPECT_EQ(frames(kUserStack + 0x20, kUserStack + 0x30, kProgram + 0x100), 1u);  // not in memory
    EXPECT_EQ(frames(kUserStack + (1u << 30), kUserStack + (1u << 30), kProgram + 0x100),
              1u);  // far away
    thread.registers.registers[kDwarfRbp].reset();
    EXPECT_EQ(thread.walk().frames.size(), 1u);
}

TEST(UserStack, ends_with_the_reason) {
    FakeThread thread;
    thread.rows[kProgram] = usual_row(0x10);
    EXPECT_EQ(thread.walk().ended, "the stack is not in memory");
    thread.words[kUserStack + 8] = 0x123;
    EXPECT_NE(thread.walk().ended.find("0x123, which 0x401000 would return to, is no code"),
              std::string::npos);
    // A stack that goes back, and one without an end.
    thread.rows[kProgram] = usual_row(0);
    thread.rows[kProgram].cfa_offset -= 8;
    thread.words[kUserStack - 16] = kProgram;
    EXPECT_NE(thread.walk().ended.find("goes back"), std::string::npos);
    thread.rows[kProgram] = thread.rows[kProgram - 1] = usual_row(8);
    for (std::uint64_t at = kUserStack; at < kUserStack + 0x4000; at += 8)
        thread.words[at] = kProgram;
    const UserStack deep = thread.walk();
    EXPECT_EQ(deep.frames.size(), limits::kMaxUserStackFrames);
    EXPECT_NE(deep.ended.find("more than"), std::string::npos) << deep.ended;
    // What cannot be read is not what is not there: no frame pointer takes its place.
    thread.by.find = [](GuestVirt) -> Result<const UnwindRow*> {
        return fail(Code::unavailable, "/bin/x is not in memory");
    };
    thread.registers.registers[kDwarfRbp] = kUserStack + 0x20;
    EXPECT_EQ(thread.walk().ended, "/bin/x is not in memory");
}

TEST(UserStack, of_32_bit_programs_is_not_followed) {
    FakeThread thread;
    thread.registers.is_32_bit = true;
    EXPECT_EQ(codes_of(thread.walk()), (std::vector<std::uint64_t>{0}));
    EXPECT_NE(thread.walk().ended.find("a 32-bit program"), std::string::npos);
}

}  // namespace
}  // namespace underseer::guest_linux
