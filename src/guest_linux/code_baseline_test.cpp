#include "guest_linux/code_baseline.h"

#include <gtest/gtest.h>

#include <string>

#include "guest_linux/code_integrity.h"
#include "guest_linux/fake_guest.h"

namespace underseer::guest_linux {
namespace {

constexpr std::string_view kNop5("\x0f\x1f\x44\x00\x00", 5);

// A kernel with a function, a jump label and a static call in it, and code of ftrace outside.
class KernelCodeBytes : public testing::Test {
  protected:
    KernelCodeBytes() {
        fake_.define("static_call_key", 16, "func:ptr@0");
        fake_.define("module", 64,
                     "jump_entries:ptr@0 num_jump_entries:int@8 ftrace_callsites:ptr@16 "
                     "num_ftrace_callsites:int@24 static_call_sites:ptr@32 "
                     "num_static_call_sites:int@40");
        fake_.define("vdso_image", 16, "data:ptr@0 size:long@8");
        fake_.define("kprobe", 64,
                     "hlist:ptr@0 addr:ptr@16 pre_handler:ptr@24 post_handler:ptr@32 list:ptr@40");
        fake_.add_system();
        function_ =
            fake_.add_function("do_something", std::string(kNop5) + std::string(100, '\x90'));
        other_ = fake_.add_function("do_something_else", "\xc3");
        for (const char* name : {"ftrace_caller", "ftrace_regs_caller", "ftrace_graph_caller"}) {
            ftraces_entries_.push_back(fake_.add_function(name, "\xc3"));
        }
        end_ = fake_.add_function("last_function", "\xc3");
        fake_.add_symbol("_etext", 'T', end_.value + 6000);
        label_ = function_ + 16, call_ = function_ + 32;
        const GuestVirt labels = fake_.allocate(16), calls = fake_.allocate(8),
                        key = fake_.allocate(16);
        fake_.write(key, other_);
        fake_.write(labels, distance(labels, label_));
        fake_.write(labels + 4, distance(labels + 4, other_));
        fake_.write(calls, distance(calls, call_));
        fake_.write(calls + 4, distance(calls + 4, key));
        table("jump_table", labels, 16);
        table("static_call_sites", calls, 8);
        outside_ = fake_.allocate(64);
        probe_slots_ = fake_.allocate(64);
        probe_ = fake_.allocate(64);
        const GuestVirt probes = fake_.allocate(64 * 8);
        fake_.add_symbol("kprobe_table", 'd', probes.value);
        fake_.write(probes, probe_);
        fake_.write(probe_ + 16, function_ + 60), fake_.write(probe_ + 24, other_);
        module_ = fake_.allocate(64);
        module_code_ = fake_.allocate(2 * kPageSize, kPageSize);
        const GuestVirt module_labels = fake_.allocate(16), module_entries = fake_.allocate(8);
        fake_.write(module_labels, distance(module_labels, module_code_ + 16));
        fake_.write(module_labels + 4, distance(module_labels + 4, module_code_ + 64));
        fake_.write(module_entries, module_code_ + 128);
        fake_.write(module_, module_labels), fake_.write(module_ + 8, 1);
        fake_.write(module_ + 16, module_entries), fake_.write(module_ + 24, 1);
        code_.modules = {{module_, "a_driver", module_code_, 2 * kPageSize, 7, true}};
        const GuestVirt image = fake_.allocate(16);
        vdso_ = fake_.allocate(kPageSize, kPageSize);
        fake_.write(image, vdso_), fake_.write(image + 8, std::uint64_t{kPageSize});
        fake_.add_symbol("vdso_image_64", 'R', image.value);
        code_.owners.assign(function_.value & kPageMask, end_.value + 8192,
                            {CodeOwner::Kind::kernel});
        code_.owners.assign(outside_.value, outside_.value + 64, {CodeOwner::Kind::ftrace});
        code_.owners.assign(probe_slots_.value, probe_slots_.value + 64,
                            {CodeOwner::Kind::kprobes});
        fake_.finish();
        kernel_ = Kernel::attach(&fake_).value();
        EXPECT_TRUE(altered().empty()) << "the first look";
    }

    void table(const std::string& name, GuestVirt at, std::uint64_t bytes) {
        fake_.add_symbol("__start_" + (name[0] == 'j' ? "__" + name : name), 'R', at.value);
        fake_.add_symbol("__stop_" + (name[0] == 'j' ? "__" + name : name), 'R', at.value + bytes);
    }
    static std::int32_t distance(GuestVirt from, GuestVirt to) {
        return static_cast<std::int32_t>(to.value - from.value);
    }
    void put(GuestVirt at, std::string_view bytes) {
        for (std::size_t i = 0; i < bytes.size(); ++i) fake_.write(at + i, bytes[i]);
    }
    void branch(char opcode, GuestVirt at, GuestVirt to) {
        fake_.write(at, opcode);
        fake_.write(at + 1, distance(at + 5, to));
    }
    Result<CodeComparison> compare(CodeBaseline& baseline) {
        return baseline.compare(*kernel_, code_, TRY(hash_text(*kernel_)));
    }
    std::vector<GuestVirt> altered() {
        kernel_->new_epoch();
        const auto compared = compare(baseline_);
        EXPECT_TRUE(compared.has_value()) << compared.error().to_text();
        std::vector<GuestVirt> places;
        if (!compared.has_value()) return places;
        for (const CodeAlteration& one : compared->altered) places.push_back(one.at);
        return places;
    }

    FakeGuest fake_{{}};
    std::unique_ptr<Kernel> kernel_;
    CodeMap code_;
    CodeBaseline baseline_;
    GuestVirt function_, other_, end_, label_, call_, outside_, module_, module_code_, vdso_,
        probe_slots_, probe_;
    std::vector<GuestVirt> ftraces_entries_;
};

TEST_F(KernelCodeBytes, that_stay_as_they_are_are_no_alteration) {
    EXPECT_TRUE(altered().empty());
}

TEST_F(KernelCodeBytes, that_change_are_told_with_what_they_were) {
    put(function_ + 50, "\x91");
    kernel_->new_epoch();
    const auto compared = compare(baseline_).value();
    ASSERT_EQ(compared.altered.size(), 1u);
    const CodeAlteration& one = compared.altered[0];
    EXPECT_EQ(one.at, function_ + 50);
    EXPECT_EQ(one.before[one.at - one.shown_from], '\x90');
    EXPECT_EQ(one.after[one.at - one.shown_from], '\x91');
    put(function_ + 50, "\x90");
    EXPECT_TRUE(altered().empty()) << "it is as it was";
}

TEST_F(KernelCodeBytes, of_a_jump_label_may_jump_to_its_target_only) {
    branch('\xe9', label_, other_);
    EXPECT_TRUE(altered().empty());
    put(label_, kNop5);
    EXPECT_TRUE(altered().empty());
    put(label_, "\xcc");
    EXPECT_TRUE(altered().empty()) << "it is being written";
    branch('\xe9', label_, end_);
    EXPECT_EQ(altered(), std::vector{label_});
}

TEST_F(KernelCodeBytes, of_a_static_call_may_call_its_function_only) {
    branch('\xe8', call_, other_);
    EXPECT_TRUE(altered().empty());
    branch('\xe8', call_, end_);
    EXPECT_EQ(altered(), std::vector{call_});
}

TEST_F(KernelCodeBytes, may_call_ftrace_where_a_function_begins) {
    branch('\xe8', function_, outside_);
    EXPECT_TRUE(altered().empty());
    branch('\xe8', function_, end_);
    EXPECT_EQ(altered(), std::vector{function_});
}

// A jump takes the place of a probe's breakpoint while that stands there; on a busy host the CPU
// that writes it may stand still in the middle.
TEST_F(KernelCodeBytes, may_be_a_probe_whose_jump_is_being_written) {
    put(function_ + 60, "\xcc");
    EXPECT_TRUE(altered().empty()) << "a breakpoint";
    branch('\xe9', function_ + 60, probe_slots_);
    EXPECT_TRUE(altered().empty()) << "the jump";
    put(function_ + 60, "\xcc");
    EXPECT_TRUE(altered().empty()) << "both";
    branch('\xe9', function_ + 60, other_);
    put(function_ + 60, "\xcc");
    EXPECT_EQ(altered(), std::vector{function_ + 61}) << "a jump that leads elsewhere";
    branch('\xe9', function_ + 40, probe_slots_);
    put(function_ + 40, "\xcc");
    EXPECT_EQ(altered().front(), function_ + 40) << "where there is no probe";
}

// Functions that were built in vain have no name, and ftrace has a record of them all the same.
TEST_F(KernelCodeBytes, may_call_ftraces_own_entry_anywhere) {
    for (const GuestVirt entry : ftraces_entries_) {
        branch('\xe8', function_ + 60, entry);
        EXPECT_TRUE(altered().empty());
    }
    branch('\xe9', function_ + 60, ftraces_entries_.front());
    EXPECT_EQ(altered(), std::vector{function_ + 60});
}

TEST_F(KernelCodeBytes, that_are_nothing_are_so_only_where_a_function_begins) {
    put(function_ + 60, kNop5);
    EXPECT_EQ(altered(), std::vector{function_ + 60});
}

TEST_F(KernelCodeBytes, that_could_not_be_read_at_first_are_known_from_when_they_can) {
    CodeBaseline late;
    fake_.is_hole = [&](GuestPhys at) {
        return at.value >> 12 == fake_.phys(function_).value >> 12;
    };
    kernel_->new_epoch();
    EXPECT_EQ(compare(late).value().unreadable, 1u);
    fake_.is_hole = nullptr;
    put(function_ + 50, "\x91");
    kernel_->new_epoch();
    EXPECT_TRUE(compare(late).value().altered.empty());
    put(function_ + 50, "\x92");
    kernel_->new_epoch();
    EXPECT_EQ(compare(late).value().altered.size(), 1u);
}

TEST_F(KernelCodeBytes, of_a_module_are_told_by_its_name) {
    put(module_code_ + kPageSize + 0x10, "\x91");
    kernel_->new_epoch();
    const auto compared = compare(baseline_).value();
    ASSERT_EQ(compared.altered.size(), 1u);
    EXPECT_EQ(compared.altered[0].place, "module a_driver+0x1010");
}

TEST_F(KernelCodeBytes, of_a_module_may_change_where_it_says_so) {
    branch('\xe9', module_code_ + 16, module_code_ + 64);
    branch('\xe8', module_code_ + 128, outside_);
    EXPECT_TRUE(altered().empty());
    branch('\xe9', module_code_ + 16, module_code_ + 65);
    EXPECT_EQ(altered(), std::vector{module_code_ + 16});
}

TEST_F(KernelCodeBytes, of_a_modules_static_call_may_call_what_another_one_does) {
    put(module_code_ + 32 + 5, "\x0f\xb9\xcc");
    EXPECT_EQ(altered().size(), 1u);
    code_.modules[0].life = 8;
    EXPECT_TRUE(altered().empty()) << "it is loaded anew, with a trampoline";
    branch('\xe9', module_code_ + 32, other_);
    EXPECT_TRUE(altered().empty());
    branch('\xe9', module_code_ + 32, end_);
    EXPECT_EQ(altered(), std::vector{module_code_ + 32});
}

TEST_F(KernelCodeBytes, of_a_module_that_is_loaded_anew_are_others) {
    put(module_code_ + 0x10, "\x91");
    code_.modules[0].is_live = false;
    EXPECT_TRUE(altered().empty());
    code_.modules[0] = {module_, "a_driver", module_code_, 2 * kPageSize, 8, true};
    EXPECT_TRUE(altered().empty());
    put(module_code_ + 0x10, "\x92");
    EXPECT_EQ(altered(), std::vector{module_code_ + 0x10});
}

TEST_F(KernelCodeBytes, that_processes_share_are_the_kernels) {
    put(vdso_ + 0x40, "\x91");
    kernel_->new_epoch();
    const auto compared = compare(baseline_).value();
    ASSERT_EQ(compared.altered.size(), 1u);
    EXPECT_EQ(compared.altered[0].place, "vDSO+0x40");
    // This kernel does not say whether it is up, and so which of its constants are so by now.
    ASSERT_EQ(compared.limits.texts.size(), 1u);
    EXPECT_TRUE(compared.limits.texts[0].starts_with("constants of the kernel"));
}

// A guest says where its vDSO begins: that it begins where the code does hides nothing of that.
TEST_F(KernelCodeBytes, that_share_their_begin_with_others_are_compared_all_the_same) {
    const GuestVirt text = kernel_->symbol("_text").value(),
                    image = kernel_->symbol("vdso_image_64").value();
    ASSERT_EQ(text.value % kPageSize, 0u);
    fake_.write(image, text);
    put(function_ + 50, "\x91");
    for (int look = 0; look < 4; ++look) {
        EXPECT_EQ(altered(), std::vector{function_ + 50}) << look;
    }
}

// What leads out of the kernel needs no baseline.
class WaysOutOfCode : public KernelCodeBytes {
  protected:
    WaysOutOfCode() {
        const std::uint64_t page = outside_.value & kPageMask;
        code_.executable = {{GuestVirt{function_.value & kPageMask}, 4 * kPageSize, false},
                            {GuestVirt{page}, kPageSize, false}};
        code_.owners.assign(page, page + kPageSize, {CodeOwner::Kind::module, "a_driver"});
    }
    std::vector<GuestVirt> found() {
        kernel_->new_epoch();
        std::vector<GuestVirt> places;
        const WaysOut ways =
            finder_.out_of_code(*kernel_, code_, hash_text(*kernel_).value()).value();
        for (const WayOut& way : ways.found) places.push_back(way.at);
        return places;
    }

    WaysOutFinder finder_;
};

TEST_F(WaysOutOfCode, are_calls_into_a_module) {
    EXPECT_TRUE(found().empty());
    branch('\xe8', function_ + 48, outside_);
    EXPECT_EQ(found(), std::vector{function_ + 48});
}

// What was seen once is not looked at again; whatever changes, is.
TEST_F(WaysOutOfCode, are_remembered_as_long_as_nothing_changes) {
    branch('\xe8', function_ + 48, outside_);
    EXPECT_EQ(found(), std::vector{function_ + 48});
    EXPECT_EQ(found(), std::vector{function_ + 48});
    put(function_ + 48, kNop5);
    EXPECT_TRUE(found().empty());
    const std::uint64_t page = outside_.value & kPageMask;
    code_.executable.pop_back();
    branch('\xe8', function_ + 48, outside_);
    EXPECT_TRUE(found().empty()) << "there is no code";
    code_.executable.push_back({GuestVirt{page}, kPageSize, false});
    EXPECT_EQ(found(), std::vector{function_ + 48}) << "now there is";
}

TEST_F(WaysOutOfCode, may_lie_across_two_pages) {
    EXPECT_TRUE(found().empty());
    const GuestVirt border{(function_.value & kPageMask) + kPageSize};
    ASSERT_LT(border, end_ + 6000 - 8);
    branch('\xe8', border - 3, outside_);
    EXPECT_EQ(found(), std::vector{border - 3});
}

TEST_F(WaysOutOfCode, are_addresses_that_stand_in_the_code) {
    put(function_ + 48, "\x48\xb8");  // movabs $.., %rax
    fake_.write(function_ + 50, outside_);
    EXPECT_EQ(found(), std::vector{function_ + 50});
}

TEST_F(WaysOutOfCode, are_not_bytes_of_another_instruction) {
    // mov $.., %eax, whose operand begins with the byte of a call
    put(function_ + 48, "\xb8");
    branch('\xe8', function_ + 49, outside_);
    EXPECT_TRUE(found().empty());
    // movabs $.., %rdx, whose constant does (iocg_kick_delay() of Debian's 6.1 has one: where the
    // kernel and a module lay so far apart it seemed to lead there)
    put(function_ + 48, "\x48\xba");
    branch('\xe9', function_ + 50, outside_);
    EXPECT_TRUE(found().empty());
}

}  // namespace
}  // namespace underseer::guest_linux
