// Writes the seeds of btf_fuzz, kallsyms_fuzz and page_table_fuzz anew: make_seeds fuzz/corpus
#include <array>
#include <filesystem>
#include <fstream>
#include <string>

#include "guest_linux/fake_guest.h"

namespace {

using namespace underseer;
using namespace underseer::guest_linux;

void write(const std::filesystem::path& path, Bytes bytes) {
    std::filesystem::create_directories(path.parent_path());
    const std::string_view text = as_text(bytes);
    std::ofstream(path, std::ios::binary)
        .write(text.data(), static_cast<std::streamsize>(text.size()));
}

std::vector<std::byte> some_types() {
    FakeBtf btf;
    const std::uint32_t number = btf.add_int("int", 4), pointer = btf.add_pointer(number);
    const std::uint32_t inner = btf.add_struct("a", 8, {{"b", number, 0}, {"c", number, 32}});
    const std::uint32_t either = btf.add_struct("", 8, {{"x", number, 0}, {"y", pointer, 0}}, true);
    const std::uint32_t array = btf.add_array(btf.add_typedef("a_t", inner), 3);
    btf.add_struct("outer", 64, {{"a", inner, 64}, {"", either, 128}, {"list", array, 192}});
    btf.add_struct("flags", 4, {{"low", number, 0, 5}, {"high", number, 5, 3}});
    return btf.build();
}

std::vector<std::byte> some_symbols(KallsymsForm form) {
    std::vector<FakeSymbol> symbols;
    for (unsigned i = 0; i < 800; ++i) {
        symbols.push_back({"symbol_" + std::to_string(i), 't', 0xffffffff81000000 + 16 * i});
    }
    return build_kallsyms(symbols, form, GuestVirt{0xffffffff82000000}, 64);
}

// Five tables, one page each, that lead from entry 0 to entry 0; `huge` is the level that ends.
std::vector<std::byte> some_tables(unsigned huge) {
    std::array<std::uint64_t, 5 * 512> words{};
    for (unsigned table = 0; table < 5; ++table) {
        words[table * 512] = (table + 1) * kPageSize % (5 * kPageSize) | 3;
        words[table * 512 + 511] = words[table * 512];
        words[table * 512 + 510] = words[table * 512];
        if (table == huge) words[table * 512] |= 0x80;
    }
    const Bytes bytes = std::as_bytes(std::span(words));
    return {bytes.begin(), bytes.end()};
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2) return 1;
    const std::filesystem::path corpus = arguments[1];
    write(corpus / "btf_fuzz/types", some_types());
    for (const auto& [form, name] : {std::pair{KallsymsForm::v4_20, "v4_20"},
                                     {KallsymsForm::v6_2, "v6_2"},
                                     {KallsymsForm::v6_4, "v6_4"},
                                     {KallsymsForm::v6_15, "v6_15"},
                                     {KallsymsForm::v7_0, "v7_0"}}) {
        write(corpus / "kallsyms_fuzz" / name, some_symbols(form));
    }
    write(corpus / "page_table_fuzz/small_pages", some_tables(5));
    write(corpus / "page_table_fuzz/large_page", some_tables(3));
    write(corpus / "page_table_fuzz/huge_page", some_tables(2));
    return 0;
}
