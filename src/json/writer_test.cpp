#include "json/writer.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <nlohmann/json.hpp>

namespace underseer::json {
namespace {

std::string string_json(std::string_view text) {
    Writer writer;
    writer.string(text);
    return writer.take();
}

TEST(Writer, whatever_the_bytes_the_result_is_valid_json) {
    rc::check([](const std::vector<char>& bytes) {
        const std::string text(bytes.begin(), bytes.end());
        RC_ASSERT(nlohmann::json::accept(string_json(text)));
    });
}

TEST(Writer, valid_text_comes_back_unchanged) {
    for (const std::string text : {"plain", "quote\" and \\", "tab\tnewline\n", "\x1b[31mred",
                                   "gr\xc3\xbc\xc3\x9f", "\xf0\x9f\x90\xa7", ""}) {
        EXPECT_EQ(nlohmann::json::parse(string_json(text)).get<std::string>(), text);
    }
}

TEST(Writer, no_control_character_reaches_the_terminal) {
    rc::check([](const std::vector<char>& bytes) {
        for (const char c : string_json({bytes.data(), bytes.size()})) {
            RC_ASSERT(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
        }
    });
    EXPECT_EQ(string_json("\xc2\x9b"), "\"\\u009b\"");
    EXPECT_EQ(string_json("\xff"), "\"\xef\xbf\xbd\"");
    EXPECT_EQ(string_json("\xed\xa0\x80"), "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
}

TEST(Writer, numbers_that_a_double_cannot_hold_are_strings) {
    Writer writer;
    writer.begin_array();
    writer.number(std::uint64_t{1} << 53);
    writer.number((std::uint64_t{1} << 53) + 1);
    writer.number(~std::uint64_t{0});
    writer.number(std::int64_t{-5});
    writer.end_array();
    EXPECT_EQ(writer.text(), "[9007199254740992,\"9007199254740993\",\"18446744073709551615\",-5]");
}

TEST(Writer, objects_nest_and_indent) {
    Writer writer(2);
    writer.begin_object();
    writer.key("a");
    writer.begin_array();
    writer.end_array();
    writer.key("b");
    writer.boolean(true);
    writer.end_object();
    EXPECT_EQ(writer.text(), "{\n  \"a\": [],\n  \"b\": true\n}");
}

}  // namespace
}  // namespace underseer::json
