// The YAML of a rule as a tree that knows its lines. What rules have no use for is refused:
// aliases, tags, several documents, a key twice.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace underseer::sigma {

struct Node {
    enum class Kind : std::uint8_t { scalar, list, map };

    Kind kind = Kind::scalar;
    std::uint32_t line = 0;         // where it begins; of what has a key, that of the key
    std::string text;               // of a scalar
    bool plain = false;             // without quotes: `null` is nothing, and not the word
    std::vector<std::string> keys;  // of a map: those of `items`
    std::vector<Node> items;

    bool is_null() const;
    // Null when there is no such key.
    const Node* find(std::string_view key) const;
};

// `line`: of what is wrong, when something is.
Result<Node> parse_yaml(std::string_view text, std::uint32_t& line);

}  // namespace underseer::sigma
