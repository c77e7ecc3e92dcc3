#include "json/value.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace underseer::json {

namespace {
using Node = nlohmann::json;
constexpr int kMaxDepth = 64;
const Node& as_node(const void* node) {
    return *static_cast<const Node*>(node);
}
}  // namespace

struct Value::Document {
    Node root;
};

Value::Value(std::shared_ptr<const Document> document, const void* node, std::string path)
    : document_(std::move(document)), node_(node), path_(std::move(path)) {}

Result<Value> Value::parse(std::string_view text, std::size_t max_bytes) {
    if (text.size() > max_bytes) {
        return fail(Code::limit,
                    fmt::format("JSON of {} bytes; at most {} are taken", text.size(), max_bytes));
    }
    bool too_deep = false;
    auto document = std::make_shared<Document>();
    try {
        const auto depth_guard = [&](int depth, Node::parse_event_t, Node&) {
            // The library's parser keeps its own stack, so depth costs memory and not ours.
            if (depth > kMaxDepth) too_deep = true;
            return true;
        };
        document->root = Node::parse(text, depth_guard);
    } catch (const Node::exception& error) {
        return fail(Code::malformed, fmt::format("not JSON: {}", error.what()));
    }
    if (too_deep) return fail(Code::limit, fmt::format("JSON of more than {} levels", kMaxDepth));
    const void* root = &document->root;
    return Value(std::move(document), root, "$");
}

Unexpected Value::wrong_type(std::string_view wanted) const {
    return fail(Code::malformed, fmt::format("{}: expected {}, found {}", path_, wanted,
                                             as_node(node_).type_name()));
}

Result<Value> Value::at(std::string_view key) const {
    const Node& node = as_node(node_);
    if (!node.is_object()) return wrong_type("an object");
    const auto found = node.find(std::string(key));
    if (found == node.end()) {
        return fail(Code::not_found, fmt::format("{}.{} is missing", path_, key));
    }
    return Value(document_, &*found, fmt::format("{}.{}", path_, key));
}

bool Value::has(std::string_view key) const {
    const Node& node = as_node(node_);
    return node.is_object() && node.contains(std::string(key));
}

Result<std::vector<Value>> Value::items() const {
    const Node& node = as_node(node_);
    if (!node.is_array()) return wrong_type("an array");
    std::vector<Value> values;
    for (std::size_t i = 0; i < node.size(); ++i) {
        values.push_back(Value(document_, &node[i], fmt::format("{}[{}]", path_, i)));
    }
    return values;
}

Result<std::string> Value::string() const {
    const Node& node = as_node(node_);
    if (!node.is_string()) return wrong_type("a string");
    return node.get<std::string>();
}
Result<std::int64_t> Value::integer() const {
    const Node& node = as_node(node_);
    if (!node.is_number_integer()) return wrong_type("an integer");
    if (node.is_number_unsigned() && node.get<std::uint64_t>() > INT64_MAX) {
        return wrong_type("a smaller integer");
    }
    return node.get<std::int64_t>();
}
Result<std::uint64_t> Value::unsigned_integer() const {
    const Node& node = as_node(node_);
    if (!node.is_number_unsigned()) return wrong_type("a number that is not negative");
    return node.get<std::uint64_t>();
}
Result<bool> Value::boolean() const {
    const Node& node = as_node(node_);
    if (!node.is_boolean()) return wrong_type("true or false");
    return node.get<bool>();
}

}  // namespace underseer::json
