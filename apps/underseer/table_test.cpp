#include "table.h"

#include <gtest/gtest.h>

namespace underseer::cli {
namespace {

TEST(Printable, shows_what_is_not_seen_and_leaves_the_rest) {
    EXPECT_EQ(printable("caf\xc3\xa9 \xe6\xbc\xa2 \xf0\x9f\x90\xa7"),
              "caf\xc3\xa9 \xe6\xbc\xa2 \xf0\x9f\x90\xa7");
    EXPECT_EQ(printable("\x1b[2J\x7f\n\xc2\x9b"), "\\x1b[2J\\x7f\\x0a\\xc2\\x9b");
    EXPECT_EQ(printable("a\xe2\x80\xae\xe2\x80\x8b"), "a\\xe2\\x80\\xae\\xe2\\x80\\x8b");
    EXPECT_EQ(printable("\xf3\xa0\x81\x81"), "\\xf3\\xa0\\x81\\x81") << "a tag character";
    EXPECT_EQ(printable("\xc0\xaf\xed\xa0\x80\xff\xe6\xbc"),
              "\\xc0\\xaf\\xed\\xa0\\x80\\xff\\xe6\\xbc");
}

TEST(PrintedTable, on_a_narrow_terminal_long_texts_are_cut_and_numbers_are_not) {
    Table table({{"PID", Align::right}, {"EXE"}, {"S"}, {"COMMAND"}});
    table.add({"1234567", std::string(60, 'e'), "R", std::string(65536, 'c')});
    table.add({"1", "/bin/sh", "S", "sh"});
    const std::string text = table.render(60, false);
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = text.find('\n', at);
        std::size_t columns = 0;
        for (std::size_t i = at; i < end; ++i) columns += (text[i] & 0xc0) != 0x80;
        EXPECT_LE(columns, 60u);
        at = end + 1;
    }
    EXPECT_NE(text.find("1234567  eeee"), std::string::npos) << text;
    EXPECT_NE(text.find("\xe2\x80\xa6  R  ccc"), std::string::npos) << "both are cut\n" << text;
    EXPECT_NE(text.find("      1  /bin/sh"), std::string::npos) << text;
    EXPECT_EQ(table.render(0, false).find("\xe2\x80\xa6"), std::string::npos) << "a file has all";
}

}  // namespace
}  // namespace underseer::cli
