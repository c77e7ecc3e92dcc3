#include "guest_linux/program_set.h"

#include <elf.h>
#include <gtest/gtest.h>

#include <cstring>

#include "crypto/hash.h"
#include "guest_linux/fake_elf.h"

namespace underseer::guest_linux {
namespace {

FakeElf daemon_file() {
    FakeElf elf;
    elf.build_id = "\x12\x34\xab\xcd";
    return elf;
}

ProgramSet set_of(const std::string& elf) {
    ProgramSet set{.package = "daemon_1_amd64", .programs = {read_program(as_bytes(elf)).value()}};
    set.programs.front().path = "/usr/sbin/daemon";
    return set;
}

template <typename T>
void overwrite(std::string& file, std::size_t at, T value) {
    std::memcpy(file.data() + at, &value, sizeof value);
}

TEST(ProgramSet, has_each_page_that_is_loaded_as_the_page_cache_has_it) {
    const std::string elf = daemon_file().build();
    const auto program = read_program(as_bytes(elf));
    ASSERT_TRUE(program.has_value()) << program.error().to_text();
    EXPECT_EQ(program->build_id, "1234abcd");
    // Three segments that lie beside each other.
    ASSERT_EQ(program->pages.size(), 1u);
    EXPECT_EQ(program->pages[0].first, 0u);
    ASSERT_EQ(program->pages[0].count(), 4u);
    const auto digest = crypto::sha256(as_bytes(elf).subspan(0x1000, 0x1000));
    EXPECT_EQ(program->pages[0].hashes.substr(kKnownHashBytes, kKnownHashBytes),
              as_text(digest).substr(0, kKnownHashBytes));
}

TEST(ProgramSet, has_zeros_behind_the_end_of_the_file) {
    const std::string text = "the last bytes";
    std::string page = text;
    page.resize(kPageSize);
    EXPECT_EQ(known_hash(as_bytes(text)), known_hash(as_bytes(page)));
    EXPECT_NE(known_hash(as_bytes(text)), known_hash(as_bytes(text).first(5)));
}

TEST(ProgramSet, has_no_object_files_kernels_or_programs_without_a_build_id) {
    FakeElf elf = daemon_file();
    elf.elf_type = ET_REL;
    EXPECT_FALSE(is_program(as_bytes(elf.build())));
    EXPECT_FALSE(read_program(as_bytes(elf.build())).has_value());
    elf = daemon_file();
    elf.base = 0xffffffff81000000;
    EXPECT_FALSE(is_program(as_bytes(elf.build())));
    elf = daemon_file();
    elf.build_id.clear();
    EXPECT_TRUE(is_program(as_bytes(elf.build())));
    EXPECT_EQ(read_program(as_bytes(elf.build())).error().code, Code::not_found);
    EXPECT_FALSE(is_program({}));
    EXPECT_FALSE(is_program(as_bytes(std::string("#!/bin/sh\n"))));
}

TEST(ProgramSet, of_an_elf_file_that_lies_is_none) {
    const std::string good = daemon_file().build();
    constexpr std::size_t kFirstSegment = sizeof(Elf64_Ehdr);
    std::string bad = good;
    overwrite(bad, kFirstSegment + offsetof(Elf64_Phdr, p_filesz), std::uint64_t{1} << 40);
    EXPECT_FALSE(read_program(as_bytes(bad)).has_value());
    bad = good;
    overwrite(bad, kFirstSegment + offsetof(Elf64_Phdr, p_offset), ~std::uint64_t{0} - 5);
    EXPECT_EQ(read_program(as_bytes(bad)).value().pages.size(), 1u) << "what is nowhere is nothing";
    bad = good;
    overwrite(bad, offsetof(Elf64_Ehdr, e_phnum), std::uint16_t{0xffff});
    EXPECT_FALSE(read_program(as_bytes(bad)).has_value());
    bad = good;
    overwrite(bad, offsetof(Elf64_Ehdr, e_phoff), ~std::uint64_t{0} - 1);
    EXPECT_FALSE(read_program(as_bytes(bad)).has_value());
    for (std::size_t bytes = 0; bytes < good.size(); bytes += 97) {
        (void)read_program(as_bytes(good).first(bytes));
    }
}

TEST(ProgramSet, is_the_same_when_it_is_read_again_one_after_the_other_too) {
    const ProgramSet set = set_of(daemon_file().build());
    const std::string packed = pack(set);
    EXPECT_TRUE(is_packed_programs(as_bytes(packed)));
    const auto again = unpack_programs(as_bytes(packed + packed));
    ASSERT_TRUE(again.has_value()) << again.error().to_text();
    ASSERT_EQ(again->size(), 2u);
    for (const ProgramSet& one : *again) {
        EXPECT_EQ(one.package, set.package);
        EXPECT_EQ(one.programs[0].path, "/usr/sbin/daemon");
        EXPECT_EQ(one.programs[0].build_id, "1234abcd");
        EXPECT_EQ(one.programs[0].pages[0].hashes, set.programs[0].pages[0].hashes);
    }
    EXPECT_TRUE(unpack_programs({}).value().empty());
}

TEST(ProgramSet, that_contradicts_itself_is_refused) {
    const auto refused = [](const ProgramSet& set) {
        return !unpack_programs(as_bytes(pack(set))).has_value();
    };
    const ProgramSet good = set_of(daemon_file().build());
    EXPECT_FALSE(refused(good));
    ProgramSet bad = good;
    bad.programs[0].pages[0].hashes += "x";
    EXPECT_TRUE(refused(bad));
    bad = good;
    bad.programs[0].pages.push_back(bad.programs[0].pages[0]);
    EXPECT_TRUE(refused(bad)) << "pages that are told twice";
    bad = good;
    bad.programs[0].pages[0].first = ~std::uint64_t{0};
    EXPECT_TRUE(refused(bad));
    bad = good;
    bad.programs[0].build_id.clear();
    EXPECT_TRUE(refused(bad));
    bad = good;
    bad.package.clear();
    EXPECT_TRUE(refused(bad));
    const std::string packed = pack(good);
    for (std::size_t bytes = 1; bytes < packed.size(); ++bytes) {
        EXPECT_FALSE(unpack_programs(as_bytes(packed).first(bytes)).has_value()) << bytes;
    }
}

}  // namespace
}  // namespace underseer::guest_linux
