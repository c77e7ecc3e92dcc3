#include "guest_linux/btf.h"

#include <gtest/gtest.h>

#include "guest_linux/fake_guest.h"

namespace underseer::guest_linux {
namespace {

struct Built {
    FakeBtf btf;
    std::uint32_t integer = btf.add_int("int", 4);
    std::uint32_t pointer = btf.add_pointer(integer);
    std::uint32_t inner = btf.add_struct("inner", 8, {{"a", integer, 0}, {"b", integer, 32}});
    std::uint32_t anonymous =
        btf.add_struct("", 8, {{"x", integer, 0}, {"y", integer, 0}}, /*is_union=*/true);
    std::uint32_t alias = btf.add_typedef("inner_t", inner);
    std::uint32_t array = btf.add_array(alias, 3);
    std::uint32_t outer = btf.add_struct(
        "outer", 64,
        {{"in", alias, 64}, {"", anonymous, 128}, {"list", array, 192}, {"next", pointer, 384}});
    std::uint32_t flags =
        btf.add_struct("flags", 4, {{"low", integer, 0, 5}, {"high", integer, 5, 3}});
};

TEST(Btf, members_are_found_through_typedefs_and_anonymous_unions) {
    const Btf btf = Btf::parse(Built().btf.build()).value();
    const std::uint32_t outer = btf.find_struct("outer").value();
    EXPECT_EQ(btf.size_bytes(outer), 64u);
    EXPECT_EQ(btf.find_member(outer, "in.b")->offset_bits, 64u + 32);
    EXPECT_EQ(btf.find_member(outer, "y")->offset_bits, 128u);
    EXPECT_EQ(btf.find_member(outer, "list")->size_bits, 3u * 64);
    EXPECT_EQ(btf.find_member(outer, "next")->size_bits, 64u);
    EXPECT_FALSE(btf.find_member(outer, "in.c"));
    EXPECT_FALSE(btf.find_member(outer, "next.a")) << "pointers are not followed";
    EXPECT_FALSE(btf.find_struct("inner_t")) << "a typedef is no struct";
}

TEST(Btf, bitfields_keep_their_place_and_width) {
    const Btf btf = Btf::parse(Built().btf.build()).value();
    const auto high = btf.find_member(btf.find_struct("flags").value(), "high");
    EXPECT_EQ(high->offset_bits, 5u);
    EXPECT_EQ(high->size_bits, 3u);
}

TEST(Btf, values_have_the_names_of_their_own_enum) {
    FakeBtf built;
    built.add_enum("kind", {});  // declared before it is defined
    built.add_enum("kind", {{"NONE", -1}, {"FIRST", 0}, {"SECOND", 1}});
    built.add_enum("other", {{"OTHER", 1}});
    const Btf btf = Btf::parse(built.build()).value();
    EXPECT_EQ(btf.enumerator_name("kind", 1), "SECOND");
    EXPECT_EQ(btf.enumerator_name("kind", -1), "NONE");
    EXPECT_EQ(btf.enumerator_name("other", 1), "OTHER");
    EXPECT_EQ(btf.enumerator_name("kind", 7), "");
    EXPECT_EQ(btf.enumerator_name("unknown", 1), "");
}

TEST(Btf, every_damaged_byte_is_survived) {
    const auto good = Built().btf.build();
    for (std::size_t at = 0; at < good.size(); ++at) {
        for (const int flip : {0x01, 0x80, 0xff}) {
            auto bad = good;
            bad[at] ^= std::byte(flip);
            const auto btf = Btf::parse(bad);
            if (!btf.has_value()) continue;
            for (const char* name : {"outer", "inner", "flags"}) {
                const auto id = btf->find_struct(name);
                if (!id) continue;
                (void)btf->size_bytes(*id);
                (void)btf->find_member(*id, "in.b");
            }
        }
    }
}

TEST(Btf, every_cut_is_refused) {
    const auto good = Built().btf.build();
    for (std::size_t keep = 0; keep < good.size(); ++keep) {
        EXPECT_FALSE(
            Btf::parse({good.begin(), good.begin() + static_cast<long>(keep)}).has_value());
    }
}

TEST(Btf, a_forged_struct_that_contains_itself_ends) {
    FakeBtf forged;
    const std::uint32_t integer = forged.add_int("int", 4);
    std::vector<FakeBtf::Member> members;
    for (int i = 0; i < 200; ++i) members.push_back({"", integer + 1, 0});
    forged.add_struct("loop", 8, members);
    const Btf btf = Btf::parse(forged.build()).value();
    EXPECT_FALSE(btf.find_member(btf.find_struct("loop").value(), "nothing"));
}

}  // namespace
}  // namespace underseer::guest_linux
