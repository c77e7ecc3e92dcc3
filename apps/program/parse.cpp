#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "program/described.h"

namespace underseer::program {

namespace {

// What may stand there.
std::string wanted(const Word& word) {
    return word.kind == Kind::choice ? fmt::format("{}", fmt::join(word.choices, "|"))
                                     : std::string(word.name);
}

// Edits (a letter more, less or another) from one word to the other.
std::size_t distance(std::string_view from, std::string_view to) {
    std::vector<std::size_t> row(to.size() + 1);
    for (std::size_t j = 0; j <= to.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= from.size(); ++i) {
        std::size_t diagonal = std::exchange(row[0], i);
        for (std::size_t j = 1; j <= to.size(); ++j) {
            const std::size_t changed = diagonal + (from[i - 1] == to[j - 1] ? 0 : 1);
            diagonal = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, changed});
        }
    }
    return row[to.size()];
}

std::string did_you_mean(const Program& program, std::string_view name) {
    std::string_view best;
    std::size_t nearest = 3;  // more edits than two are another word
    for (const Command& command : program.commands) {
        if (command.group.empty() || name.size() > 40) continue;
        const std::size_t edits = distance(name, command.name);
        if (edits >= nearest || edits >= command.name.size()) continue;
        nearest = edits;
        best = command.name;
    }
    return best.empty() ? "" : fmt::format(" Did you mean '{}'?", best);
}

std::string help_hint(const Program& program, const Command* command) {
    return command == nullptr ? fmt::format("see {} --help", program.name)
                              : fmt::format("see {} {} --help", program.name, command->name);
}

const Option* find_option(const std::vector<const Option*>& options, std::string_view name) {
    const auto found = std::ranges::find(options, name, [](const Option* o) { return o->name; });
    return found == options.end() ? nullptr : *found;
}

bool known_anywhere(const Program& program, std::string_view name) {
    return std::ranges::any_of(program.commands, [&](const Command& command) {
        return find_option(command.options, name) != nullptr;
    });
}

Unexpected no_such_option(const Program& program, const Command* command, std::string_view name) {
    if (command == nullptr || !known_anywhere(program, name)) {
        return fail(Code::invalid_argument,
                    fmt::format("there is no option '{}'; {}", name, help_hint(program, command)));
    }
    std::string takes;
    for (const Option* option : command->options) {
        takes += fmt::format("{}{}", takes.empty() ? "" : ", ", option->name);
    }
    return fail(Code::invalid_argument,
                fmt::format("'{}' does not take {}; it takes {}", command->name, name,
                            takes.empty() ? "no options" : takes));
}

// What an option on the line may be, before the command's own are known: the first word names it.
Result<const Command*> command_of(const Program& program,
                                  const std::vector<std::string>& arguments) {
    const auto takes_value = [&](const std::string& name) {
        const auto with_value = [&](const Option* option) {
            return option->name == name && !option->value.empty();
        };
        return std::ranges::any_of(program.options, with_value) ||
               std::ranges::any_of(program.commands, [&](const Command& command) {
                   return std::ranges::any_of(command.options, with_value);
               });
    };
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        if (arguments[i].size() > 1 && arguments[i][0] == '-') {
            if (takes_value(arguments[i])) ++i;
            continue;
        }
        if (const Command* command = find_command(program, arguments[i])) return command;
        return fail(Code::invalid_argument,
                    fmt::format("there is no command '{}'; {}.{}", arguments[i],
                                help_hint(program, nullptr), did_you_mean(program, arguments[i])));
    }
    return nullptr;
}

Result<void> check_words(const Program& program, const Command& command,
                         const std::vector<std::string>& given) {
    const bool is_open = !command.words.empty() && command.words.back().repeated;
    if (given.size() > command.words.size() && !is_open) {
        return fail(Code::invalid_argument,
                    fmt::format("'{}' is one word too many: {}", given[command.words.size()],
                                synopsis(program, command)));
    }
    for (std::size_t i = 0; i < command.words.size(); ++i) {
        const Word& word = command.words[i];
        if (i >= given.size()) {
            if (!word.required) break;
            return fail(Code::invalid_argument,
                        fmt::format("'{}' needs {}: {}", command.name, wanted(word),
                                    synopsis(program, command)));
        }
        if (word.kind == Kind::choice &&
            std::ranges::find(word.choices, given[i]) == word.choices.end()) {
            return fail(Code::invalid_argument, fmt::format("'{}' wants {}, not '{}'", command.name,
                                                            wanted(word), given[i]));
        }
    }
    return {};
}

}  // namespace

const Command* find_command(const Program& program, std::string_view name) {
    const auto found = std::ranges::find(program.commands, name, &Command::name);
    return found == program.commands.end() ? nullptr : &*found;
}

bool Given::has(const Option& option) const {
    return std::ranges::any_of(options,
                               [&](const Value& value) { return value.option == &option; });
}

Result<Given> parse(const Program& program, const std::vector<std::string>& arguments,
                    const Option& last) {
    Given given;
    if (!program.commands.empty()) given.command = TRY(command_of(program, arguments));
    bool named = given.command == nullptr;  // the command's own word has passed
    bool only_words = false;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        const std::string& argument = arguments[i];
        if (only_words || argument.size() < 2 || argument[0] != '-') {
            if (!std::exchange(named, true)) continue;
            given.words.push_back(argument);
            continue;
        }
        if (argument == "--") {
            only_words = true;
            continue;
        }
        const std::size_t equals = argument.find('=');
        const std::string_view name =
            argument == "-h" ? "--help" : std::string_view(argument).substr(0, equals);
        const Option* option = find_option(program.options, name);
        if (option == nullptr && given.command != nullptr) {
            option = find_option(given.command->options, name);
        }
        if (option == nullptr) return no_such_option(program, given.command, name);
        std::string value;
        if (option->value.empty() != (equals == std::string::npos)) {
            if (option->value.empty()) {
                return fail(Code::invalid_argument, fmt::format("{} takes no value", name));
            }
            if (++i == arguments.size()) {
                return fail(Code::invalid_argument,
                            fmt::format("{} wants a value: {} {}", name, name, option->value));
            }
            value = arguments[i];
        } else if (equals != std::string::npos) {
            value = argument.substr(equals + 1);
        }
        given.options.push_back({option, std::move(value)});
    }
    if (given.has(last)) return given;
    if (given.command != nullptr) {
        TRY(check_words(program, *given.command, given.words));
    } else if (!given.words.empty()) {
        return fail(Code::invalid_argument,
                    fmt::format("'{}' is one word too many; {}", given.words[0],
                                help_hint(program, nullptr)));
    }
    return given;
}

}  // namespace underseer::program
