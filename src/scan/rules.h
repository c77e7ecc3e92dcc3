// YARA rules, compiled from text. libyara parses that text here: hostile text is compiled in a
// jail.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

struct YR_RULES;

namespace underseer::scan {

// Makes libyara ready, with everything that it and its modules open or allocate at their first use.
// REQUIRES: called before a jail closes; without a jail it is done by itself. False when a module
// did not do its work: rules that use it will fail, or end the process in a jail.
bool warm_up();

struct RuleFile {
    std::string name;  // for messages, and what an include directive of another file may call it
    std::string text;
    bool only_included = false;  // not compiled by itself
};

struct RuleError {
    std::string file;
    std::uint32_t line = 0;  // 0: the file as a whole
    std::string message;
};

class Rules {
  public:
    // Each file is a namespace of its own, so that files which know nothing of each other may call
    // their rules alike. The variables that community rules expect are there: filename, filepath,
    // extension, filetype, owner. An include directive finds what `files` holds, by its path
    // relative to the including file, and nothing else.
    //
    // Code::malformed when a file is no set of rules: `errors` says where and why, of every file.
    static Result<Rules> compile(std::span<const RuleFile> files, std::vector<RuleError>& errors);

    std::size_t count() const { return count_; }
    YR_RULES* raw() const { return rules_.get(); }

  private:
    struct Destroy {
        void operator()(YR_RULES* rules) const;
    };
    explicit Rules(YR_RULES* rules);

    std::unique_ptr<YR_RULES, Destroy> rules_;
    std::size_t count_ = 0;
};

// What an include directive in `file` means: "a/b.yar" and "./c.yar" make "a/c.yar". "" when it is
// absolute or leads above where the name of `file` begins.
std::string included_name(std::string_view file, std::string_view wanted);

// The names in what may be include directives of `text`, as they stand there. May find some in
// comments and strings: whoever loads files for a compiler loads some in vain then.
std::vector<std::string> find_includes(std::string_view text);

}  // namespace underseer::scan
