#include "guest_linux/unwind_tables.h"

#include <gtest/gtest.h>

#include <cstring>

#include "guest_linux/fake_guest.h"

namespace underseer::guest_linux {
namespace {

// A guest with one module, as struct module was until 6.3, or is since 6.4.
class ModuleOfUnwindTables : public testing::TestWithParam<bool> {
  protected:
    static constexpr std::uint32_t kNumSymbols = 5;

    ModuleOfUnwindTables() {
        const bool is_old = GetParam();
        guest_.define("orc_entry", 6,
                      "sp_offset:short@0 bp_offset:short@2 sp_reg:int@4/0/4 bp_reg:int@4/4/4 "
                      "type:int@4/8/3 signal:int@4/11/1");
        guest_.define("mod_kallsyms", 24, "symtab:ptr@0 num_symtab:int@8 strtab:ptr@16");
        guest_.define("mod_arch_specific", 24,
                      "num_orcs:int@0 orc_unwind_ip:ptr@8 "
                      "orc_unwind:ptr@16");
        if (is_old) guest_.define("module_layout", 16, "base:ptr@0 size:int@8 text_size:int@12");
        if (!is_old) guest_.define("module_memory", 16, "base:ptr@0 size:int@8");
        guest_.define("module", 256,
                      std::string("list:list_head@8 name:char[56]@24 kallsyms:ptr@80 "
                                  "arch:mod_arch_specific@88 ") +
                          (is_old ? "core_layout:module_layout@112" : "mem:module_memory[7]@112"));
        first_ = guest_.add_function("first", "\x90");
        guest_.add_function("_etext", "\x90");
        add_kernel_tables();
        add_module(is_old);
        guest_.finish();
        kernel_ = Kernel::attach(&guest_).value();
    }

    // One entry, so that it is known how entries are written.
    void add_kernel_tables() {
        const GuestVirt ips = guest_.allocate(4, 4), entries = guest_.allocate(6, 4);
        guest_.write(ips, static_cast<std::int32_t>(first_.value - ips.value));
        guest_.write(entries, std::uint16_t{8});
        guest_.write(entries + 4, kCallEntry);
        for (const auto& [name, at] : {std::pair{"__start_orc_unwind_ip", ips},
                                       {"__stop_orc_unwind_ip", ips + 4},
                                       {"__start_orc_unwind", entries},
                                       {"__stop_orc_unwind", entries + 6}}) {
            guest_.add_symbol(name, 'R', at.value);
        }
    }

    void add_module(bool is_old) {
        const GuestVirt head = guest_.allocate(16), module = guest_.allocate(256);
        guest_.list_init(head);
        guest_.add_symbol("modules", 'D', head.value);
        guest_.list_add_tail(module + 8, head);
        std::memcpy(guest_.host(module + 24), "ours", 5);
        code_ = guest_.allocate(0x1000, kPageSize);
        guest_.write(module + 112, code_.value);
        if (is_old) {
            guest_.write(module + 120, 0x3000u);
            guest_.write(module + 124, 0x1000u);
        } else {
            guest_.write(module + 120, 0x1000u);
        }
        kallsyms_ = guest_.allocate(24);
        guest_.write(module + 80, kallsyms_.value);
        // Data before the code, which is no function of it, and one symbol without a name.
        static constexpr char kNames[] = "\0first_of_ours\0second_of_ours\0data";
        names_ = guest_.allocate(sizeof kNames, kPageSize);
        std::memcpy(guest_.host(names_), kNames, sizeof kNames);
        const GuestVirt symbols = guest_.allocate(24 * kNumSymbols);
        const auto symbol = [&](std::uint32_t index, std::uint32_t name, std::uint64_t value) {
            guest_.write(symbols + 24ull * index, name);
            guest_.write(symbols + 24ull * index + 8, value);
        };
        symbol(1, 15, code_.value + 0x40);
        symbol(2, 1, code_.value + 0x10);
        symbol(3, 0, code_.value + 0x48);
        symbol(4, 30, code_.value - 0x100);
        guest_.write(kallsyms_, symbols.value);
        guest_.write(kallsyms_ + 8, kNumSymbols);
        guest_.write(kallsyms_ + 16, names_.value);
        const GuestVirt ips = guest_.allocate(4, 4), entries = guest_.allocate(6, 4);
        guest_.write(ips, static_cast<std::int32_t>(code_.value + 0x10 - ips.value));
        guest_.write(entries, std::uint16_t{24});
        guest_.write(entries + 4, kCallEntry);
        guest_.write(module + 88, 1u);
        guest_.write(module + 96, ips.value);
        guest_.write(module + 104, entries.value);
    }

    UnwindTables tables() { return UnwindTables::of(kernel_.get(), &kernel_->memory()).value(); }

    static constexpr std::uint16_t kCallEntry = 5 | 1 << 4 | 2 << 8;  // by rsp; rbp from the CFA
    FakeGuest guest_{{}};
    GuestVirt first_, code_, kallsyms_, names_;
    std::unique_ptr<Kernel> kernel_;
};
INSTANTIATE_TEST_SUITE_P(OldAndNew, ModuleOfUnwindTables, testing::Bool());

TEST_P(ModuleOfUnwindTables, has_functions_with_names) {
    auto all = tables();
    const auto second = all.place_of(code_ + 0x50);
    EXPECT_EQ(second.symbol, "second_of_ours+0x10");
    EXPECT_EQ(second.module, "ours");
    EXPECT_EQ(all.place_of(code_ + 0x3f).symbol, "first_of_ours+0x2f");
    // Before the first of its functions.
    EXPECT_EQ(all.place_of(code_ + 5).symbol, "ours+0x5");
    EXPECT_EQ(all.place_of(first_ + 1).symbol, "first+0x1");
    EXPECT_EQ(all.place_of(first_ + 1).module, "");
}

TEST_P(ModuleOfUnwindTables, is_code_as_far_as_it_is_long_and_has_a_table_of_its_own) {
    auto all = tables();
    EXPECT_TRUE(all.is_code(code_));
    EXPECT_TRUE(all.is_code(code_ + 0xfff));
    EXPECT_FALSE(all.is_code(code_ + 0x1000));
    EXPECT_EQ(all.find(code_ + 0x20).value().sp_offset, 24);
    EXPECT_FALSE(all.find(code_ + 8).has_value());
    EXPECT_EQ(all.find(first_).value().sp_offset, 8);
}

TEST_P(ModuleOfUnwindTables, whose_symbols_cannot_be_read_or_are_too_many_has_places) {
    for (const auto& [at, value] : {std::pair{8ull, 1u << 20}, {0ull, 0x1000u}, {16ull, 0x1000u}}) {
        const auto before = guest_.read_back<std::uint32_t>(kallsyms_ + at);
        guest_.write(kallsyms_ + at, value);
        if (at == 0 || at == 16) guest_.write(kallsyms_ + at + 4, 0u);
        kernel_->new_epoch();
        auto all = tables();
        EXPECT_EQ(all.place_of(code_ + 0x50).symbol, "ours+0x50") << at;
        guest_.write(kallsyms_ + at, before);
        if (at == 0 || at == 16) guest_.write(kallsyms_ + at + 4, ~0u);
    }
}

TEST_P(ModuleOfUnwindTables, that_is_gone_is_no_code) {
    auto all = tables();
    EXPECT_EQ(all.find(code_ + 0x20).value().sp_offset, 24);
    guest_.list_remove(GuestVirt{
        guest_.read_back<std::uint64_t>(GuestVirt{kernel_->symbol("modules").value().value})});
    kernel_->new_epoch();
    all.load_modules();
    EXPECT_FALSE(all.is_code(code_ + 0x20));
    EXPECT_FALSE(all.find(code_ + 0x20).has_value());
}

}  // namespace
}  // namespace underseer::guest_linux
