#include <fmt/format.h>

#include <algorithm>

#include "program/described.h"

namespace underseer::program {

namespace {

// Text as man(7) takes it: what begins a line with a control character is shielded, hyphens are
// those of the keyboard, so that options can be copied from the page.
std::string escaped(std::string_view text) {
    std::string out;
    bool line_begins = true;
    for (const char c : text) {
        if (line_begins && (c == '.' || c == '\'')) out += "\\&";
        line_begins = c == '\n';
        if (c == '\\') {
            out += "\\e";
        } else if (c == '-') {
            out += "\\-";
        } else {
            out += c;
        }
    }
    return out;
}

// Empty lines become paragraphs.
std::string paragraphs(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find("\n\n"), text.size());
        if (!out.empty()) out += ".PP\n";
        out += escaped(text.substr(0, end)) + "\n";
        text.remove_prefix(std::min(end + 2, text.size()));
    }
    return out;
}

std::string term(std::string_view name, std::string_view argument, std::string_view meaning) {
    std::string head = fmt::format("\\fB{}\\fR", escaped(name));
    if (!argument.empty()) head += fmt::format(" \\fI{}\\fR", escaped(argument));
    return fmt::format(".TP\n{}\n{}\n", head, escaped(meaning));
}

std::string options_of(const std::vector<const Option*>& options) {
    std::string text;
    for (const Option* option : options) text += term(option->name, option->value, option->help);
    return text;
}

std::string exits_of(std::vector<Exit> exits) {
    std::ranges::stable_sort(exits, {}, &Exit::status);
    std::string text;
    for (const Exit& exit : exits) text += term(std::to_string(exit.status), "", exit.meaning);
    return text;
}

std::string words_of(const Command& command) {
    std::string text;
    for (const Word& word : command.words) {
        const std::string name = fmt::format("\\fI{}\\fR", escaped(word.name));
        text += word.required ? " " + name : " [" + name + "]";
        if (word.repeated) text += "...";
    }
    return text;
}

}  // namespace

std::string manual_of(const Program& program) {
    std::string title(program.name);
    std::ranges::transform(title, title.begin(),
                           [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    std::string text = fmt::format(".TH {} {} \"\" \"Underseer {}\" \"Underseer\"\n", title,
                                   program.section, UNDERSEER_VERSION);
    text += fmt::format(".SH NAME\n{} \\- {}\n", program.name, escaped(program.what));
    const bool runs = program.section != 5;
    if (runs) {
        text += fmt::format(".SH SYNOPSIS\n.B {}\n{}[\\fIOPTION\\fR]...\n", program.name,
                            program.commands.empty() ? "" : "\\fICOMMAND\\fR [\\fIWORD\\fR]... ");
    }
    text += ".SH DESCRIPTION\n" + paragraphs(program.more);
    if (!program.commands.empty()) text += ".SH COMMANDS\n";
    for (const std::string_view group : program.groups) {
        text += fmt::format(".SS {}\n", escaped(group));
        for (const Command& command : program.commands) {
            if (command.group != group) continue;
            text += fmt::format(".TP\n\\fB{}\\fR{}\n", escaped(command.name), words_of(command));
            std::string what(command.what);
            what[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(what[0])));
            text += escaped(what) + ".\n";
            if (!command.more.empty()) text += ".IP\n" + escaped(command.more) + "\n";
            std::string takes;
            for (const Option* option : command.options) {
                takes +=
                    fmt::format("{}\\fB{}\\fR", takes.empty() ? "" : ", ", escaped(option->name));
            }
            if (!takes.empty()) text += fmt::format(".IP\nOptions: {}\n", takes);
            // Those of looking into a guest are the same everywhere: told once, below.
            for (const Exit& exit : command.exits) {
                if (exit.status > 2 && exit.status != 10) continue;
                text +=
                    fmt::format(".IP\nExit status {}: {}\n", exit.status, escaped(exit.meaning));
            }
        }
    }
    std::vector<const Option*> options = program.options;
    for (const Command& command : program.commands) {
        if (command.group.empty()) continue;
        for (const Option* option : command.options) {
            if (std::ranges::find(options, option) == options.end()) options.push_back(option);
        }
    }
    std::ranges::sort(options, {}, &Option::name);
    if (!options.empty()) text += ".SH OPTIONS\n" + options_of(options);
    if (runs) {
        std::vector<Exit> exits = program.exits;
        for (const Command& command : program.commands) {
            for (const Exit& exit : command.exits) {
                const auto same = [&](const Exit& other) { return other.status == exit.status; };
                if (exit.status > 2 && std::ranges::none_of(exits, same)) exits.push_back(exit);
            }
        }
        text += ".SH \"EXIT STATUS\"\n" + exits_of(std::move(exits));
    }
    for (const Section& section : program.sections) {
        text += fmt::format(".SH \"{}\"\n{}", escaped(section.title), paragraphs(section.text));
        for (const Entry& entry : section.entries) {
            text += term(entry.name, "", entry.what);
            if (!entry.standard.empty()) {
                text += fmt::format("Default: {}.\n", escaped(entry.standard));
            }
        }
    }
    text += ".SH \"SEE ALSO\"\n";
    for (std::size_t i = 0; i < program.see_also.size(); ++i) {
        const std::string_view page = program.see_also[i];
        const std::size_t bracket = page.find('(');
        text += fmt::format(".BR {} {}{}\n", escaped(page.substr(0, bracket)), page.substr(bracket),
                            i + 1 < program.see_also.size() ? "," : "");
    }
    return text;
}

}  // namespace underseer::program
