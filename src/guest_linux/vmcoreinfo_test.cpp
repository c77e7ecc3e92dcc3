#include "guest_linux/vmcoreinfo.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "guest_linux/fake_guest.h"
#include "guest_linux/kernel.h"

namespace underseer::guest_linux {
namespace {

std::string notes_of(const Kernel& kernel) {
    std::string all;
    for (const std::string& note : kernel.notes()) all += note + "\n";
    return all;
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
    const std::size_t at = text.find(from);
    CHECK(at != std::string::npos);
    return text.replace(at, from.size(), to);
}

TEST(VmcoreInfo, every_kind_of_line_is_understood) {
    const auto info =
        VmcoreInfo::parse(as_bytes("OSRELEASE=6.1.0-1-amd64\nBUILD-ID=00ff\n"
                                   "SYMBOL(init_top_pgt)=ffffffff82a0a000\n"
                                   "NUMBER(phys_base)=-18874368\nNUMBER(x)=0xffffc90000000000\n"
                                   "OFFSET(list_head.next)=8\nSIZE(page)=64\n"
                                   "KERNELOFFSET=1e00000\n"))
            .value();
    EXPECT_EQ(info.text("OSRELEASE"), "6.1.0-1-amd64");
    EXPECT_EQ(info.symbol("init_top_pgt"), GuestVirt{0xffffffff82a0a000});
    EXPECT_EQ(info.number("phys_base"), -18874368);
    EXPECT_EQ(info.number("x"), static_cast<std::int64_t>(0xffffc90000000000));
    EXPECT_EQ(info.offset("list_head.next"), 8u);
    EXPECT_EQ(info.size("page"), 64u);
    EXPECT_EQ(info.kernel_offset(), 0x1e00000u);
    EXPECT_FALSE(info.symbol("no_such_thing"));
}

TEST(VmcoreInfo, what_is_no_such_text_is_refused) {
    for (const std::string_view bad :
         {"", "PAGESIZE=4096\n", "OSRELEASE=6.1\nno equals sign\n", "OSRELEASE=6.1\n=value\n",
          "OSRELEASE=6.1\x1b[31m\n", "OSRELEASE=6.1\nSIZE(page)=64\nSIZE(page)=56\n",
          "OSRELEASE=6.1\nSYMBOL(a)=xyz\n", "OSRELEASE=6.1\nNUMBER(b)=99999999999999999999\n",
          "OSRELEASE=6.1\nSYMBOL(c)=1 2\n", "OSRELEASE=6.1\nKERNELOFFSET=\n"}) {
        EXPECT_FALSE(VmcoreInfo::parse(as_bytes(bad)).has_value()) << bad;
    }
}

class VmcoreInfoOfGuest : public testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Levels, VmcoreInfoOfGuest, testing::Values(4u, 5u));

TEST_P(VmcoreInfoOfGuest, is_found_without_its_symbol_and_confirmed) {
    FakeGuest guest({.levels = GetParam()});
    guest.set_vmcoreinfo(guest.true_vmcoreinfo());
    guest.finish();
    const auto kernel = Kernel::attach(&guest).value();
    EXPECT_NE(notes_of(*kernel).find("VMCOREINFO: 6 statements confirmed"), std::string::npos)
        << notes_of(*kernel);
}

TEST_P(VmcoreInfoOfGuest, leads_to_the_page_tables_where_kallsyms_does_not) {
    FakeGuest guest({.levels = GetParam(), .kallsyms_all = false});
    guest.set_vmcoreinfo(guest.true_vmcoreinfo());
    guest.finish();
    // A process's table in freed init memory, found first.
    const GuestVirt copy = guest.allocate(kPageSize, kPageSize);
    std::memcpy(guest.host(copy), guest.host_phys(guest.root()), kPageSize);
    guest.write(copy + 8 * 300, guest.read_back<std::uint64_t>(copy + 8 * 511));
    const auto kernel = Kernel::attach(&guest).value();
    EXPECT_EQ(kernel->info().page_table_root, guest.root().value);
    EXPECT_NE(notes_of(*kernel).find("init_top_pgt of VMCOREINFO"), std::string::npos);
}

TEST_P(VmcoreInfoOfGuest, forged_is_told_and_not_followed) {
    for (const auto& [from, to] :
         {std::pair{"KERNELOFFSET=1200000", "KERNELOFFSET=1400000"},
          {"OSRELEASE=6.4.0-fake", "OSRELEASE=6.5.0-fake"},
          {"NUMBER(phys_base)=-", "NUMBER(phys_base)=-1"},
          {"NUMBER(pgtable_l5_enabled)=", "NUMBER(pgtable_l5_enabled)=1"},
          {"SYMBOL(_stext)=ffffffff8", "SYMBOL(_stext)=ffffffff9"},
          {"SYMBOL(init_top_pgt)=ffffffff8", "SYMBOL(init_top_pgt)=ffffffff9"}}) {
        FakeGuest guest({.levels = GetParam()});
        guest.set_vmcoreinfo(replaced(guest.true_vmcoreinfo(), from, to));
        guest.finish();
        const auto kernel = Kernel::attach(&guest).value();
        EXPECT_NE(notes_of(*kernel).find("wrong or forged"), std::string::npos) << to;
        EXPECT_EQ(kernel->info().page_table_root, guest.root().value);
        EXPECT_EQ(kernel->info().kaslr_slide_bytes, 0x1200000u);
        EXPECT_EQ(kernel->info().kernel_release, "6.4.0-fake");
    }
}

TEST_P(VmcoreInfoOfGuest, a_forged_root_that_is_no_top_table_is_not_followed) {
    for (const std::uint64_t where : {0x100ull, 0x40000ull, 0x200000000ull}) {
        FakeGuest guest({.levels = GetParam(), .kallsyms_all = false});
        const std::string text = guest.true_vmcoreinfo();
        const std::size_t at = text.find("SYMBOL(init_top_pgt)=") + 21;
        const std::uint64_t root = std::stoull(text.substr(at, 16), nullptr, 16);
        guest.set_vmcoreinfo(
            replaced(text, text.substr(at, 16), fmt::format("{:x}", root + where)));
        guest.finish();
        const auto kernel = Kernel::attach(&guest).value();
        EXPECT_EQ(kernel->info().page_table_root, guest.root().value);
        EXPECT_NE(notes_of(*kernel).find("is none, and not followed"), std::string::npos);
    }
}

TEST(VmcoreInfo, a_hole_in_its_place_is_told) {
    FakeGuest guest({});
    guest.set_vmcoreinfo(guest.true_vmcoreinfo());
    guest.finish();
    guest.is_hole = [](GuestPhys at) { return at.value / kPageSize == (8u << 20) / kPageSize; };
    const auto kernel = Kernel::attach(&guest).value();
    EXPECT_NE(notes_of(*kernel).find("points to no VMCOREINFO"), std::string::npos);
}

TEST(VmcoreInfo, data_full_of_pointers_is_bounded) {
    FakeGuest guest({});
    const GuestVirt many = guest.allocate(0x100000);
    for (unsigned i = 0; i < 0x20000; ++i) {
        guest.write(many + 8 * i, 0xffff888000000000 + i * kPageSize);
    }
    guest.finish();
    const auto before = guest.reads();
    EXPECT_TRUE(Kernel::attach(&guest).has_value());
    EXPECT_LT(guest.reads() - before, 10 * limits::kMaxVmcoreInfoCandidates);
}

}  // namespace
}  // namespace underseer::guest_linux
