// Makes rules of their YAML, which is somebody else's: in a jail, where it is not one's own.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "sigma/rule.h"

namespace underseer::sigma {

// Why a file is no rule that is understood: all of it is refused then.
struct Refusal {
    std::string file;
    std::uint32_t line = 0;  // 0: the file as a whole
    std::string message;     // with what would do

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"file", &Refusal::file}, Field{"line", &Refusal::line},
                          Field{"message", &Refusal::message}};
    }
};

class RuleSet {
  public:
    // The rule in `text`. Of two files of one name the later one holds: so an operator's own takes
    // the place of one that was shipped.
    void add(std::string_view file, std::string_view text);

    std::vector<Rule> rules;  // by name
    std::vector<Refusal> refused;

  private:
    std::size_t regexes_ = 0;  // of all of them
};

// Of one file; `line` is told where it is refused.
Result<Rule> compile(std::string_view file, std::string_view text, std::uint32_t& line);

}  // namespace underseer::sigma
