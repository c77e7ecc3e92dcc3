#include "guest_linux/kallsyms.h"

#include <gtest/gtest.h>

#include "guest_linux/fake_guest.h"

namespace underseer::guest_linux {
namespace {

constexpr GuestVirt kRodata{0xffffffff82000000};
constexpr std::uint64_t kText = 0xffffffff81000000;

// Text symbols, a very long name (two length bytes since 6.1), data behind the table, and, where
// the form has them, per-CPU offsets.
std::vector<FakeSymbol> some_symbols(KallsymsForm form) {
    std::vector<FakeSymbol> symbols;
    if (form != KallsymsForm::v6_15 && form != KallsymsForm::v7_0) {
        symbols.push_back({"per_cpu_symbol_a", 'A', 0});
        symbols.push_back({"per_cpu_symbol_b", 'A', 0x2c000});
    }
    for (unsigned i = 0; i < 3000; ++i) {
        symbols.push_back({"a_symbol_" + std::to_string(i), 't', kText + 32 * i});
    }
    symbols.push_back({std::string(300, 'x'), 'T', kText + 0x100000});
    symbols.push_back({"init_task", 'D', kRodata.value + 0x400000});
    return symbols;
}

class KallsymsForms : public testing::TestWithParam<KallsymsForm> {};
INSTANTIATE_TEST_SUITE_P(All, KallsymsForms,
                         testing::Values(KallsymsForm::v4_20, KallsymsForm::v6_2,
                                         KallsymsForm::v6_4, KallsymsForm::v6_15,
                                         KallsymsForm::v7_0));

TEST_P(KallsymsForms, every_symbol_comes_back_with_its_address_and_type) {
    const auto symbols = some_symbols(GetParam());
    const auto found = Symbols::find(build_kallsyms(symbols, GetParam(), kRodata, 4000), kRodata);
    ASSERT_TRUE(found.has_value()) << found.error().to_text();
    ASSERT_EQ(found->size(), symbols.size());
    for (std::size_t i = 0; i < symbols.size(); ++i) {
        EXPECT_EQ(found->at(i).name, symbols[i].name);
        EXPECT_EQ(found->at(i).type, symbols[i].type);
        EXPECT_EQ(found->at(i).address.value, symbols[i].address) << symbols[i].name;
    }
    EXPECT_EQ(found->nearest(GuestVirt{kText + 33})->name, "a_symbol_1");
    EXPECT_FALSE(found->address("no_such_symbol"));
}

TEST_P(KallsymsForms, a_damaged_table_is_refused_or_stays_in_bounds) {
    const auto good = build_kallsyms(some_symbols(GetParam()), GetParam(), kRodata, 256);
    for (std::size_t at = 0; at < good.size(); at += 97) {
        auto bad = good;
        bad[at] ^= std::byte{0xff};
        const auto found = Symbols::find(bad, kRodata);  // must end, and read only inside
        EXPECT_TRUE(!found.has_value() || found->size() <= good.size());
    }
}

TEST_P(KallsymsForms, a_table_cut_off_anywhere_is_no_symbol_table) {
    const auto good = build_kallsyms(some_symbols(GetParam()), GetParam(), kRodata, 256);
    for (const std::size_t keep :
         {std::size_t{0}, std::size_t{1}, good.size() / 3, good.size() / 2}) {
        EXPECT_FALSE(Symbols::find(Bytes(good).first(keep), kRodata).has_value()) << keep;
    }
}

TEST(Kallsyms, bytes_without_a_table_say_so) {
    const std::vector<std::byte> nothing(1 << 20, std::byte{'0'});
    const auto found = Symbols::find(nothing, kRodata);
    ASSERT_FALSE(found.has_value());
    EXPECT_EQ(found.error().code, Code::not_found);
}

}  // namespace
}  // namespace underseer::guest_linux
