#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <limits>

#include "json/value.h"
#include "json/writer.h"

namespace underseer::json {
namespace {

std::string in_quotes(std::string_view text) {
    std::string out;
    append_string(out, text);
    return out;
}

TEST(JsonValue, an_error_names_the_place) {
    const Value value = Value::parse(R"({"return":{"status":7,"list":[1,"x"]}})").value();
    const Value inner = value.at("return").value();
    EXPECT_EQ(inner.at("status").value().as_string().error().message,
              "$.return.status: expected string, found number");
    EXPECT_EQ(inner.at("none").error().message, "$.return: no member \"none\"");
    EXPECT_EQ(inner.at("list").value().elements().value()[1].as_int().error().message,
              "$.return.list[1]: expected whole number, found string");
    EXPECT_EQ(value.at("return").value().at("status").value().at("x").error().message,
              "$.return.status: expected object, found number");
}

TEST(JsonValue, what_is_no_json_is_refused_with_the_byte) {
    for (const char* text : {"", "{", "[1,]", "{\"a\":1,}", "nul", "1 2", "\"\xff\"", "01", "NaN",
                             "1e999", "'a'", "[1] // x", "\"\t\""}) {
        const auto parsed = Value::parse(text);
        ASSERT_FALSE(parsed.has_value()) << text;
        EXPECT_EQ(parsed.error().code, Code::malformed) << text;
    }
    EXPECT_EQ(Value::parse("[1, 2 3]").error().message, "no JSON: error at byte 7");
}

TEST(JsonValue, depth_and_size_have_bounds) {
    const std::string deep = std::string(64, '[') + std::string(64, ']');
    EXPECT_TRUE(Value::parse(deep, {.depth = 64}).has_value());
    EXPECT_EQ(Value::parse(deep, {.depth = 63}).error().code, Code::limit);
    EXPECT_EQ(Value::parse(std::string(1'000'000, '[')).error().code, Code::limit);
    EXPECT_TRUE(Value::parse(R"(["[[[\"[[[", "{{{"])", {.depth = 1}).has_value());
    EXPECT_EQ(Value::parse("[1,2,3]", {.bytes = 6}).error().code, Code::limit);
}

TEST(JsonValue, whole_numbers_are_checked_for_sign_and_size) {
    const auto number = [](std::string_view text) { return Value::parse(text).value(); };
    EXPECT_EQ(number("18446744073709551615").as_uint().value(), UINT64_MAX);
    EXPECT_EQ(number("\"18446744073709551615\"").as_uint().value(), UINT64_MAX);
    EXPECT_FALSE(number("18446744073709551616").as_uint().has_value());
    EXPECT_FALSE(number("\"18446744073709551616\"").as_uint().has_value());
    EXPECT_FALSE(number("\"7x\"").as_uint().has_value());
    EXPECT_FALSE(number("\"\"").as_uint().has_value());
    EXPECT_FALSE(number("-1").as_uint().has_value());
    EXPECT_FALSE(number("1.0").as_uint().has_value());
    EXPECT_FALSE(number("9223372036854775808").as_int().has_value());
    EXPECT_EQ(number("-9223372036854775808").as_int().value(), INT64_MIN);
}

TEST(JsonValue, a_value_outlives_the_document_it_came_from) {
    std::optional<Value> kept;
    {
        kept = Value::parse(R"({"a":["text"]})").value().at("a").value().elements().value()[0];
    }
    EXPECT_EQ(kept->as_string().value(), "text");
}

TEST(JsonWriter, members_stand_in_the_order_written) {
    std::string out;
    Writer writer(&out);
    writer.begin_object().member("z", 1).member("a", true).key("list").begin_array();
    writer.value("x").value(nullptr).begin_object().end_object().end_array();
    writer.key("big").big(1ull << 60).key("none").value(std::nan("")).end_object();
    EXPECT_TRUE(writer.complete());
    EXPECT_EQ(out,
              R"({"z":1,"a":true,"list":["x",null,{}],"big":"1152921504606846976","none":null})");
}

TEST(JsonWriter, pretty_output_is_indented) {
    std::string out;
    Writer writer(&out, Style::pretty);
    writer.begin_object().member("a", 1).key("b").begin_array().value(2).value(3).end_array();
    writer.key("c").begin_array().end_array().end_object();
    EXPECT_EQ(out, "{\n  \"a\": 1,\n  \"b\": [\n    2,\n    3\n  ],\n  \"c\": []\n}");
}

TEST(JsonWriter, what_a_terminal_would_obey_is_escaped) {
    EXPECT_EQ(in_quotes("\x1b[31m\x07\x7f"), R"("\u001b[31m\u0007\u007f")");
    EXPECT_EQ(in_quotes("\xc2\x9b"), R"("\u009b")");  // C1 CSI
    EXPECT_EQ(in_quotes("a\"b\\c\n\t\r"), R"("a\"b\\c\n\t\r")");
    EXPECT_EQ(in_quotes(std::string_view("\0", 1)), R"("\u0000")");
    EXPECT_EQ(in_quotes("\u00e4\u20ac\U0001f600"), "\"\u00e4\u20ac\U0001f600\"");
}

TEST(JsonWriter, bytes_that_are_no_utf8_become_the_replacement_character) {
    const std::string r = "\xef\xbf\xbd";
    EXPECT_EQ(in_quotes("a\xff"), "\"a" + r + "\"");
    EXPECT_EQ(in_quotes("\xc0\xaf"), "\"" + r + r + "\"");                  // overlong
    EXPECT_EQ(in_quotes("\xed\xa0\x80"), "\"" + r + r + r + "\"");          // surrogate
    EXPECT_EQ(in_quotes("\xf4\x90\x80\x80"), "\"" + r + r + r + r + "\"");  // above U+10FFFF
    EXPECT_EQ(in_quotes("\xe2\x82"), "\"" + r + r + "\"");                  // cut short
}

TEST(JsonWriterDeathTest, a_value_without_its_key_is_our_bug) {
    std::string out;
    Writer writer(&out);
    writer.begin_object();
    EXPECT_DEATH(writer.value(1), "CHECK");
    EXPECT_DEATH(writer.end_array(), "CHECK");
}

// A random tree, written; read back it must say the same. Depth is bounded by `levels`.
void write_tree(Writer& writer, int levels, std::vector<std::string>& expected) {
    switch (*rc::gen::inRange(0, levels > 0 ? 7 : 5)) {
        case 0: {
            const auto text = *rc::gen::string<std::string>();
            writer.value(text);
            expected.push_back("s" + Value::parse(in_quotes(text)).value().as_string().value());
            break;
        }
        case 1: {
            const auto number = *rc::gen::arbitrary<std::int64_t>();
            writer.value(number);
            expected.push_back("i" + std::to_string(number));
            break;
        }
        case 2: {
            const auto number = *rc::gen::arbitrary<std::uint64_t>();
            writer.big(number);
            expected.push_back("s" + std::to_string(number));
            break;
        }
        case 3: {
            const bool flag = *rc::gen::arbitrary<bool>();
            writer.value(flag);
            expected.push_back(flag ? "true" : "false");
            break;
        }
        case 4:
            writer.value(nullptr);
            expected.push_back("null");
            break;
        case 5: {
            const int size = *rc::gen::inRange(0, 4);
            expected.push_back("[" + std::to_string(size));
            writer.begin_array();
            for (int i = 0; i < size; ++i) write_tree(writer, levels - 1, expected);
            writer.end_array();
            break;
        }
        default: {
            const int size = *rc::gen::inRange(0, 4);
            expected.push_back("{" + std::to_string(size));
            writer.begin_object();
            for (int i = 0; i < size; ++i) {
                writer.key(std::string(1, static_cast<char>('a' + i)));
                write_tree(writer, levels - 1, expected);
            }
            writer.end_object();
        }
    }
}

void read_tree(const Value& value, std::vector<std::string>& found) {
    switch (value.kind()) {
        case Kind::null:
            found.push_back("null");
            break;
        case Kind::boolean:
            found.push_back(value.as_bool().value() ? "true" : "false");
            break;
        case Kind::number:
            found.push_back("i" + std::to_string(value.as_int().value()));
            break;
        case Kind::string:
            found.push_back("s" + value.as_string().value());
            break;
        case Kind::array: {
            const auto elements = value.elements().value();
            found.push_back("[" + std::to_string(elements.size()));
            for (const auto& element : elements) read_tree(element, found);
            break;
        }
        case Kind::object: {
            const auto members = value.members().value();
            found.push_back("{" + std::to_string(members.size()));
            for (const auto& [name, member] : members) read_tree(member, found);
        }
    }
}

RC_GTEST_PROP(JsonRoundTrip, what_is_written_is_read_back, ()) {
    std::string out;
    std::vector<std::string> expected;
    const Style style = *rc::gen::element(Style::compact, Style::pretty);
    Writer writer(&out, style);
    write_tree(writer, 4, expected);
    std::vector<std::string> found;
    read_tree(Value::parse(out).value(), found);
    RC_ASSERT(found == expected);
}

RC_GTEST_PROP(JsonRoundTrip, any_bytes_give_valid_json_and_valid_utf8_comes_back, ()) {
    const auto bytes = *rc::gen::container<std::string>(rc::gen::arbitrary<char>());
    RC_ASSERT(Value::parse(in_quotes(bytes)).has_value());
    // What came through once is valid UTF-8 and must come through unchanged.
    const std::string valid = Value::parse(in_quotes(bytes)).value().as_string().value();
    RC_ASSERT(Value::parse(in_quotes(valid)).value().as_string().value() == valid);
}

RC_GTEST_PROP(JsonRoundTrip, any_double_comes_back, (double number)) {
    RC_PRE(std::isfinite(number));
    std::string out;
    Writer(&out).value(number);
    RC_ASSERT(Value::parse(out).value().as_double().value() == number);
}

}  // namespace
}  // namespace underseer::json
