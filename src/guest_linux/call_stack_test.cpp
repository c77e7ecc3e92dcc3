#include "guest_linux/call_stack.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "guest_linux/fake_guest.h"

namespace underseer::guest_linux {
namespace {

constexpr GuestVirt kStack{0xffffc90000010000}, kCode{0xffffffff81000000};
constexpr std::uint64_t kCodeBytes = 0x100000;

OrcEntry call_at(std::int16_t sp_offset) {
    return {.type = OrcType::call, .sp_register = OrcRegister::sp, .sp_offset = sp_offset};
}

// Words of a stack, and what the kernel's tables say of code.
struct FakeStack {
    StackCopy copy{.begin = kStack, .bytes = std::vector<std::byte>(0x400)};
    std::map<std::uint64_t, OrcEntry> entries;  // by the address that is asked for
    UnwindBy by{.is_code = [](GuestVirt at) { return at >= kCode && at - kCode < kCodeBytes; },
                .find = [this](GuestVirt code) -> Result<OrcEntry> {
                    const auto found = entries.find(code.value);
                    if (found == entries.end()) return fail(Code::unavailable, "no entry");
                    return found->second;
                }};

    void put(std::uint64_t offset, std::uint64_t word) {
        std::memcpy(copy.bytes.data() + offset, &word, sizeof word);
    }
    CallStack walk(GuestVirt code, std::uint64_t bp = 0) {
        return walk_stack(copy, {.code = code, .sp = kStack.value, .bp = bp}, by);
    }
    void put_user_registers(std::uint64_t padding, std::uint64_t call, std::uint64_t cs = 0x33) {
        const std::uint64_t at = copy.bytes.size() - padding - 168;
        const auto word = [&](unsigned index, std::uint64_t value) { put(at + 8 * index, value); };
        word(4, 0xb9), word(5, 0xb1), word(7, 4), word(8, 6), word(9, 5), word(11, 0xc2);
        word(12, 3), word(13, 2), word(14, 1), word(15, call), word(16, 0x401234), word(17, cs);
        word(18, 0x246), word(19, 0x7ffd0000), word(20, 0x2b);
    }
};

std::vector<std::uint64_t> codes(const CallStack& stack) {
    std::vector<std::uint64_t> all;
    for (const auto& frame : stack.frames) all.push_back(frame.code - kCode);
    return all;
}

TEST(CallStack, goes_from_caller_to_caller_to_the_registers_of_user_space) {
    FakeStack fake;
    fake.entries[kCode.value + 0x10f] = call_at(0x20);
    fake.put(0x18, kCode.value + 0x210);
    // Its stack hangs on the frame pointer, which it has saved.
    fake.entries[kCode.value + 0x20f] = {.type = OrcType::call,
                                         .sp_register = OrcRegister::bp,
                                         .bp_register = OrcRegister::prev_sp,
                                         .sp_offset = 16,
                                         .bp_offset = -16};
    fake.put(0x40, 0x1234);
    fake.put(0x48, kCode.value + 0x310);
    const std::uint64_t registers = 0x400 - 168;
    fake.entries[kCode.value + 0x30f] = {.type = OrcType::registers,
                                         .sp_register = OrcRegister::sp,
                                         .sp_offset = static_cast<std::int16_t>(registers - 0x50)};
    fake.put_user_registers(0, 7);
    const CallStack stack = fake.walk(kCode + 0x110, kStack.value + 0x40);
    EXPECT_EQ(stack.ended, "");
    EXPECT_EQ(codes(stack), (std::vector<std::uint64_t>{0x110, 0x210, 0x310}));
    ASSERT_TRUE(stack.user_registers);
    EXPECT_EQ(stack.user_registers->value, kStack.value + registers);
}

TEST(CallStack, ends_where_a_kernel_thread_begins) {
    FakeStack fake;
    fake.entries[kCode.value + 0x10f] = call_at(0x10);
    fake.put(0x8, kCode.value + 0x210);
    fake.entries[kCode.value + 0x20f] = {.type = OrcType::end_of_stack};
    const CallStack stack = fake.walk(kCode + 0x110);
    EXPECT_EQ(stack.ended, "");
    EXPECT_EQ(codes(stack), (std::vector<std::uint64_t>{0x110, 0x210}));
    EXPECT_FALSE(stack.user_registers);
}

// A fault in the kernel: what it returns to is looked up itself, not the instruction before.
TEST(CallStack, goes_on_behind_a_fault_in_the_kernel) {
    FakeStack fake;
    fake.entries[kCode.value + 0x10f] = {.type = OrcType::registers,
                                         .is_signal = true,
                                         .sp_register = OrcRegister::sp,
                                         .sp_offset = 0x20};
    const std::uint64_t at = 0x20;
    fake.put(at + 16 * 8, kCode.value + 0x500);
    fake.put(at + 17 * 8, 0x10);
    fake.put(at + 19 * 8, kStack.value + 0x200);
    fake.entries[kCode.value + 0x500] = {.type = OrcType::end_of_stack};
    const CallStack stack = fake.walk(kCode + 0x110);
    EXPECT_EQ(stack.ended, "");
    EXPECT_EQ(codes(stack), (std::vector<std::uint64_t>{0x110, 0x500}));
}

TEST(CallStack, says_why_it_ends_early_and_marks_what_it_guesses) {
    FakeStack fake;
    fake.put(0x100, kCode.value + 0x777);
    fake.put(0x108, 0x777);
    const CallStack stack = fake.walk(kCode + 0x110);
    EXPECT_EQ(stack.ended, "no entry");
    ASSERT_EQ(stack.frames.size(), 2u);
    EXPECT_FALSE(stack.frames[0].is_guess);
    EXPECT_EQ(stack.frames[1], (CallStack::Frame{kCode + 0x777, true}));
}

TEST(CallStack, does_not_believe_what_leads_off_the_stack_or_in_circles) {
    FakeStack fake;
    fake.entries[kCode.value + 0x10f] = call_at(0x7000);
    EXPECT_NE(fake.walk(kCode + 0x110).ended.find("not on the task's stack"), std::string::npos);
    // Its caller is itself, on the same stack.
    fake.entries[kCode.value + 0x10f] = call_at(0);
    EXPECT_NE(fake.walk(kCode + 0x110).ended, "");
    fake.entries[kCode.value + 0x10f] = call_at(8);
    for (std::uint64_t at = 0; at < 0x400; at += 8) fake.put(at, kCode.value + 0x110);
    const CallStack deep = fake.walk(kCode + 0x110);
    EXPECT_EQ(deep.frames.size(), limits::kMaxStackFrames);
    EXPECT_NE(deep.ended, "");
    // A register that there is not, and an address that is no code.
    fake.entries[kCode.value + 0x10f].sp_register = OrcRegister::unknown;
    EXPECT_NE(fake.walk(kCode + 0x110).ended.find("hangs on no register"), std::string::npos);
    EXPECT_NE(fake.walk(GuestVirt{0x1000}).ended.find("no code"), std::string::npos);
}

TEST(UserRegisters, are_at_the_top_of_the_stack_or_below_what_fred_keeps_free) {
    for (const std::uint64_t padding : {0u, 16u}) {
        FakeStack fake;
        fake.put_user_registers(padding, 7);
        const auto user = read_user_registers(fake.copy, false);
        ASSERT_TRUE(user) << padding;
        EXPECT_EQ(user->system_call, 7);
        EXPECT_EQ(user->arguments, (std::array<std::uint64_t, 6>{1, 2, 3, 4, 5, 6}));
        EXPECT_EQ(user->code.value, 0x401234u);
        EXPECT_EQ(user->sp.value, 0x7ffd0000u);
        EXPECT_FALSE(user->is_compat);
    }
}

TEST(UserRegisters, of_32_bit_programs_are_others) {
    FakeStack fake;
    fake.put_user_registers(0, 3, 0x23);
    const auto user = read_user_registers(fake.copy, false);
    ASSERT_TRUE(user);
    EXPECT_TRUE(user->is_compat);
    EXPECT_EQ(user->arguments, (std::array<std::uint64_t, 6>{0xb1, 0xc2, 3, 2, 1, 0xb9}));
    // int 0x80 of a 64-bit program: the kernel says so.
    fake.put_user_registers(0, 3);
    EXPECT_TRUE(read_user_registers(fake.copy, true)->is_compat);
}

TEST(UserRegisters, are_not_read_where_there_are_none) {
    FakeStack fake;
    EXPECT_FALSE(read_user_registers(fake.copy, false));
    fake.put_user_registers(8, 7);  // no kernel puts them there
    EXPECT_FALSE(read_user_registers(fake.copy, false));
    fake.copy.bytes.resize(100);
    EXPECT_FALSE(read_user_registers(fake.copy, false));
    // What interrupts a program is no system call.
    FakeStack other;
    other.put_user_registers(0, ~std::uint64_t{0});
    EXPECT_EQ(read_user_registers(other.copy, false)->system_call, -1);
}

// ---- the tables as kernels have them

struct OrcForm {
    const char* members;
    unsigned call, registers;  // numbers of their types
    unsigned sp, prev_sp;      // and of registers
};
constexpr std::string_view kFirst =
    "sp_offset:short@0 bp_offset:short@2 sp_reg:int@4/0/4 bp_reg:int@4/4/4 ";

class OrcForms : public testing::TestWithParam<OrcForm> {};
INSTANTIATE_TEST_SUITE_P(All, OrcForms,
                         testing::Values(OrcForm{"type:int@4/8/2 end:int@4/10/1", 0, 1, 5, 1},
                                         OrcForm{"type:int@4/8/2 signal:int@4/10/1 end:int@4/11/1",
                                                 0, 1, 5, 1},
                                         OrcForm{"type:int@4/8/3 signal:int@4/11/1", 2, 3, 5, 1},
                                         OrcForm{"type:int@4/8/3 signal:int@4/11/1", 2, 3, 3, 8}));

TEST_P(OrcForms, are_read_and_searched) {
    FakeGuest guest({});
    guest.define("orc_entry", 6, std::string(kFirst) + GetParam().members);
    const GuestVirt first = guest.add_function("first", "\x90"),
                    second = guest.add_function("second", "\x90"),
                    end = guest.add_function("_etext", "\x90");
    const GuestVirt ips = guest.allocate(12, 4), entries = guest.allocate(18, 4);
    const auto put = [&](unsigned index, GuestVirt code, std::uint16_t sp_offset,
                         std::uint16_t bits) {
        const GuestVirt at = ips + 4ull * index;
        guest.write(at, static_cast<std::int32_t>(code.value - at.value));
        guest.write(entries + 6ull * index, sp_offset);
        guest.write(entries + 6ull * index + 4, bits);
    };
    put(0, first, 8,
        static_cast<std::uint16_t>(GetParam().sp | GetParam().prev_sp << 4 | GetParam().call << 8));
    put(1, first + 4, 0xfff0,
        static_cast<std::uint16_t>(GetParam().sp | GetParam().registers << 8));
    put(2, second, 0, static_cast<std::uint16_t>(0));
    guest.add_symbol("__start_orc_unwind_ip", 'R', ips.value);
    guest.add_symbol("__stop_orc_unwind_ip", 'R', ips.value + 12);
    guest.add_symbol("__start_orc_unwind", 'R', entries.value);
    guest.add_symbol("__stop_orc_unwind", 'R', entries.value + 18);
    guest.finish();
    const auto kernel = Kernel::attach(&guest).value();
    auto tables = UnwindTables::of(kernel.get(), &kernel->memory()).value();
    EXPECT_TRUE(tables.is_code(first));
    EXPECT_FALSE(tables.is_code(end));
    const OrcEntry at_begin = tables.find(first + 3).value();
    EXPECT_EQ(at_begin.type, OrcType::call);
    EXPECT_EQ(at_begin.sp_offset, 8);
    EXPECT_EQ(at_begin.sp_register, OrcRegister::sp);
    EXPECT_EQ(at_begin.bp_register, OrcRegister::prev_sp);
    const OrcEntry behind = tables.find(first + 4).value();
    EXPECT_EQ(behind.type, OrcType::registers);
    EXPECT_EQ(behind.sp_offset, -16);
    EXPECT_EQ(tables.find(second).value().type, OrcType::undefined);
    EXPECT_FALSE(tables.find(first - 1).has_value());
    EXPECT_FALSE(tables.find(end).has_value());
    EXPECT_EQ(tables.place_of(first + 4).symbol, "first+0x4");
}

// What the kernel's own types say of its tables may be forged.
TEST(UnwindTables, are_not_believed_to_have_bits_where_no_entry_has) {
    FakeGuest guest({});
    guest.define("orc_entry", 6, std::string(kFirst) + "type:int@4/8/3 signal:int@4/11/200");
    guest.finish();
    const auto kernel = Kernel::attach(&guest).value();
    const std::vector<std::byte> some(60);
    const auto format = OrcFormat::of(*kernel, some);
    ASSERT_FALSE(format.has_value());
    EXPECT_NE(format.error().message.find("no part"), std::string::npos)
        << format.error().to_text();
}

TEST(UnwindTables, whose_registers_have_other_numbers_are_not_read) {
    FakeGuest guest({});
    guest.define("orc_entry", 6, std::string(kFirst) + "type:int@4/8/3 signal:int@4/11/1");
    guest.finish();
    const auto kernel = Kernel::attach(&guest).value();
    std::vector<std::byte> some(60);
    EXPECT_FALSE(OrcFormat::of(*kernel, some).has_value());
    some[4] = std::byte{0x15};
    EXPECT_TRUE(OrcFormat::of(*kernel, some).has_value());
    some[10] = std::byte{0x83};
    EXPECT_FALSE(OrcFormat::of(*kernel, some).has_value());
}

TEST(UnwindTables, without_tables_the_reason_is_said) {
    FakeGuest guest({});
    const GuestVirt code = guest.add_function("function", "\x90");
    guest.add_function("_etext", "\x90");
    guest.finish();
    const auto kernel = Kernel::attach(&guest).value();
    auto tables = UnwindTables::of(kernel.get(), &kernel->memory()).value();
    const auto found = tables.find(code);
    ASSERT_FALSE(found.has_value());
    EXPECT_NE(found.error().message.find("orc_entry"), std::string::npos)
        << found.error().to_text();
}

}  // namespace
}  // namespace underseer::guest_linux
