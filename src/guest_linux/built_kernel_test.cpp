#include "guest_linux/built_kernel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "guest_linux/fake_vmlinux.h"

namespace underseer::guest_linux {
namespace {

using Kind = StartPatch::Kind;

constexpr std::uint64_t kText = 0xffffffff81000000, kLists = 0xffffffff82800000;

void put_distance(std::string& list, std::uint64_t list_at, std::uint64_t to) {
    const auto distance = static_cast<std::int32_t>(to - (list_at + list.size()));
    list.append(reinterpret_cast<const char*>(&distance), sizeof distance);
}

struct Vmlinux {
    std::string text = std::string(4096, '\x90');
    std::string banner = "Linux version 6.1.0-44-cloud-amd64 (someone) #1 SMP";
    std::string notes = fake_notes('\xab');
    std::vector<FakeSection> lists;

    std::string build() const {
        std::vector<FakeSection> all{{".text", kText, text},
                                     {".rodata", kText + 0x1000000, banner},
                                     {".notes", kText + 0x1100000, notes}};
        all.insert(all.end(), lists.begin(), lists.end());
        return fake_vmlinux(all);
    }
    Result<BuiltKernel> read() const { return read_built_kernel(as_bytes(build())); }

    // An entry of each form of struct alt_instr, at `place`.
    void add_alternative(std::size_t entry_bytes, std::uint64_t place, std::uint8_t size_bytes,
                         const std::string& other, std::size_t times = 1) {
        std::string list;
        for (std::size_t i = 0; i < times; ++i) {
            put_distance(list, kLists, place);
            put_distance(list, kLists, kLists + 0x10000);
            list.append(entry_bytes == 14 ? 4 : 2, '\1');
            list += static_cast<char>(size_bytes);
            list += static_cast<char>(other.size());
            if (entry_bytes == 13) list += '\0';
        }
        lists.push_back({".altinstructions", kLists, list});
        lists.push_back({".altinstr_replacement", kLists + 0x10000, other});
    }
};

TEST(BuiltKernel, is_the_code_and_which_kernel_it_is) {
    const auto kernel = Vmlinux{}.read().value();
    EXPECT_EQ(kernel.release, "6.1.0-44-cloud-amd64");
    EXPECT_EQ(kernel.build_id.substr(0, 4), "abab");
    EXPECT_EQ(kernel.build_id.size(), 40u);
    EXPECT_EQ(kernel.begin, kText);
    EXPECT_EQ(kernel.text, std::string(4096, '\x90'));
    EXPECT_TRUE(kernel.patches.empty());
}

// Without symbols nobody knows which of them the kernel writes while it starts.
TEST(BuiltKernel, has_no_constants_where_it_has_no_symbols) {
    EXPECT_TRUE(Vmlinux{}.read().value().constants.empty());
}

TEST(BuiltKernel, has_alternatives_of_every_form) {
    for (const std::size_t form : {12u, 13u, 14u}) {
        Vmlinux vmlinux;
        // So many that no other form fits by its length alone.
        vmlinux.add_alternative(form, kText + 100, 7, "\x0f\x01\xcb", 12 * 13 * 7);
        const auto kernel = vmlinux.read().value();
        ASSERT_EQ(kernel.patches.size(), 12u * 13 * 7) << form;
        const StartPatch& one = kernel.patches.front();
        EXPECT_EQ(one.kind, Kind::alternative);
        EXPECT_EQ(one.at, 100u);
        EXPECT_EQ(one.size_bytes, 7);
        EXPECT_EQ(kernel.replacements.substr(one.other, one.other_bytes), "\x0f\x01\xcb");
    }
}

TEST(BuiltKernel, whose_alternatives_make_no_sense_is_refused) {
    Vmlinux outside;
    outside.add_alternative(12, kText + 0x9000, 7, "\x90");
    EXPECT_EQ(outside.read().error().code, Code::unsupported);
    Vmlinux longer;
    longer.add_alternative(12, kText + 100, 2, "\x90\x90\x90");
    EXPECT_EQ(longer.read().error().code, Code::unsupported);
}

TEST(BuiltKernel, has_the_other_places_in_their_order) {
    Vmlinux vmlinux;
    vmlinux.text[200] = '\xe8';
    vmlinux.text[300] = '\x2e';
    const auto list_of = [&](const std::string& name, std::initializer_list<std::uint64_t> places) {
        std::string list;
        const std::uint64_t at = kLists + 0x1000 * vmlinux.lists.size();
        for (const std::uint64_t place : places) put_distance(list, at, kText + place);
        vmlinux.lists.push_back({name, at, list});
    };
    list_of(".retpoline_sites", {300, 200, 0x9000});  // the last one is not in the code
    list_of(".return_sites", {50});
    list_of(".ibt_endbr_seal", {0});
    list_of("runtime_ptr_USER_PTR_MAX", {400, 500});
    list_of("runtime_shift_d_hash_shift", {600});
    std::string paravirt(16, '\0');
    const std::uint64_t place = kText + 700;
    std::memcpy(paravirt.data(), &place, sizeof place);
    paravirt[9] = 6;
    vmlinux.lists.push_back({".parainstructions", kLists + 0x9000, paravirt});
    const auto kernel = vmlinux.read().value();
    std::vector<std::tuple<Kind, unsigned, unsigned, unsigned>> all;
    for (const StartPatch& one : kernel.patches) {
        all.emplace_back(one.kind, one.at, one.size_bytes, one.other);
    }
    EXPECT_EQ(all, (std::vector<std::tuple<Kind, unsigned, unsigned, unsigned>>{
                       {Kind::landing, 0, 4, 0},
                       {Kind::return_jump, 50, 5, 0},
                       {Kind::indirect_call, 200, 5, 0},
                       {Kind::indirect_call, 300, 6, 0},
                       {Kind::constant, 400, 8, 0},
                       {Kind::constant, 500, 8, 0},
                       {Kind::constant, 600, 1, 1},
                       {Kind::paravirt, 700, 6, 0}}));
}

TEST(BuiltKernel, of_a_place_that_leads_out_of_the_code_is_refused) {
    Vmlinux vmlinux;
    std::string list;
    put_distance(list, kLists, kText + 4094);
    vmlinux.lists.push_back({".return_sites", kLists, list});
    EXPECT_EQ(vmlinux.read().error().code, Code::malformed);
}

TEST(BuiltKernel, says_what_is_wrong_with_a_file_that_is_none) {
    EXPECT_EQ(read_built_kernel({}).error().code, Code::malformed);
    Vmlinux nameless;
    nameless.banner = "no banner";
    EXPECT_NE(nameless.read().error().to_text().find("which kernel"), std::string::npos);
    Vmlinux cut;
    const std::string whole = cut.build();
    for (std::size_t bytes = 0; bytes < whole.size(); bytes += 61) {
        EXPECT_FALSE(read_built_kernel(as_bytes(whole).first(bytes)).has_value()) << bytes;
    }
}

TEST(PackedKernel, is_what_the_header_says_without_the_length_behind_it) {
    const std::string file = fake_vmlinuz("\x28\xb5\x2f\xfdpacked\x01\x02\x03\x04");
    EXPECT_EQ(as_text(packed_kernel(as_bytes(file)).value()), "\x28\xb5\x2f\xfdpacked");
    const std::string gzip = fake_vmlinuz("\x1f\x8bpacked");
    EXPECT_EQ(as_text(packed_kernel(as_bytes(gzip)).value()), "\x1f\x8bpacked");
}

TEST(PackedKernel, of_a_file_that_is_cut_off_or_no_kernel_is_an_error) {
    const std::string file = fake_vmlinuz("\x28\xb5\x2f\xfdpacked\x01\x02\x03\x04");
    for (std::size_t bytes = 0; bytes < file.size(); ++bytes) {
        EXPECT_FALSE(packed_kernel(as_bytes(file).first(bytes)).has_value()) << bytes;
    }
    std::string far = file;
    std::memset(far.data() + 0x248, '\xff', 8);
    EXPECT_FALSE(packed_kernel(as_bytes(far)).has_value());
}

BuiltKernel some_kernel() {
    return {.build_id = "abcd",
            .release = "6.1",
            .begin = kText,
            .text = std::string(5000, 'x'),
            .constants = {{kText + 0x1000000, "one"}, {kText + 0x1001000, std::string(3000, 'c')}},
            .replacements_begin = kLists,
            .replacements = "abc",
            .patches = {{Kind::landing, 5, 4}, {Kind::alternative, 10, 7, 1, 2}}};
}

TEST(PackedBaseline, is_read_as_it_was_written) {
    const std::string packed = pack(some_kernel());
    EXPECT_TRUE(is_packed_baseline(as_bytes(packed)));
    const auto kernel = unpack_built_kernel(as_bytes(packed)).value();
    EXPECT_EQ(kernel.text, some_kernel().text);
    ASSERT_EQ(kernel.constants.size(), 2u);
    EXPECT_EQ(kernel.constants[1].begin, kText + 0x1001000);
    EXPECT_EQ(kernel.constants[1].bytes, some_kernel().constants[1].bytes);
    EXPECT_EQ(kernel.release, "6.1");
    ASSERT_EQ(kernel.patches.size(), 2u);
    EXPECT_EQ(kernel.patches[1].other_bytes, 2);
}

TEST(PackedBaseline, that_is_damaged_or_contradicts_itself_is_refused) {
    const std::string packed = pack(some_kernel());
    for (std::size_t bytes = 0; bytes < packed.size(); bytes += 7) {
        EXPECT_FALSE(unpack_built_kernel(as_bytes(packed).first(bytes)).has_value()) << bytes;
    }
    const auto refused = [](auto&& change) {
        BuiltKernel kernel = some_kernel();
        change(kernel);
        const auto read = unpack_built_kernel(as_bytes(pack(kernel)));
        return !read.has_value() && read.error().code == Code::malformed;
    };
    EXPECT_TRUE(refused([](BuiltKernel& kernel) { kernel.patches[0].at = 4998; }));
    EXPECT_TRUE(refused([](BuiltKernel& kernel) { kernel.patches[1].other = 2; }));
    EXPECT_TRUE(refused([](BuiltKernel& kernel) { kernel.patches[0].at = 11; }));
}

}  // namespace
}  // namespace underseer::guest_linux
