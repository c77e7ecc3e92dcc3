#include "scan/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>

#include <array>
#include <map>

namespace underseer::scan {
namespace {

std::string packed_with(const std::map<std::string, std::string>& files, int (*format)(archive*),
                        int (*filter)(archive*)) {
    std::string out(1u << 20, '\0');
    std::size_t used = 0;
    archive* writer = archive_write_new();
    EXPECT_EQ(format(writer), ARCHIVE_OK);
    EXPECT_EQ(filter(writer), ARCHIVE_OK);
    archive_write_set_bytes_in_last_block(writer, 1);
    EXPECT_EQ(archive_write_open_memory(writer, out.data(), out.size(), &used), ARCHIVE_OK);
    for (const auto& [name, content] : files) {
        archive_entry* entry = archive_entry_new();
        archive_entry_set_pathname(entry, name.c_str());
        archive_entry_set_size(entry, static_cast<la_int64_t>(content.size()));
        archive_entry_set_filetype(entry, AE_IFREG);
        archive_entry_set_perm(entry, 0644);
        EXPECT_EQ(archive_write_header(writer, entry), ARCHIVE_OK);
        archive_write_data(writer, content.data(), content.size());
        archive_entry_free(entry);
    }
    archive_write_close(writer);
    archive_write_free(writer);
    out.resize(used);
    return out;
}

std::string stream(const std::string& content, int (*filter)(archive*)) {
    return packed_with({{"data", content}}, archive_write_set_format_raw, filter);
}

const std::string kText = [] {
    std::string text;
    for (int i = 0; i < 20'000; ++i) text += std::to_string(i * 7919);
    return text;
}();

TEST(Uncompress, gives_back_what_any_of_the_usual_programs_has_packed) {
    for (const auto filter : {archive_write_add_filter_gzip, archive_write_add_filter_bzip2,
                              archive_write_add_filter_xz, archive_write_add_filter_lzma,
                              archive_write_add_filter_zstd, archive_write_add_filter_lz4}) {
        EXPECT_EQ(uncompress(as_bytes(stream(kText, filter)), 1u << 20).value(), kText);
    }
}

// The form that Linux kernels use (lz4 -l): blocks of at most 8 MiB, each behind its length. One of
// literals only: 15 + 5 of them.
TEST(Uncompress, knows_the_old_form_of_lz4) {
    const std::string block = std::string("\xf0\x05") + "twenty bytes of text";
    const std::string packed =
        std::string("\x02\x21\x4c\x18", 4) + std::string("\x16\0\0\0", 4) + block;
    EXPECT_EQ(uncompress(as_bytes(packed), 100).value(), "twenty bytes of text");
}

TEST(Uncompress, ends_where_the_bound_is) {
    const auto bomb = stream(std::string(4u << 20, 'a'), archive_write_add_filter_zstd);
    EXPECT_LT(bomb.size(), 4096u);
    EXPECT_EQ(uncompress(as_bytes(bomb), 1u << 20).error().code, Code::limit);
}

TEST(Uncompress, says_what_is_damaged_and_what_is_not_packed) {
    std::string damaged = stream(kText, archive_write_add_filter_xz);
    damaged[damaged.size() / 2] ^= 1;
    EXPECT_EQ(uncompress(as_bytes(damaged), 1u << 20).error().code, Code::malformed);
    EXPECT_EQ(uncompress(as_bytes(std::string_view("plain text")), 100).error().code,
              Code::malformed);
    EXPECT_EQ(uncompress({}, 100).error().code, Code::malformed);
}

std::map<std::string, std::string> files_in(const std::string& packed,
                                            std::string_view unwanted = "none") {
    std::map<std::string, std::string> found;
    const auto done = each_file(
        as_bytes(packed), 1u << 20, [&](std::string_view name) { return name != unwanted; },
        [&](std::string_view name, std::string content) -> Result<bool> {
            found[std::string(name)] = std::move(content);
            return true;
        });
    EXPECT_TRUE(done.has_value()) << done.error().to_text();
    return found;
}

TEST(EachFile, is_of_ar_tar_and_cpio_compressed_or_not) {
    const std::map<std::string, std::string> files{{"a", "first"}, {"b", kText}};
    for (const auto format : {archive_write_set_format_ar_svr4, archive_write_set_format_gnutar,
                              archive_write_set_format_cpio_newc}) {
        for (const auto filter : {archive_write_add_filter_none, archive_write_add_filter_xz}) {
            EXPECT_EQ(files_in(packed_with(files, format, filter)), files);
        }
    }
}

TEST(EachFile, skips_what_nobody_wants_whatever_its_size) {
    const auto packed = packed_with({{"large", std::string(4u << 20, 'a')}, {"small", "here"}},
                                    archive_write_set_format_gnutar, archive_write_add_filter_zstd);
    EXPECT_EQ(files_in(packed, "large"), (std::map<std::string, std::string>{{"small", "here"}}));
    const auto wanted = each_file(
        as_bytes(packed), 1u << 20, [](std::string_view) { return true; },
        [](std::string_view, std::string) -> Result<bool> { return true; });
    ASSERT_FALSE(wanted.has_value());
    EXPECT_EQ(wanted.error().code, Code::limit);
    EXPECT_NE(wanted.error().to_text().find("large"), std::string::npos);
}

TEST(EachFile, ends_when_it_is_told_to) {
    const auto packed = packed_with({{"a", "1"}, {"b", "2"}}, archive_write_set_format_gnutar,
                                    archive_write_add_filter_none);
    int count = 0;
    EXPECT_TRUE(each_file(
                    as_bytes(packed), 100, [](std::string_view) { return true; },
                    [&](std::string_view, std::string) -> Result<bool> {
                        ++count;
                        return false;
                    })
                    .has_value());
    EXPECT_EQ(count, 1);
}

TEST(EachFile, says_when_it_is_no_archive) {
    const auto refused = each_file(
        as_bytes(std::string_view("this is a text and no archive of any kind")), 100,
        [](std::string_view) { return true; },
        [](std::string_view, std::string) -> Result<bool> { return true; });
    EXPECT_EQ(refused.error().code, Code::malformed);
}

}  // namespace
}  // namespace underseer::scan
