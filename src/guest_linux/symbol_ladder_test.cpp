#include "guest_linux/symbol_ladder.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "guest_linux/code_operands.h"
#include "guest_linux/fake_guest.h"
#include "guest_linux/kernel.h"
#include "guest_linux/ksymtab.h"
#include "guest_linux/task_views.h"

namespace underseer::guest_linux {
namespace {

constexpr GuestVirt kCode{0xffffffff81000000};
constexpr GuestVirt kLadderRodata{0xffffffff82000000};

bool refers_to(std::string_view code, std::uint64_t value) {
    const auto values = code_operands(as_bytes(code), kCode);
    return std::ranges::find(values, value) != values.end();
}

std::string le32(std::uint64_t value) {
    const auto word = static_cast<std::uint32_t>(value);
    return std::string(reinterpret_cast<const char*>(&word), sizeof word);
}

TEST(CodeOperands, every_form_of_a_reference_is_seen) {
    const std::uint64_t there = 0xffffffff82a45670;
    EXPECT_TRUE(refers_to("\x48\x8b\x14\xc5" + le32(there), there)) << "mov there(,%rax,8),%rdx";
    EXPECT_TRUE(refers_to("\x48\xc7\xc0" + le32(there), there)) << "mov $there,%rax";
    EXPECT_TRUE(refers_to("\x48\x8d\x3d" + le32(there - kCode.value - 7), there))
        << "lea there(%rip),%rdi";
    EXPECT_TRUE(refers_to("\x83\x3d" + le32(there - kCode.value - 7) + "\x02", there))
        << "cmpl $2,there(%rip)";
    EXPECT_TRUE(refers_to("\x48\xc7\xc0" + le32(0x2c940), 0x2c940)) << "mov $per-CPU,%rax";
    EXPECT_FALSE(refers_to("\x48\x8b\x80" + le32(0x9a8), 0x9a8)) << "mov 0x9a8(%rax),%rax";
    EXPECT_TRUE(code_operands({}, kCode).empty());
}

std::map<std::string, std::uint64_t> some_exports() {
    std::map<std::string, std::uint64_t> exports;
    for (unsigned i = 0; i < 50; ++i) {
        exports["export_" + std::to_string(i)] = kCode.value + 16 * i;
    }
    return exports;
}

TEST(Ksymtab, exports_are_found_by_name) {
    const auto table = build_ksymtab(some_exports(), kLadderRodata);
    const auto found = find_exports(table, kLadderRodata, {"export_0", "export_49", "export_50"});
    ASSERT_EQ(found.size(), 2u);
    EXPECT_EQ(found.at("export_0").value, kCode.value);
    EXPECT_EQ(found.at("export_49").value, kCode.value + 16 * 49);
}

TEST(Ksymtab, a_lone_entry_is_no_table) {
    const auto table = build_ksymtab({{"init_task", kCode.value}}, kLadderRodata);
    EXPECT_TRUE(find_exports(table, kLadderRodata, {"init_task"}).empty());
}

TEST(Ksymtab, damage_and_cuts_stay_in_bounds) {
    const auto good = build_ksymtab(some_exports(), kLadderRodata);
    for (std::size_t at = 0; at < good.size(); at += 7) {
        auto bad = good;
        bad[at] ^= std::byte{0xff};
        (void)find_exports(bad, kLadderRodata, {"export_7"});
        (void)find_exports(Bytes(good).first(at), kLadderRodata, {"export_7"});
    }
}

TEST(SymbolLadder, without_data_symbols_all_views_are_found_again) {
    FakeGuest guest({.kallsyms_all = false});
    guest.add_task(1, 1, "init", guest.init_task());
    // A decoy of another hash comes first; then mov table(,%rax,8),%rdx.
    guest.add_function("find_css_set", "\x48\x8b\x14\xc5" + le32(guest.css_set_table().value - 64) +
                                           "\x48\x8b\x14\xc5" + le32(guest.css_set_table().value));
    guest.finish();
    const auto kernel = Kernel::attach(&guest).value();
    EXPECT_FALSE(kernel->symbols().address("init_task"));
    EXPECT_EQ(kernel->symbol("init_task").value(), guest.init_task());
    EXPECT_EQ(kernel->symbol("init_pid_ns").value(), guest.init_pid_ns());
    EXPECT_EQ(kernel->symbol("css_set_table").value(), guest.css_set_table());
    TaskViews views(kernel.get());
    for (const TaskView view : {TaskView::task_list, TaskView::pid_idr, TaskView::css_set}) {
        const auto result = views.walk(view, {});
        EXPECT_FALSE(result.gap) << *result.gap;
        EXPECT_FALSE(result.tasks.empty()) << to_string(view);
    }
    // What no rung has is unavailable, and only that.
    EXPECT_TRUE(views.walk(TaskView::run_queue, {}).gap);
}

TEST(SymbolLadder, an_export_that_is_not_what_it_says_is_not_taken) {
    FakeGuest guest({.kallsyms_all = false});
    const GuestVirt task = guest.init_task();
    guest.finish();
    guest.write(task + guest.offset("task_struct", "pid"), 7u);
    const auto kernel = Kernel::attach(&guest).value();
    EXPECT_EQ(kernel->symbol("init_task").error().code, Code::unavailable);
    EXPECT_EQ(kernel->symbol("init_pid_ns").error().code, Code::unavailable);
}

TEST(SymbolLadder, a_forged_vmcoreinfo_gives_no_symbol_that_its_invariant_refuses) {
    FakeGuest guest({.kallsyms_all = false});
    guest.set_vmcoreinfo(guest.true_vmcoreinfo() + "SYMBOL(css_set_table)=ffffffff82000000\n" +
                         "SYMBOL(prb)=ffffffff82000000\nSYMBOL(modules)=10\n");
    guest.finish();
    const auto kernel = Kernel::attach(&guest).value();
    for (const std::string_view name : {"css_set_table", "prb", "modules"}) {
        EXPECT_FALSE(kernel->symbol(name).has_value()) << name;
    }
}

}  // namespace
}  // namespace underseer::guest_linux
