#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "program/described.h"

namespace underseer::program {

namespace {

std::vector<const Option*> options_of(const Program& program, const Command& command) {
    std::vector<const Option*> options = command.options;
    options.insert(options.end(), program.options.begin(), program.options.end());
    return options;
}

// Those of the program and of all its commands, each name once.
std::vector<const Option*> all_options(const Program& program) {
    std::vector<const Option*> all;
    const auto collect = [&](const std::vector<const Option*>& options) {
        for (const Option* option : options) {
            const bool seen = std::ranges::find(all, option->name, &Option::name) != all.end();
            if (!seen) all.push_back(option);
        }
    };
    collect(program.options);
    for (const Command& command : program.commands) collect(command.options);
    return all;
}

// Those that the next word belongs to.
std::vector<std::string_view> options_with_value(const Program& program) {
    std::vector<std::string_view> names;
    for (const Option* option : all_options(program)) {
        if (!option->value.empty()) names.push_back(option->name);
    }
    return names;
}

// In single quotes of any shell.
std::string quoted(std::string_view text) {
    std::string out = "'";
    for (const char c : text) {
        if (c == '\'') {
            out += "'\\''";
        } else {
            out += c;
        }
    }
    return out + "'";
}

std::string names_of(const Program& program) {
    std::vector<std::string_view> names;
    for (const Command& command : program.commands) {
        if (!command.group.empty()) names.push_back(command.name);
    }
    return fmt::format("{}", fmt::join(names, " "));
}

// What bash offers in the place: a line for the function that the script defines.
std::string bash_offer(Kind kind, const std::vector<std::string_view>& choices) {
    switch (kind) {
        case Kind::choice:
            return fmt::format("_offer {}", fmt::join(choices, " "));
        case Kind::target:
            return "_offer_targets";
        case Kind::file:
            return "_offer_files";
        case Kind::directory:
            return "_offer_directories";
        case Kind::text:
            break;
    }
    return ":";
}

}  // namespace

// Names of VMs are an operator's and may hold anything: they are taken line by line and quoted, and
// never become words of the shell (compgen -W would expand `$(..)` in them).
std::string bash_completion(const Program& program, std::string_view names_command) {
    const std::string_view p = program.name;
    std::string text = fmt::format("# bash completion of {}; made by the program itself.\n", p);
    text += fmt::format(R"bash(
_{0}_offer() {{
    local word
    for word; do
        [[ $word == "$cur"* ]] && COMPREPLY+=("$word")
    done
}}
_{0}_offer_files() {{
    local word
    compopt -o filenames 2>/dev/null
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$cur")
}}
_{0}_offer_directories() {{
    local word
    compopt -o filenames 2>/dev/null
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -d -- "$cur")
}}
_{0}_offer_targets() {{
    local word
    while IFS= read -r word; do
        [[ $word == "$cur"* ]] && COMPREPLY+=("$(printf '%q' "$word")")
    done < <({1} 2>/dev/null)
    _{0}_offer_files
}}
_{0}() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} command='' i place=0
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; ++i)); do
        case ${{COMP_WORDS[i]}} in
)bash",
                        p, names_command);
    const std::vector<std::string_view> with_value = options_with_value(program);
    if (!with_value.empty()) {
        text += fmt::format("            {}) ((++i)) ;;\n", fmt::join(with_value, " | "));
    }
    text += "            -*) ;;\n";
    text += program.commands.empty()
                ? "            *) ((++place)) ;;\n"
                : "            *) if [[ -z $command ]]; then command=${COMP_WORDS[i]}; else "
                  "((++place)); fi ;;\n";
    text += "        esac\n    done\n    case ${COMP_WORDS[COMP_CWORD - 1]} in\n";
    std::vector<std::string_view> done;
    const auto values = [&](const std::vector<const Option*>& options) {
        for (const Option* option : options) {
            if (option->value.empty() || std::ranges::find(done, option->name) != done.end()) {
                continue;
            }
            done.push_back(option->name);
            const std::string offer = bash_offer(option->kind, {});
            text += fmt::format("        {}) {}{}; return ;;\n", option->name,
                                offer == ":" ? "" : fmt::format("_{}", p), offer);
        }
    };
    values(program.options);
    for (const Command& command : program.commands) values(command.options);
    text += "    esac\n    case $command in\n";
    const auto offer_options = [&](const std::vector<const Option*>& options) {
        std::vector<std::string_view> names;
        for (const Option* option : options) names.push_back(option->name);
        return fmt::format("[[ $cur == -* ]] && {{ _{}_offer {}; return; }}", p,
                           fmt::join(names, " "));
    };
    for (const Command& command : program.commands) {
        if (command.group.empty()) continue;
        text += fmt::format("        {})\n            {}\n", command.name,
                            offer_options(options_of(program, command)));
        if (!command.words.empty()) text += "            case $place in\n";
        for (std::size_t i = 0; i < command.words.size(); ++i) {
            const std::string offer = bash_offer(command.words[i].kind, command.words[i].choices);
            const std::string place = command.words[i].repeated ? "*" : std::to_string(i);
            text += fmt::format("                {}) {}{} ;;\n", place,
                                offer == ":" ? "" : fmt::format("_{}", p), offer);
        }
        if (!command.words.empty()) text += "            esac\n";
        text += "            ;;\n";
    }
    text += fmt::format("        '')\n            {}\n", offer_options(program.options));
    if (!program.commands.empty()) {
        text += fmt::format("            _{}_offer {}\n", p, names_of(program));
    }
    text += fmt::format("            ;;\n    esac\n}}\ncomplete -F _{0} {0}\n", p);
    return text;
}

// Options may stand before the command, so that every one is known there; behind it, "(-)" leaves
// them to the command's own.
std::string zsh_completion(const Program& program, std::string_view names_command) {
    const auto action = [&](Kind kind, const std::vector<std::string_view>& choices) {
        switch (kind) {
            case Kind::choice:
                return fmt::format("({})", fmt::join(choices, " "));
            case Kind::target:
                return fmt::format("_{}_targets", program.name);
            case Kind::file:
                return std::string("_files");
            case Kind::directory:
                return std::string("_files -/");
            case Kind::text:
                break;
        }
        return std::string(" ");
    };
    // A description may hold no bracket and no colon: those end it.
    const auto plain = [](std::string_view text) {
        std::string out;
        for (const char c : text) {
            if (c == ':' || c == '[' || c == ']') out += '\\';
            out += c;
        }
        return out;
    };
    const auto arguments_of = [&](const std::vector<const Option*>& options) {
        std::string text;
        for (const Option* option : options) {
            std::string spec = fmt::format("{}{}[{}]", option->name,
                                           option->value.empty() ? "" : "=", plain(option->help));
            if (!option->value.empty()) {
                spec += fmt::format(":{}:{}", option->value, action(option->kind, {}));
            }
            text += " \\\n                " + quoted(spec);
        }
        return text;
    };
    std::string text = fmt::format(R"zsh(#compdef {0}
# zsh completion of {0}; made by the program itself.

_{0}_targets() {{
    local -a names
    names=(${{(f)"$({1} 2>/dev/null)"}})
    compadd -a names
    _files
}}
_{0}() {{
    local curcontext=$curcontext state line
    local -a commands
)zsh",
                                   program.name, names_command);
    if (program.commands.empty()) {
        return text + fmt::format("    _arguments{}\n}}\n_{} \"$@\"\n",
                                  arguments_of(program.options), program.name);
    }
    text += "    commands=(\n";
    for (const Command& command : program.commands) {
        if (command.group.empty()) continue;
        text += "        " + quoted(fmt::format("{}:{}", command.name, plain(command.what))) + "\n";
    }
    text += fmt::format(
        "    )\n    _arguments -C{} \\\n        '(-)1:command:->command' "
        "'(-)*::word:->word'\n    case $state in\n        command) _describe command "
        "commands ;;\n        word)\n            case $line[1] in\n",
        arguments_of(all_options(program)));
    for (const Command& command : program.commands) {
        if (command.group.empty()) continue;
        text += fmt::format("            {}) _arguments{}", command.name,
                            arguments_of(options_of(program, command)));
        for (std::size_t i = 0; i < command.words.size(); ++i) {
            const Word& word = command.words[i];
            const std::string place = word.repeated ? "*" : std::to_string(i + 1);
            text +=
                " \\\n                " +
                quoted(fmt::format("{}{}{}:{}", place, word.required || word.repeated ? ":" : "::",
                                   plain(word.name), action(word.kind, word.choices)));
        }
        text += " ;;\n";
    }
    return text + fmt::format("            esac\n            ;;\n    esac\n}}\n_{} \"$@\"\n",
                              program.name);
}

// fish's own helpers take every word that is the name of a command for the command, and know no
// places: the function that the script defines counts as bash's does.
std::string fish_completion(const Program& program, std::string_view names_command) {
    const std::string_view p = program.name;
    std::string text = fmt::format(R"fish(# fish completion of {0}; made by the program itself.

# _{0}_at [COMMAND [PLACE]]: whether the word at the cursor is one of COMMAND, in that PLACE.
function _{0}_at
    set -l command ''
    set -l place 0
    set -l is_value 0
    for word in (commandline -opc)[2..-1]
        if test $is_value = 1
            set is_value 0
            continue
        end
        switch $word
            case {1}
                set is_value 1
            case '-*'
            case '*'
                if test -z "$command"
                    set command $word
                else
                    set place (math $place + 1)
                end
        end
    end
    test "$command" = "$argv[1]"; and contains -- "$argv[2]" '' $place
end
)fish",
                                   p, fmt::join(options_with_value(program), " "));
    const auto offer = [](Kind kind, std::string_view names) -> std::string {
        switch (kind) {
            case Kind::file:
                return " -F";
            case Kind::directory:
                return " -a '(__fish_complete_directories)'";
            case Kind::target:
                return fmt::format(" -F -a '({})'", names);
            case Kind::choice:
            case Kind::text:
                break;
        }
        return "";
    };
    const auto option_line = [&](const Option& option, const std::string& condition) {
        return fmt::format("complete -c {}{} -l {} -d {}{}{}\n", p, condition,
                           option.name.substr(2), quoted(option.help),
                           option.value.empty()        ? ""
                           : option.kind == Kind::file ? " -r"
                                                       : " -x",
                           option.value.empty() ? "" : offer(option.kind, names_command));
    };
    text += fmt::format("complete -c {} -f\n", p);
    for (const Option* option : program.options) text += option_line(*option, "");
    for (const Command& command : program.commands) {
        if (command.group.empty()) continue;
        text += fmt::format("complete -c {0} -n _{0}_at -a {1} -d {2}\n", p, command.name,
                            quoted(command.what));
        const std::string condition = fmt::format(" -n '_{}_at {}'", p, command.name);
        for (const Option* option : command.options) text += option_line(*option, condition);
        for (std::size_t i = 0; i < command.words.size(); ++i) {
            const Word& word = command.words[i];
            const std::string offered = word.kind == Kind::choice
                                            ? fmt::format(" -a '{}'", fmt::join(word.choices, " "))
                                            : offer(word.kind, names_command);
            if (offered.empty()) continue;
            text += fmt::format("complete -c {0} -n '_{0}_at {1} {2}'{3}\n", p, command.name, i,
                                offered);
        }
    }
    return text;
}

}  // namespace underseer::program
