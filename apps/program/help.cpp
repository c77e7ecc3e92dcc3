#include <fmt/format.h>

#include <algorithm>

#include "program/described.h"

namespace underseer::program {

std::string wrapped(std::string_view text, std::size_t width, std::size_t indent,
                    std::size_t used) {
    std::string out;
    bool first = true;
    while (!text.empty()) {
        if (text[0] == '\n') {
            const bool paragraph = text.starts_with("\n\n");
            text.remove_prefix(paragraph ? 2 : 1);
            if (paragraph) {
                out += fmt::format("\n\n{:{}}", "", indent);
                used = indent;
                first = true;
            }
            continue;
        }
        if (text[0] == ' ') {
            text.remove_prefix(1);
            continue;
        }
        const std::string_view word = text.substr(0, text.find_first_of(" \n"));
        text.remove_prefix(word.size());
        if (!first && used + 1 + word.size() > width) {
            out += fmt::format("\n{:{}}", "", indent);
            used = indent;
            first = true;
        }
        out += first ? "" : " ";
        out += word;
        used += word.size() + (first ? 0 : 1);
        first = false;
    }
    return out + '\n';
}

namespace {

// Terms and what they mean, in two columns; the first has at least `column`.
std::string list_of(const std::vector<std::pair<std::string, std::string_view>>& items,
                    std::size_t width, std::size_t column = 0) {
    for (const auto& [term, meaning] : items) column = std::max(column, term.size());
    column += 4;
    std::string text;
    for (const auto& [term, meaning] : items) {
        text += fmt::format("  {:<{}}", term, column - 2);
        text += wrapped(meaning, width, column, column);
    }
    return text;
}

std::string options_of(const std::vector<const Option*>& options, std::size_t width) {
    std::vector<std::pair<std::string, std::string_view>> items;
    for (const Option* option : options) {
        items.emplace_back(
            fmt::format("{}{}{}", option->name, option->value.empty() ? "" : " ", option->value),
            option->help);
    }
    return list_of(items, width);
}

std::string exits_of(std::vector<Exit> exits, std::size_t width) {
    std::ranges::stable_sort(exits, {}, &Exit::status);
    std::vector<std::pair<std::string, std::string_view>> items;
    for (const Exit& exit : exits) items.emplace_back(std::to_string(exit.status), exit.meaning);
    return list_of(items, width);
}

}  // namespace

std::string synopsis(const Program& program, const Command& command) {
    std::string text = fmt::format("{} {}", program.name, command.name);
    for (const Word& word : command.words) {
        text += word.required ? fmt::format(" {}", word.name) : fmt::format(" [{}]", word.name);
        if (word.repeated) text += "...";
    }
    if (!command.options.empty()) text += " [OPTION]...";
    return text;
}

std::string help_of(const Program& program, std::size_t width) {
    const bool commands = !program.commands.empty();
    std::string text = fmt::format("usage: {}{} [OPTION]...\n\n", program.name,
                                   commands ? " COMMAND [WORD]..." : "");
    text += wrapped(program.more, width, 0, 0);
    std::size_t longest = 0;  // one column for all groups
    for (const Command& command : program.commands) {
        if (!command.group.empty()) longest = std::max(longest, command.name.size());
    }
    for (const std::string_view group : program.groups) {
        text += fmt::format("\n{}:\n", group);
        std::vector<std::pair<std::string, std::string_view>> items;
        for (const Command& command : program.commands) {
            if (command.group == group) items.emplace_back(command.name, command.what);
        }
        text += list_of(items, width, longest);
    }
    text += "\nOptions:\n" + options_of(program.options, width);
    if (!commands) return text + "\nExit status:\n" + exits_of(program.exits, width);
    return text +
           fmt::format("\n`{} COMMAND --help` tells more about each, man {}({}) all of it.\n",
                       program.name, program.name, program.section);
}

std::string help_of(const Program& program, const Command& command, std::size_t width) {
    std::string text = fmt::format("usage: {}\n\n", synopsis(program, command));
    std::string what(command.what);
    what[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(what[0])));
    text += wrapped(what + ".", width, 0, 0);
    if (!command.more.empty()) text += "\n" + wrapped(command.more, width, 0, 0);
    std::vector<const Option*> options = command.options;
    options.insert(options.end(), program.options.begin(), program.options.end());
    text += "\nOptions:\n" + options_of(options, width);
    std::vector<Exit> exits = command.exits;
    for (const Exit& exit : program.exits) {
        if (std::ranges::find(command.exits, exit.status, &Exit::status) == command.exits.end()) {
            exits.push_back(exit);
        }
    }
    return text + "\nExit status:\n" + exits_of(std::move(exits), width);
}

}  // namespace underseer::program
