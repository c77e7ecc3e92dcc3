// A program described once, as data: its commands, their words, options and exit statuses. What it
// accepts, what `--help` says, the manual page and the shell completions are all made from it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace underseer::program {

// What may stand in a place, for completion.
enum class Kind : std::uint8_t { text, choice, target, file, directory };

struct Option {
    std::string_view name;   // "--pid"
    std::string_view value;  // "N"; "" when it takes none
    std::string_view help;   // one line
    Kind kind = Kind::text;  // of the value
};

// A word of the command line that is no option.
struct Word {
    std::string_view name;  // "INSTANCE|IMAGE"
    Kind kind = Kind::text;
    bool required = true;
    std::vector<std::string_view> choices{};  // of Kind::choice
    bool repeated = false;                    // of the last one: several may stand there
};

struct Exit {
    int status = 0;
    std::string_view meaning;
};

struct Command {
    std::string_view name;
    std::string_view group;  // a title of Program::groups; "" hides it: made for programs
    std::string_view what;   // one line
    std::string_view more;   // paragraphs, with an empty line between
    std::vector<Word> words;
    std::vector<const Option*> options;
    std::vector<Exit> exits;  // beside the program's
};

struct Entry {
    std::string_view name, what;
    std::string_view standard{};  // of a setting: what holds without it
};
struct Section {
    std::string_view title;
    std::string_view text;         // paragraphs
    std::vector<Entry> entries{};  // a list of terms below them
};

struct Program {
    std::string_view name;
    int section = 1;  // of the manual
    std::string_view what;
    std::string_view more;
    std::vector<std::string_view> groups;
    std::vector<Command> commands;       // empty: a program without commands
    std::vector<const Option*> options;  // of the program itself, or of every command
    std::vector<Exit> exits;
    std::vector<Section> sections;  // further ones of the manual
    std::vector<std::string_view> see_also;
};

// "dump INSTANCE|IMAGE OUTPUT [options]"
std::string synopsis(const Program& program, const Command& command);
const Command* find_command(const Program& program, std::string_view name);

// A command line, taken apart by what the program takes.
struct Given {
    const Command* command = nullptr;  // nullptr: none was named
    std::vector<std::string> words;    // without the command
    struct Value {
        const Option* option;
        std::string value;
    };
    std::vector<Value> options;
    bool has(const Option& option) const;
};
// Code::invalid_argument says what is wrong and what would be right. `last` is the option that
// makes everything else unimportant (--help): with it, missing words are no error.
Result<Given> parse(const Program& program, const std::vector<std::string>& arguments,
                    const Option& last);

// Words of `text` in lines of at most `width` columns, each after the first led by `indent` spaces;
// `used` columns of the first line are taken. Empty lines stay.
std::string wrapped(std::string_view text, std::size_t width, std::size_t indent, std::size_t used);

// `--help`, and `COMMAND --help`. `width` columns of text.
std::string help_of(const Program& program, std::size_t width);
std::string help_of(const Program& program, const Command& command, std::size_t width);

// The manual page, in man(7).
std::string manual_of(const Program& program);

// Completion scripts. `names_command` prints what may stand for Kind::target, one a line.
std::string bash_completion(const Program& program, std::string_view names_command);
std::string zsh_completion(const Program& program, std::string_view names_command);
std::string fish_completion(const Program& program, std::string_view names_command);

}  // namespace underseer::program
