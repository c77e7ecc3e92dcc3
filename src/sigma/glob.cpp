#include "sigma/glob.h"

#include <cstring>

#include "base/result.h"

namespace underseer::sigma {

std::string lower(std::string_view text) {
    std::string made(text);
    for (char& c : made) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    return made;
}

std::vector<Token> tokens_of(std::string_view text) {
    std::vector<Token> tokens;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '*') {
            tokens.push_back({Token::Kind::any_text});
        } else if (text[i] == '?') {
            tokens.push_back({Token::Kind::any_character});
        } else {
            const bool escapes = text[i] == '\\' && i + 1 < text.size() &&
                                 std::string_view("*?\\").contains(text[i + 1]);
            if (escapes) ++i;
            tokens.push_back({Token::Kind::character, text[i]});
        }
    }
    return tokens;
}

std::vector<std::string> parts_of(const std::vector<Token>& tokens) {
    std::vector<std::string> parts(1);
    for (const Token& token : tokens) {
        CHECK(token.kind != Token::Kind::any_character);
        if (token.kind == Token::Kind::character) {
            parts.back() += token.character;
        } else if (parts.size() == 1 || !parts.back().empty()) {  // "**" is "*"
            parts.emplace_back();
        }
    }
    return parts;
}

bool has_parts(std::string_view text, const std::vector<std::string>& parts) {
    if (parts.size() == 1) return text == parts.front();
    if (!text.starts_with(parts.front())) return false;
    text.remove_prefix(parts.front().size());
    if (text.size() < parts.back().size() || !text.ends_with(parts.back())) return false;
    text.remove_suffix(parts.back().size());
    for (std::size_t i = 1; i + 1 < parts.size(); ++i) {
        // glibc's is linear in both, where string_view's is their product.
        const void* found = ::memmem(text.data(), text.size(), parts[i].data(), parts[i].size());
        if (found == nullptr) return false;
        const auto begin = static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
        text.remove_prefix(begin + parts[i].size());
    }
    return true;
}

bool is_like(std::string_view name, std::string_view pattern) {
    std::vector<std::string> parts(1);
    for (const char c : pattern) {
        if (c == '*') {
            parts.emplace_back();
        } else {
            parts.back() += c;
        }
    }
    return has_parts(name, parts);
}

}  // namespace underseer::sigma
