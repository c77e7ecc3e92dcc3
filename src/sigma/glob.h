// Texts of rules: `*` and `?` stand for any text and any character, a backslash takes that from
// them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace underseer::sigma {

// ASCII letters only; all else stays as it is.
std::string lower(std::string_view text);

struct Token {
    enum class Kind : std::uint8_t { character, any_text, any_character };

    Kind kind = Kind::character;
    char character = 0;
};
// "a\*b*" is a, a star, b and any text. A backslash before anything else is itself.
std::vector<Token> tokens_of(std::string_view text);
// What stands between any texts: "a*b" makes "a" and "b", "*a" makes "" and "a".
// REQUIRES: no any_character among them.
std::vector<std::string> parts_of(const std::vector<Token>& tokens);

// Whether `text` is what `parts` say. Linear in it.
bool has_parts(std::string_view text, const std::vector<std::string>& parts);
// Of the names of selections: only `*` means something.
bool is_like(std::string_view name, std::string_view pattern);

}  // namespace underseer::sigma
