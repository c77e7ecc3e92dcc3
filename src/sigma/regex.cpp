#include "sigma/regex.h"

#include <fmt/format.h>
#include <re2/re2.h>

#include "base/limits.h"

namespace underseer::sigma {

namespace {

// Those that the specification names: -, /, en dash, em dash, horizontal bar.
constexpr std::string_view kDashes = "(?:-|/|\xe2\x80\x93|\xe2\x80\x94|\xe2\x80\x95)";

bool is_of_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

bool is_word(const std::vector<Token>& tokens, std::size_t at) {
    return at < tokens.size() && tokens[at].kind == Token::Kind::character &&
           is_of_word(tokens[at].character);
}

}  // namespace

Result<std::shared_ptr<const re2::RE2>> compile_regex(const std::string& text) {
    if (text.size() > 2 * limits::kMaxSigmaPatternBytes) {
        return fail(Code::limit, "a regular expression is longer than any rule's");
    }
    re2::RE2::Options options;
    options.set_encoding(re2::RE2::Options::EncodingLatin1);  // a guest's bytes may be no UTF-8
    options.set_log_errors(false);
    options.set_max_mem(limits::kMaxSigmaRegexBytes);
    auto program = std::make_shared<const re2::RE2>(text, options);
    if (program->ok()) return program;
    return fail(Code::unsupported,
                fmt::format("the regular expression cannot be used: {}; it has the syntax of RE2, "
                            "which knows no looking around and no references back",
                            program->error()));
}

bool matches(const re2::RE2& program, std::string_view text) {
    return re2::RE2::PartialMatch(re2::StringPiece(text.data(), text.size()), program);
}

std::string regex_of(const std::vector<Token>& tokens, bool any_dash, bool cased) {
    std::string text = cased ? "(?s)\\A" : "(?si)\\A";
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        const Token& token = tokens[i];
        if (token.kind == Token::Kind::any_text) {
            text += ".*";
        } else if (token.kind == Token::Kind::any_character) {
            text += '.';
        } else if (any_dash && (token.character == '-' || token.character == '/') &&
                   is_word(tokens, i + 1) && !(i > 0 && is_word(tokens, i - 1))) {
            text += kDashes;
        } else {
            text += re2::RE2::QuoteMeta(re2::StringPiece(&token.character, 1));
        }
    }
    return text + "\\z";
}

}  // namespace underseer::sigma
