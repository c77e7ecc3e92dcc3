#include "json/value.h"

#include <gtest/gtest.h>

namespace underseer::json {
namespace {

TEST(Value, errors_name_the_place) {
    const Value value = Value::parse(R"({"return": {"status": 5, "list": [1, "x"]}})").value();
    const Value inner = value.at("return").value();
    EXPECT_EQ(inner.at("status").value().integer().value(), 5);
    EXPECT_EQ(inner.at("status").value().string().error().message,
              "$.return.status: expected a string, found number");
    EXPECT_EQ(inner.at("nothing").error().code, Code::not_found);
    EXPECT_EQ(inner.at("list").value().items().value()[1].integer().error().message,
              "$.return.list[1]: expected an integer, found string");
}

TEST(Value, hostile_text_is_refused) {
    EXPECT_EQ(Value::parse("{").error().code, Code::malformed);
    EXPECT_EQ(Value::parse("{} x").error().code, Code::malformed);
    EXPECT_EQ(Value::parse(std::string(100, ' '), 50).error().code, Code::limit);
    EXPECT_FALSE(Value::parse(std::string(100'000, '[')).has_value());
    EXPECT_EQ(Value::parse(std::string(80, '[') + std::string(80, ']')).error().code, Code::limit);
    EXPECT_FALSE(Value::parse("-1").value().unsigned_integer().has_value());
    EXPECT_FALSE(Value::parse("18446744073709551615").value().integer().has_value());
}

}  // namespace
}  // namespace underseer::json
