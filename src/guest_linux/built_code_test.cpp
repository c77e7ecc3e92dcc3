#include "guest_linux/built_code.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "guest_linux/fake_guest.h"

namespace underseer::guest_linux {
namespace {

using Kind = StartPatch::Kind;

constexpr std::uint64_t kLinked = 0xffffffff81000000;
constexpr std::string_view kFiveNothing("\x0f\x1f\x44\x00\x00", 5);
constexpr std::size_t kFunctionBytes = 512;

// A kernel that runs where KASLR has moved it, and the same as it was built. Places of a function
// are by their offset in it.
class BuiltKernelCode : public testing::Test {
  protected:
    BuiltKernelCode() {
        fake_.define("static_call_key", 16, "func:ptr@0");
        fake_.define("module", 64, "jump_entries:ptr@0 num_jump_entries:int@8");
        fake_.add_system();
        function_ = fake_.add_function("do_something", std::string(kFunctionBytes, '\x90'));
        other_ = fake_.add_function("do_something_else", "\xc3");
        fentry_ = fake_.add_function("__fentry__", "\xc3");
        thunk_ = fake_.add_function("__x86_indirect_thunk_r11", "\xc3");
        return_thunk_ = fake_.add_function("__x86_return_thunk", "\xc3");
        end_ = fake_.add_function("last_function", "\xc3");
        fake_.add_symbol("_etext", 'T', end_.value + 6000);
        pv_ops_ = fake_.allocate(64);
        fake_.write(pv_ops_, other_);
        code_.owners.assign(function_.value & kPageMask, end_.value + 8192,
                            {CodeOwner::Kind::kernel});
    }
    // All of it as it runs now is how it was built.
    void finish() {
        fake_.finish();
        kernel_ = Kernel::attach(&fake_).value();
        begin_ = kernel_->symbol("_text").value();
        slide_ = begin_.value - kLinked;
        built_.release = "6.4.0-fake";
        built_.begin = kLinked;
        built_.replacements_begin = kLinked + 0x2000000;
        built_.text.resize(kernel_->symbol("_etext").value() - begin_);
        for (std::size_t i = 0; i < built_.text.size(); ++i) {
            built_.text[i] = static_cast<char>(*fake_.host(begin_ + i));
        }
    }
    std::uint32_t place(std::size_t offset) const {
        return static_cast<std::uint32_t>(function_ + offset - begin_);
    }
    void was(std::size_t offset, std::string_view bytes) {
        built_.text.replace(place(offset), bytes.size(), bytes);
    }
    void is(std::size_t offset, std::string_view bytes) {
        std::memcpy(fake_.host(function_ + offset), bytes.data(), bytes.size());
    }
    // `opcode` and the distance to `to` from where it stands.
    static std::string branch(std::string opcode, GuestVirt at, GuestVirt to) {
        const auto distance = static_cast<std::int32_t>(to.value - at.value - opcode.size() - 4);
        return opcode.append(reinterpret_cast<const char*>(&distance), sizeof distance);
    }
    std::string branch_at(std::size_t offset, const std::string& opcode, GuestVirt to) const {
        return branch(opcode, function_ + offset, to);
    }
    void alternative(std::size_t offset, std::uint8_t size_bytes, std::string_view other) {
        built_.patches.push_back({Kind::alternative, place(offset), size_bytes,
                                  static_cast<std::uint32_t>(built_.replacements.size()),
                                  static_cast<std::uint8_t>(other.size())});
        built_.replacements += other;
    }
    GuestVirt linked(GuestVirt running) const { return running - slide_; }
    // Where the replacement that comes next is linked.
    GuestVirt next_replacement() const {
        return GuestVirt{built_.replacements_begin + built_.replacements.size()};
    }

    std::vector<std::size_t> altered() {
        kernel_->new_epoch();
        BuiltCode code(built_);
        const auto compared = code.compare(*kernel_, code_);
        EXPECT_TRUE(compared.has_value()) << compared.error().to_text();
        std::vector<std::size_t> places;
        if (!compared.has_value()) return places;
        for (const CodeAlteration& one : compared->altered) places.push_back(one.at - function_);
        return places;
    }
    using Places = std::vector<std::size_t>;

    FakeGuest fake_{{}};
    std::unique_ptr<Kernel> kernel_;
    CodeMap code_;
    BuiltKernel built_;
    GuestVirt begin_, function_, other_, fentry_, thunk_, return_thunk_, end_, pv_ops_;
    std::uint64_t slide_ = 0;
};

TEST_F(BuiltKernelCode, that_runs_as_it_was_built_is_as_it_should_be) {
    finish();
    EXPECT_NE(slide_, 0u);
    EXPECT_EQ(altered(), Places{});
}

TEST_F(BuiltKernelCode, that_was_altered_is_told_with_how_it_was_built) {
    finish();
    is(50, "\xcc\xcc");
    BuiltCode code(built_);
    const auto compared = code.compare(*kernel_, code_).value();
    ASSERT_EQ(compared.altered.size(), 1u);
    const CodeAlteration& one = compared.altered[0];
    EXPECT_EQ(one.place, "do_something+0x32");
    EXPECT_EQ(one.before.substr(one.at - one.shown_from, 2), "\x90\x90");
    EXPECT_EQ(one.after.substr(one.at - one.shown_from, 2), "\xcc\xcc");
}

TEST_F(BuiltKernelCode, is_looked_at_again_only_where_it_was_not_as_built) {
    finish();
    is(50, "\xcc");
    BuiltCode code(built_);
    EXPECT_EQ(code.compare(*kernel_, code_).value().altered.size(), 1u);
    kernel_->new_epoch();
    EXPECT_EQ(code.compare(*kernel_, code_).value().altered.size(), 1u) << "it is still so";
    is(50, "\x90");
    kernel_->new_epoch();
    EXPECT_TRUE(code.compare(*kernel_, code_).value().altered.empty()) << "it is as it was built";
    const auto reads = fake_.reads();
    kernel_->new_epoch();
    EXPECT_GT(code.compare(*kernel_, code_).value().pages, 0u);
    EXPECT_EQ(fake_.reads(), reads);
}

TEST_F(BuiltKernelCode, has_constants_that_are_moved_and_never_altered) {
    const GuestVirt table = fake_.allocate(256);
    fake_.write(table, function_), fake_.write(table + 8, other_);
    finish();
    std::string bytes(256, '\0');
    const auto put = [&](std::size_t at, std::uint64_t word) {
        std::memcpy(bytes.data() + at, &word, sizeof word);
    };
    put(0, linked(function_).value), put(8, linked(other_).value);
    built_.constants = {{linked(table).value, bytes}};
    EXPECT_EQ(altered(), Places{});
    EXPECT_TRUE(BuiltCode(built_).compare(*kernel_, code_).value().limits.empty());
    // A list that the kernel itself splits, and one that it does not.
    for (const auto& [list, is_told] : {std::pair{"!cmt,!mbmtotal,!mbmlocal,!l3cat", false},
                                        std::pair{"!cat,!mbmtotal,!mbmlocal,!l3cat", true}}) {
        const std::string_view text(list);
        built_.constants[0].bytes.replace(64, text.size(), text);
        std::memcpy(fake_.host(table + 64), text.data(), text.size());
        for (const std::size_t comma : {4u, 14u, 24u}) fake_.write(table + 64 + comma, '\0');
        EXPECT_EQ(!altered().empty(), is_told) << text;
        std::memcpy(fake_.host(table + 64), text.data(), text.size());
    }
    // Another function of the kernel's own: no address leads out of it.
    fake_.write(table + 8, function_);
    BuiltCode code(built_);
    const auto compared = code.compare(*kernel_, code_).value();
    ASSERT_EQ(compared.altered.size(), 1u);
    EXPECT_TRUE(compared.altered[0].is_constant);
    EXPECT_EQ(compared.altered[0].at.value & ~7ull, (table + 8).value);
}

TEST_F(BuiltKernelCode, without_constants_says_so_in_every_look) {
    finish();
    BuiltCode code(built_);
    for (int look = 0; look < 2; ++look) {
        kernel_->new_epoch();
        EXPECT_EQ(code.compare(*kernel_, code_).value().limits.texts.size(), 1u);
    }
}

TEST_F(BuiltKernelCode, that_cannot_be_read_is_compared_when_it_can) {
    finish();
    is(50, "\xcc");
    BuiltCode code(built_);
    fake_.is_hole = [&](GuestPhys at) {
        return at.value >> 12 == fake_.phys(function_ + 50).value >> 12;
    };
    kernel_->new_epoch();
    const auto blind = code.compare(*kernel_, code_).value();
    EXPECT_TRUE(blind.altered.empty());
    EXPECT_GE(blind.unreadable, 1u);
    fake_.is_hole = nullptr;
    kernel_->new_epoch();
    EXPECT_EQ(code.compare(*kernel_, code_).value().altered.size(), 1u);
}

TEST_F(BuiltKernelCode, of_another_kernel_is_none) {
    finish();
    built_.text.resize(16 << 20);
    BuiltCode code(built_);
    EXPECT_EQ(code.compare(*kernel_, code_).error().code, Code::invalid_argument);
    built_.text.resize(64);
    BuiltCode shorter(built_);
    EXPECT_EQ(shorter.compare(*kernel_, code_).error().code, Code::invalid_argument);
}

TEST_F(BuiltKernelCode, has_its_addresses_moved_by_as_much_as_it_is_itself) {
    finish();
    const auto mov = [](GuestVirt address) {  // mov $address, %rdi
        return std::string("\x48\xc7\xc7") +
               std::string(reinterpret_cast<const char*>(&address.value), 4);
    };
    was(20, mov(linked(other_)));
    is(20, mov(other_));
    EXPECT_EQ(altered(), Places{});
    is(20, mov(other_ + 1));
    EXPECT_EQ(altered(), Places{23});
}

TEST_F(BuiltKernelCode, may_have_any_of_its_alternatives_and_nothing_else) {
    finish();
    alternative(40, 7, "\x0f\x01\xcb");  // stac
    is(40, std::string("\x0f\x01\xcb\x0f\x1f\x40\x00", 7));
    EXPECT_EQ(altered(), Places{}) << "with something that does nothing behind it";
    is(40, std::string("\x0f\x1f\x80\x00\x00\x00\x00", 7));
    EXPECT_EQ(altered(), Places{}) << "as it was built, in one instruction that does nothing";
    is(40, "\x0f\x01\xca\x90\x90\x90\x90");  // clac
    EXPECT_EQ(altered(), (Places{40}));
    is(40, std::string("\x0f\x01\xcb\xcc\x90\x90\x90", 7));
    EXPECT_EQ(altered(), (Places{40})) << "a trap is not nothing";
}

TEST_F(BuiltKernelCode, has_calls_of_its_alternatives_where_they_lead) {
    finish();
    alternative(40, 5, branch("\xe8", next_replacement(), linked(other_)));
    is(40, branch_at(40, "\xe8", other_));
    EXPECT_EQ(altered(), Places{});
    is(40, branch_at(40, "\xe8", end_));
    EXPECT_EQ(altered(), Places{40});
}

TEST_F(BuiltKernelCode, may_jump_over_what_is_only_filled) {
    finish();
    alternative(40, 24, "\x0f\x01\xcb");
    is(40, "\x0f\x01\xcb\xeb\x13" + std::string(19, '\xcc'));
    EXPECT_EQ(altered(), Places{});
    is(40, "\x0f\x01\xcb\xeb\x13" + std::string(18, '\xcc') + "\xc3");
    EXPECT_EQ(altered(), (Places{40, 48, 56}));
}

TEST_F(BuiltKernelCode, calls_a_paravirtual_function_directly) {
    finish();
    was(80, branch("\xff\x15", linked(function_ + 80), linked(pv_ops_)));
    built_.patches.push_back({Kind::paravirt, place(80), 6});
    is(80, branch_at(80, "\xe8", other_) + "\x90");
    EXPECT_EQ(altered(), Places{});
    is(80, std::string("\xfa\x0f\x1f\x44\x00\x00", 6));  // cli
    EXPECT_EQ(altered(), Places{}) << "what it would do";
    is(80, branch_at(80, "\xe8", end_) + "\x90");
    EXPECT_EQ(altered(), Places{80});
}

TEST_F(BuiltKernelCode, calls_by_the_register_that_a_thunk_is_of) {
    finish();
    was(100, branch("\xe8", linked(function_ + 100), linked(thunk_)));
    built_.patches.push_back({Kind::indirect_call, place(100), 5});
    is(100, std::string("\x41\xff\xd3\x66\x90", 5));  // call *%r11
    EXPECT_EQ(altered(), Places{});
    is(100, std::string("\x41\xff\xd2\x66\x90", 5));  // call *%r10
    EXPECT_EQ(altered(), Places{100});
}

TEST_F(BuiltKernelCode, returns_without_a_thunk) {
    finish();
    was(120, branch("\xe9", linked(function_ + 120), linked(return_thunk_)));
    built_.patches.push_back({Kind::return_jump, place(120), 5});
    is(120, "\xc3\xcc\xcc\xcc\xcc");
    EXPECT_EQ(altered(), Places{});
    is(120, branch_at(120, "\xe9", end_ + 3));
    EXPECT_EQ(altered(), Places{121}) << "it jumps elsewhere";
}

TEST_F(BuiltKernelCode, may_lack_a_landing_where_nobody_lands) {
    finish();
    was(140, "\xf3\x0f\x1e\xfa");
    built_.patches.push_back({Kind::landing, place(140), 4});
    is(140, std::string("\x66\x0f\x1f\x00", 4));
    EXPECT_EQ(altered(), Places{});
    is(140, "\x90\x90\x90\xc3");
    EXPECT_EQ(altered(), Places{140});
}

TEST_F(BuiltKernelCode, has_one_value_at_all_places_of_a_constant) {
    finish();
    for (const std::size_t at : {160u, 180u, 200u}) {
        built_.patches.push_back({Kind::constant, place(at), 8, 3});
        is(at, std::string("\x00\xf0\xff\xff\xff\x7f\x00\x00", 8));
    }
    EXPECT_EQ(altered(), Places{});
    is(180, std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8));
    EXPECT_EQ(altered(), Places{180});
}

// What most places have is right, in each look: also where only the altered one is looked at again.
TEST_F(BuiltKernelCode, has_one_value_at_all_places_of_a_constant_in_every_look) {
    finish();
    for (const std::size_t at : {160u, 4500u, 4520u}) {
        built_.patches.push_back({Kind::constant, place(at), 8, 3});
        is(at, std::string("\x00\xf0\xff\xff\xff\x7f\x00\x00", 8));
    }
    is(160, std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8));
    BuiltCode code(built_);
    for (int look = 0; look < 4; ++look) {
        kernel_->new_epoch();
        const auto compared = code.compare(*kernel_, code_).value();
        ASSERT_EQ(compared.altered.size(), 1u) << look;
        EXPECT_EQ(compared.altered[0].at, function_ + 160);
    }
}

// Of a kernel that was seen, other shifts that are by as much are taken for the same constant.
TEST_F(BuiltKernelCode, that_was_seen_may_have_another_shift_beside_ones_that_stay) {
    finish();
    built_.is_seen = true;
    for (const std::size_t at : {160u, 164u, 4500u, 4504u, 4508u}) {
        built_.patches.push_back({Kind::constant, place(at), 1, 3});
        was(at, "\x0c"), is(at, "\x0c");
    }
    is(160, "\x0d"), is(164, "\x0d");
    EXPECT_EQ(altered(), Places{});
    is(4500, "\x0e");
    EXPECT_EQ(altered(), Places{4500});
}

TEST_F(BuiltKernelCode, calls_nobody_where_ftrace_might) {
    finish();
    was(220, branch("\xe8", linked(function_ + 220), linked(fentry_)));
    is(220, kFiveNothing);
    EXPECT_EQ(altered(), Places{}) << "also where no function begins";
    is(220, std::string(5, '\xcc'));
    EXPECT_EQ(altered(), Places{220});
    was(240, branch("\xe8", linked(function_ + 240), linked(other_)));
    is(220, kFiveNothing), is(240, kFiveNothing);
    EXPECT_EQ(altered(), Places{240}) << "a call of something else";
}

// Where calls are counted, they go to what stands before a function.
class CountedCalls : public BuiltKernelCode {
  protected:
    static constexpr std::string_view kCounter{"\x65\x48\xc1\x2c\x25\x00\x10\x00\x00\x05", 10};

    CountedCalls() {
        counter_ = fake_.add_function("skl_call_thunk_template", kCounter);
        fake_.add_symbol("skl_call_thunk_tail", 'T', counter_.value + kCounter.size());
        finish();
    }
    GuestVirt counter_;
};

TEST_F(CountedCalls, go_to_what_counts_them_in_the_padding) {
    is(60, kCounter);
    EXPECT_EQ(altered(), Places{});
    was(100, branch("\xe8", linked(function_ + 100), linked(function_ + 70)));
    is(100, branch_at(100, "\xe8", function_ + 60));
    EXPECT_EQ(altered(), Places{});
    is(100, branch_at(100, "\xe8", function_ + 61));
    EXPECT_EQ(altered(), Places{101});
}

TEST_F(CountedCalls, are_counted_by_nothing_else) {
    std::string other(kCounter);
    other[9] = '\x06';
    is(60, other);
    EXPECT_EQ(altered(), (Places{60, 68}));
}

}  // namespace
}  // namespace underseer::guest_linux
