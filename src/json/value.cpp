#include "json/value.h"

#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

namespace underseer::json {

using Node = nlohmann::json;

struct Value::Document {
    Node root;
};

namespace {

// Depth of nesting, found before parsing: what comes later may then recurse. Brackets in strings
// do not count; in text that is no JSON the answer does not matter.
bool is_deeper_than(std::string_view text, std::size_t limit) {
    std::size_t depth = 0;
    bool in_string = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (in_string) {
            if (c == '\\') ++i;
            if (c == '"') in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > limit) return true;
        } else if ((c == ']' || c == '}') && depth > 0) {
            --depth;
        }
    }
    return false;
}

const Node& node_at(const void* node) {
    return *static_cast<const Node*>(node);
}

}  // namespace

std::string_view to_string(Kind kind) {
    switch (kind) {
        case Kind::null:
            return "null";
        case Kind::boolean:
            return "boolean";
        case Kind::number:
            return "number";
        case Kind::string:
            return "string";
        case Kind::array:
            return "array";
        case Kind::object:
            return "object";
    }
    return "unknown";
}

Result<Value> Value::parse(std::string_view text, ParseLimits limits) {
    if (text.size() > limits.bytes) {
        return fail(Code::limit, fmt::format("JSON of {} bytes; at most {} are read", text.size(),
                                             limits.bytes));
    }
    if (is_deeper_than(text, limits.depth)) {
        return fail(Code::limit, fmt::format("JSON nested more than {} deep", limits.depth));
    }
    auto document = std::make_shared<Document>();
    try {
        document->root = Node::parse(text);
    } catch (const Node::parse_error& error) {
        // Its own message quotes the foreign text; the position is enough.
        return fail(Code::malformed, fmt::format("no JSON: error at byte {}", error.byte));
    } catch (const Node::exception& error) {
        // Numbers beyond a double are reported apart from syntax errors (406).
        return fail(Code::malformed, fmt::format("no JSON: error {}", error.id));
    }
    const void* root = &document->root;
    return Value(std::move(document), root, "$");
}

Kind Value::kind() const {
    switch (node_at(node_).type()) {
        case Node::value_t::boolean:
            return Kind::boolean;
        case Node::value_t::number_integer:
        case Node::value_t::number_unsigned:
        case Node::value_t::number_float:
            return Kind::number;
        case Node::value_t::string:
            return Kind::string;
        case Node::value_t::array:
            return Kind::array;
        case Node::value_t::object:
            return Kind::object;
        default:
            return Kind::null;  // binary and discarded do not come from parsed text
    }
}

Unexpected Value::expected(std::string_view what) const {
    return fail(Code::malformed,
                fmt::format("{}: expected {}, found {}", path_, what, to_string(kind())));
}

Result<Value> Value::at(std::string_view key) const {
    if (kind() != Kind::object) return expected("object");
    auto member = find(key);
    if (!member) return fail(Code::malformed, fmt::format("{}: no member \"{}\"", path_, key));
    return *std::move(member);
}

std::optional<Value> Value::find(std::string_view key) const {
    const Node& node = node_at(node_);
    if (!node.is_object()) return std::nullopt;
    const auto member = node.find(key);
    if (member == node.end()) return std::nullopt;
    return Value(document_, &*member, fmt::format("{}.{}", path_, key));
}

Result<std::vector<Value>> Value::elements() const {
    const Node& node = node_at(node_);
    if (!node.is_array()) return expected("array");
    std::vector<Value> values;
    values.reserve(node.size());
    for (const Node& element : node) {
        values.push_back(Value(document_, &element, fmt::format("{}[{}]", path_, values.size())));
    }
    return values;
}

Result<std::vector<std::pair<std::string, Value>>> Value::members() const {
    const Node& node = node_at(node_);
    if (!node.is_object()) return expected("object");
    std::vector<std::pair<std::string, Value>> values;
    values.reserve(node.size());
    for (auto member = node.begin(); member != node.end(); ++member) {
        values.emplace_back(member.key(), Value(document_, &member.value(),
                                                fmt::format("{}.{}", path_, member.key())));
    }
    return values;
}

Result<std::string> Value::as_string() const {
    const Node& node = node_at(node_);
    if (!node.is_string()) return expected("string");
    return node.get_ref<const std::string&>();
}

Result<bool> Value::as_bool() const {
    const Node& node = node_at(node_);
    if (!node.is_boolean()) return expected("boolean");
    return node.get<bool>();
}

Result<double> Value::as_double() const {
    const Node& node = node_at(node_);
    if (!node.is_number()) return expected("number");
    return node.get<double>();
}

Result<std::int64_t> Value::as_int() const {
    const Node& node = node_at(node_);
    if (!node.is_number_integer()) return expected("whole number");
    if (node.is_number_unsigned() &&
        node.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) {
        return fail(Code::malformed, fmt::format("{}: number above 2^63", path_));
    }
    return node.get<std::int64_t>();
}

Result<std::uint64_t> Value::as_uint() const {
    const Node& node = node_at(node_);
    if (node.is_number_unsigned()) return node.get<std::uint64_t>();
    if (node.is_number_integer()) {
        return fail(Code::malformed, fmt::format("{}: expected a number from 0 up", path_));
    }
    if (!node.is_string()) return expected("whole number");
    const auto& digits = node.get_ref<const std::string&>();
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size()) {
        return fail(Code::malformed, fmt::format("{}: expected decimal digits", path_));
    }
    return value;
}

}  // namespace underseer::json
