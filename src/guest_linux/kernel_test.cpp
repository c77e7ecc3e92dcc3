#include "guest_linux/kernel.h"

#include <gtest/gtest.h>

#include "guest_linux/fake_guest.h"
#include "guest_linux/task_views.h"

namespace underseer::guest_linux {
namespace {

struct Shape {
    unsigned levels;
    KallsymsForm form;
    bool trampoline;
};
class KernelShapes : public testing::TestWithParam<Shape> {};
INSTANTIATE_TEST_SUITE_P(All, KernelShapes,
                         testing::Values(Shape{4, KallsymsForm::v4_20, true},
                                         Shape{4, KallsymsForm::v6_4, false},
                                         Shape{5, KallsymsForm::v6_2, true},
                                         Shape{5, KallsymsForm::v6_15, false},
                                         Shape{5, KallsymsForm::v7_0, true}));

TEST_P(KernelShapes, is_found_with_its_slide_and_page_tables) {
    FakeGuest guest({.levels = GetParam().levels,
                     .form = GetParam().form,
                     .trampoline = GetParam().trampoline});
    guest.finish();
    const auto kernel = Kernel::attach(&guest);
    ASSERT_TRUE(kernel.has_value()) << kernel.error().to_text();
    const auto info = (*kernel)->info();
    EXPECT_EQ(info.kernel_release, "6.4.0-fake");
    EXPECT_EQ(info.kaslr_slide_bytes, 0x1200000u);
    EXPECT_EQ(info.page_table_levels, GetParam().levels);
    EXPECT_EQ(info.page_table_root, guest.root().value);
    EXPECT_EQ((*kernel)->symbol("init_task").value(), guest.init_task());
    EXPECT_EQ((*kernel)->field("task_struct", "exit_state").offset, 16u);
}

TEST(Kernel, a_process_table_in_freed_init_memory_is_not_taken_for_the_kernels_own) {
    FakeGuest guest({});
    guest.finish();
    const GuestVirt copy = guest.allocate(kPageSize, kPageSize);
    std::memcpy(guest.host(copy), guest.host_phys(guest.root()), kPageSize);
    guest.write(copy + 8 * 300, guest.read_back<std::uint64_t>(copy + 8 * 511));
    const auto kernel = Kernel::attach(&guest).value();
    EXPECT_EQ(kernel->info().page_table_root, guest.root().value);
    // The process ends, and its table with it.
    std::memset(guest.host(copy), 0, kPageSize);
    kernel->new_epoch();
    EXPECT_TRUE(read_vital_signs(*kernel).has_value());
}

TEST(Kernel, what_a_kernel_does_not_have_is_unavailable_by_name) {
    FakeGuest guest({});
    guest.finish();
    const auto kernel = Kernel::attach(&guest).value();
    const auto symbol = kernel->symbol("prb");
    ASSERT_FALSE(symbol.has_value());
    EXPECT_EQ(symbol.error().code, Code::unavailable);
    const auto value = kernel->read(guest.init_task(), kernel->field("task_struct", "nonsense"));
    ASSERT_FALSE(value.has_value());
    EXPECT_NE(value.error().message.find("nonsense"), std::string::npos);
    EXPECT_FALSE(kernel->boot_time().has_value());
}

TEST(Kernel, without_btf_the_reason_is_said) {
    FakeGuest guest({.btf = false});
    guest.finish();
    const auto kernel = Kernel::attach(&guest);
    ASSERT_FALSE(kernel.has_value());
    EXPECT_NE(kernel.error().message.find("BTF"), std::string::npos);
}

TEST(Kernel, memory_without_linux_is_not_found) {
    FakeGuest guest({});  // never finished: page tables, but no banner and no symbols
    const auto kernel = Kernel::attach(&guest);
    ASSERT_FALSE(kernel.has_value());
    EXPECT_EQ(kernel.error().code, Code::not_linux);
}

TEST(Kernel, a_banner_in_a_file_is_no_kernel) {
    FakeGuest guest({});
    const std::string banner(FakeGuest::kBanner);
    std::memcpy(guest.host_phys(GuestPhys{8u << 20}), banner.data(), banner.size());
    EXPECT_FALSE(Kernel::attach(&guest).has_value());
}

TEST(Kernel, half_of_memory_unreadable_is_an_error_and_not_a_crash) {
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
        FakeGuest guest({.ram_bytes = 32u << 20});
        guest.finish();
        guest.is_hole = [seed](GuestPhys at) {
            return ((at.value / kPageSize) * 0x9e3779b97f4a7c15 + seed) >> 60 < 2;
        };
        (void)Kernel::attach(&guest);
    }
}

// A description of types with a task_struct that is not this kernel's.
std::vector<std::byte> decoy_btf() {
    FakeBtf decoy;
    const std::uint32_t number = decoy.add_int("int", 4);
    decoy.add_struct("task_struct", 64, {{"pid", number, 32}, {"exit_state", number, 64}});
    return decoy.build();
}

TEST(Kernel, btf_that_the_kernel_does_not_map_read_only_is_not_taken) {
    for (const bool btf : {true, false}) {
        FakeGuest guest({.btf = btf});
        const auto blob = decoy_btf();
        std::memcpy(guest.host_phys(GuestPhys{9u << 20}), blob.data(), blob.size());
        std::memcpy(guest.host(guest.allocate(blob.size())), blob.data(), blob.size());
        guest.finish();
        const auto kernel = Kernel::attach(&guest);
        ASSERT_EQ(kernel.has_value(), btf);
        if (!btf) continue;
        EXPECT_EQ((*kernel)->field("task_struct", "exit_state").offset, 16u);
    }
}

TEST(Kernel, damaged_btf_in_front_of_the_true_one_is_passed_over) {
    const auto good = decoy_btf();
    for (std::size_t damage = 0; damage < 4; ++damage) {
        FakeGuest guest({});
        guest.finish();
        auto bad = good;
        if (damage == 0) bad.resize(bad.size() / 2);                     // cut off
        if (damage == 1) bad[24 + 7] = std::byte{0x1f};                  // a kind that there is not
        if (damage == 2) bad[12] = bad[13] = bad[14] = std::byte{0xff};  // 16 MiB of types
        if (damage == 3) bad[24 + 16 + 12] = std::byte{0xff};            // a member of no type
        const GuestVirt before{0xffffffff82200000 + 0x200000 + 0x2f0000};
        std::memcpy(guest.host(before), bad.data(), bad.size());
        const auto kernel = Kernel::attach(&guest);
        ASSERT_TRUE(kernel.has_value()) << kernel.error().to_text();
        EXPECT_EQ((*kernel)->field("task_struct", "exit_state").offset, 16u) << damage;
    }
}

// An ELF note as a linker makes it, with twenty times `byte` as the id.
std::string build_id_note(char byte) {
    return std::string("\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0", 16) + std::string(20, byte);
}

// Before the notes of the kernel itself lie those of the vDSO images. Behind the read-only data
// lies what uses the memory that its alignment had wasted: a program's file, for one.
TEST(Kernel, the_build_id_is_its_own_and_no_other_that_lies_near) {
    const std::string own(40, '2');
    const auto build_id = [&](bool btf, std::string_view vmcoreinfo_says) {
        FakeGuest guest({.btf = btf, .kallsyms_all = false});
        guest.add_system();
        guest.set_vmcoreinfo(guest.true_vmcoreinfo() + std::string(vmcoreinfo_says));
        guest.finish();
        const GuestVirt rodata = guest.rodata();
        for (const auto& [at, byte] :
             {std::pair{0x1000u, '\x11'}, {0x2f0000u, '\x22'}, {0x3ff000u, '\x33'}}) {
            const std::string note = build_id_note(byte);
            std::memcpy(guest.host(rodata + at), note.data(), note.size());
        }
        return Kernel::attach(&guest).value()->info().build_id;
    };
    EXPECT_EQ(build_id(true, "").value_or("none"), own);
    EXPECT_EQ(build_id(false, "BUILD-ID=" + own + "\n").value_or("none"), own);
    // Nobody says which of them it is.
    EXPECT_FALSE(build_id(false, "").available());
    EXPECT_FALSE(build_id(false, "BUILD-ID=" + std::string(40, '4') + "\n").available());
}

TEST(Kernel, tasks_in_holes_and_beyond_memory_end_a_view_with_a_reason) {
    for (const std::uint64_t where :
         {0xffff8880fee00000ull, 0xffff888003c00000ull, 0x0000700000000000ull, 0x10ull}) {
        FakeGuest guest({});
        const GuestVirt task = guest.add_task(1, 1, "init", guest.init_task());
        guest.finish();
        guest.is_hole = [](GuestPhys at) { return at.value >> 20 == 0x3c; };
        const auto kernel = Kernel::attach(&guest).value();
        guest.write(task + guest.offset("task_struct", "tasks"), where);
        const auto before = guest.reads();
        const auto view = TaskViews(kernel.get()).walk(TaskView::task_list, {});
        EXPECT_TRUE(view.gap) << where;
        EXPECT_LT(guest.reads() - before, 1000u);
    }
}

TEST(WalkList, a_ring_without_its_head_ends) {
    FakeGuest guest({});
    guest.finish();
    const auto kernel = Kernel::attach(&guest).value();
    const GuestVirt head = guest.allocate(16), a = guest.allocate(16), b = guest.allocate(16);
    guest.write(head, a.value);
    guest.write(a, b.value);
    guest.write(b, a.value);
    std::size_t steps = 0;
    const auto walked = kernel->walk_list(head, [&](GuestVirt) { return ++steps, true; });
    EXPECT_EQ(walked.error().code, Code::malformed);
    EXPECT_LT(steps, 16u);
}

TEST(WalkList, null_and_endless_lists_end) {
    FakeGuest guest({});
    guest.finish();
    const auto kernel = Kernel::attach(&guest).value();
    const GuestVirt head = guest.allocate(16), a = guest.allocate(16);
    guest.write(head, a.value);
    guest.write(a, std::uint64_t{0});
    EXPECT_FALSE(kernel->walk_list(head, [](GuestVirt) { return true; }).has_value());
    guest.write(a, head.value);
    EXPECT_EQ(kernel->walk_list(head, [](GuestVirt) { return true; }, 0).error().code, Code::limit);
}

}  // namespace
}  // namespace underseer::guest_linux
