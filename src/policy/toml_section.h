// The operator's TOML files: read only when nobody else can have written them, parsed strictly,
// with errors that name file, line and key. Wraps toml++, for this module alone.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

// toml++ without exceptions: a parse gives a result that is either a table or an error.
#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
// toml++ 3.3 asserts on some wrong texts ("[@]") that its next lines refuse; with NDEBUG it would
// promise the compiler that there are none.
#undef NDEBUG
#define TOML_ASSERT(expr) static_assert(true)
#include <toml++/toml.h>

namespace underseer::policy {

// The text of a file that decides what is seen, and so must be root's (or the calling user's) and
// not writable by others: Code::permission otherwise.
Result<std::string> read_owned_file(const std::string& path);

// Code::malformed with "FILE:LINE:COLUMN: what is wrong".
Result<toml::table> parse_toml(std::string_view text, const std::string& path);

// A table of the file, and the keys that may stand in it. Each key is taken once; what is left at
// the end is nobody's and an error: a misspelt key must not pass for a setting.
class Section {
  public:
    Section(const toml::table* table, std::string name, std::string_view file)
        : table_(table), name_(std::move(name)), file_(file) {}

    // Calls `use` with the node when the key is there. `use` returns what is wrong with it.
    Result<void> take(std::string_view key,
                      const std::function<Result<void>(const toml::node&)>& use);
    Result<void> end() const;

    std::string at(const toml::source_region& where, std::string_view key) const;

  private:
    const toml::table* table_;
    std::string name_;
    std::string_view file_;
    std::vector<std::string> known_;
};

// What is wrong with a value: "wants ..".
Unexpected wants(std::string_view what);
Result<std::string> text_of(const toml::node& node);
// For Section::take().
std::function<Result<void>(const toml::node&)> into_text(std::string* target);

}  // namespace underseer::policy
