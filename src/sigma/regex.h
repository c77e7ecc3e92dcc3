// Regular expressions of rules, by RE2: linear in what they are matched against, and without what
// cannot be (references back, looking around).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "sigma/glob.h"

namespace re2 {
class RE2;
}

namespace underseer::sigma {

Result<std::shared_ptr<const re2::RE2>> compile_regex(const std::string& text);
bool matches(const re2::RE2& program, std::string_view text);

// That says the same as the tokens. `any_dash`: a dash or slash before a word is any of them.
std::string regex_of(const std::vector<Token>& tokens, bool any_dash, bool cased);

}  // namespace underseer::sigma
