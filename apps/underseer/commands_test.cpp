// The table of commands, and what is made from it.
#include "commands.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

namespace underseer::cli {
namespace {

using program::Kind;

Result<Options> parsed(const std::vector<std::string>& words) {
    return parse_options(description(), words);
}
std::string refused(const std::vector<std::string>& words) {
    const auto options = parsed(words);
    EXPECT_FALSE(options.has_value());
    if (options.has_value()) return "";
    EXPECT_EQ(options.error().code, Code::invalid_argument);
    return options.error().message;
}

// The words that a command needs, with something valid in each place.
std::vector<std::string> words_of(const program::Command& command) {
    std::vector<std::string> words{std::string(command.name)};
    for (const program::Word& word : command.words) {
        words.emplace_back(word.kind == Kind::choice ? word.choices.front() : "x");
    }
    return words;
}

TEST(Table, every_option_of_every_command_is_taken) {
    for (const program::Command& command : description().commands) {
        for (const program::Option* option : command.options) {
            auto words = words_of(command);
            words.emplace_back(option->name);
            const bool is_time = option == &option::kTimeout || option == &option::kFor;
            const std::string_view value = option == &option::kOnly ? "credentials"
                                           : is_time                ? "7s"
                                                                    : "7";
            if (!option->value.empty()) words.emplace_back(value);
            const auto options = parsed(words);
            ASSERT_TRUE(options.has_value()) << command.name << ": " << options.error().message;
            EXPECT_EQ(options->command, command.name);
        }
    }
}

TEST(Table, every_command_is_described) {
    std::set<std::string_view> names;
    const auto& groups = description().groups;
    for (const program::Command& command : description().commands) {
        EXPECT_TRUE(names.insert(command.name).second) << command.name << " is there twice";
        EXPECT_FALSE(command.what.empty()) << command.name;
        EXPECT_FALSE(command.what.ends_with('.')) << command.name;
        const bool shown = std::ranges::find(groups, command.group) != groups.end();
        EXPECT_TRUE(shown || command.group.empty()) << command.name;
        std::set<std::string_view> options;
        for (const program::Option* option : command.options) {
            EXPECT_TRUE(options.insert(option->name).second) << command.name << option->name;
        }
        bool optional = false;
        for (const program::Word& word : command.words) {
            EXPECT_FALSE(optional && word.required) << command.name;
            optional = optional || !word.required;
        }
    }
}

TEST(Table, options_stand_anywhere_and_in_both_forms) {
    const auto options = parsed({"--json", "--pid=77", "ps", "--threads", "vm"}).value();
    EXPECT_TRUE(options.json);
    EXPECT_TRUE(options.threads);
    EXPECT_EQ(options.pid, 77u);
    EXPECT_EQ(options.target, "vm");
    EXPECT_EQ(parsed({"--run", "ps", "ps", "vm"}).value().run_dir, "ps");
    EXPECT_EQ(parsed({"ps", "--", "--json"}).value().target, "--json");
    EXPECT_EQ(parsed({"log", "verify", "/var/log"}).value().argument, "/var/log");
    EXPECT_EQ(parsed({"act", "web", "capture", "--pid", "7"}).value().pid, 7u);
    EXPECT_EQ(
        refused({"act", "web"}),
        "'act' needs pause|resume|isolate|reconnect|kill|capture|dump: underseer act INSTANCE "
        "ACTION [OPTION]...");
    EXPECT_EQ(parsed({"ps", "-h"}).value().help, true) << "help asks for no target";
}

TEST(Table, what_a_command_does_not_take_is_an_error_that_helps) {
    EXPECT_EQ(refused({"modules", "vm", "--threads"}),
              "'modules' does not take --threads; it takes --watch, --json, --direct, --run");
    EXPECT_EQ(refused({"ps", "vm", "--no-such"}),
              "there is no option '--no-such'; see underseer ps --help");
    EXPECT_EQ(refused({"--no-such"}), "there is no option '--no-such'; see underseer --help");
    EXPECT_EQ(refused({"sokets", "vm"}),
              "there is no command 'sokets'; see underseer --help. Did you mean 'sockets'?");
    EXPECT_EQ(refused({"zzzzzz"}), "there is no command 'zzzzzz'; see underseer --help.");
    EXPECT_EQ(refused({"dump", "vm"}),
              "'dump' needs OUTPUT: underseer dump INSTANCE|IMAGE OUTPUT [OPTION]...");
    EXPECT_EQ(refused({"ps"}),
              "'ps' needs INSTANCE|IMAGE: underseer ps INSTANCE|IMAGE "
              "[OPTION]...");
    EXPECT_EQ(refused({"ps", "a", "b"}),
              "'b' is one word too many: underseer ps INSTANCE|IMAGE [OPTION]...");
    EXPECT_EQ(refused({"log", "burn"}), "'log' wants show|follow|verify, not 'burn'");
    EXPECT_EQ(refused({"ps", "vm", "--pid"}), "--pid wants a value: --pid N");
    EXPECT_EQ(refused({"ps", "vm", "--pid", "x"}), "--pid wants a number, not 'x'");
    EXPECT_EQ(refused({"ps", "vm", "--json=1"}), "--json takes no value");
    for (const auto& words : {std::vector<std::string>{"scan", "vm", "--timeout", "soon"},
                              std::vector<std::string>{"trace", "vm", "--for", "soon"}}) {
        const auto options = parsed(words);
        ASSERT_FALSE(options.has_value());
        EXPECT_EQ(options.error().code, Code::invalid_argument);
        EXPECT_TRUE(options.error().message.starts_with(words[2] + ": 'soon' is no duration"))
            << options.error().message;
    }
}

TEST(Table, help_is_short_and_fits) {
    const std::string text = program::help_of(description(), 80);
    for (const program::Command& command : description().commands) {
        EXPECT_EQ(text.find(fmt::format("\n  {} ", command.name)) != std::string::npos,
                  !command.group.empty())
            << command.name;
        const std::string own = program::help_of(description(), command, 80);
        for (const program::Option* option : command.options) {
            EXPECT_NE(own.find(fmt::format("  {}", option->name)), std::string::npos);
        }
        for (std::size_t at = 0; at < own.size();) {
            const std::size_t end = own.find('\n', at);
            EXPECT_LE(end - at, 80u) << own.substr(at, end - at);
            at = end + 1;
        }
    }
    EXPECT_LE(std::ranges::count(text, '\n'), 50);
}

TEST(Table, every_error_has_an_exit_status_of_its_own_that_help_names) {
    std::set<int> statuses;
    const program::Command* ps = program::find_command(description(), "ps");
    ASSERT_NE(ps, nullptr);
    for (int code = 1; code <= static_cast<int>(kLastCode); ++code) {
        const int status = exit_status({static_cast<Code>(code), 0, ""});
        statuses.insert(status);
        std::vector<program::Exit> named = description().exits;
        named.insert(named.end(), ps->exits.begin(), ps->exits.end());
        EXPECT_TRUE(std::ranges::any_of(named, [&](const program::Exit& exit) {
            return exit.status == status;
        })) << status;
    }
    // A bound reached and a form not handled are one to the person: too much for this program. So
    // are what a guest does not have and what cannot be read of it.
    EXPECT_EQ(statuses.size(), static_cast<std::size_t>(kLastCode) - 2);
}

// What a shell writes that runs this script.
std::string output_of(const std::string& shell, const std::string& script) {
    const std::string path =
        fmt::format("{}underseer-completion-{}", ::testing::TempDir(), ::getpid());
    FILE* file = std::fopen(path.c_str(), "w");
    EXPECT_NE(file, nullptr);
    fmt::print(file, "{}", script);
    std::fclose(file);
    std::string text;
    FILE* running = ::popen(fmt::format("cd /; {} {} 2>&1", shell, path).c_str(), "r");
    char buffer[4096];
    while (std::fgets(buffer, sizeof buffer, running) != nullptr) text += buffer;
    ::pclose(running);
    std::remove(path.c_str());
    return text;
}

// What each shell offers for a line, with `names` (shell) in the place of `underseer names`.
std::string completed(const std::string& words, std::string_view names) {
    return output_of("bash --norc",
                     fmt::format("{}\nCOMP_WORDS=({})\nCOMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n"
                                 "_underseer; printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
                                 program::bash_completion(description(), names), words));
}

std::string completed_by_fish(std::string_view line, std::string_view names) {
    return output_of("fish --no-config",
                     fmt::format("{}\ncomplete -C '{}' | string replace -r '\\t.*' ''\n",
                                 program::fish_completion(description(), names), line));
}

// zsh completes only where there is a terminal: script(1) makes one, and the shell's first prompt
// completes each line instead of waiting for anybody to type.
std::map<std::string, std::string> completed_by_zsh(const std::vector<std::string>& lines,
                                                    std::string_view names) {
    std::string home = fmt::format("{}underseer-zsh-XXXXXX", ::testing::TempDir());
    EXPECT_NE(::mkdtemp(home.data()), nullptr);
    std::string script = "autoload -Uz compinit && compinit -D -u\ncompdef _underseer underseer\n";
    script += program::zsh_completion(description(), names);
    // As it is when the function is autoloaded; here the shell runs the file itself.
    const std::string_view call = "_underseer \"$@\"\n";
    EXPECT_TRUE(script.ends_with(call));
    script.resize(script.size() - call.size());
    script += R"zsh(
compadd() {
    local -a offered
    # What a helper asks for itself (-O, -A, -D) is not offered.
    if [[ " $* " != *' -'[OAD]' '* ]]; then
        builtin compadd -A offered "$@"
        print -rl -- $offered >>offered
    fi
    builtin compadd "$@"
}
zle-line-init() {
    local line
    for line in $lines; do
        : >offered
        BUFFER=$line CURSOR=$#line
        zle complete-word
        print -r -- ":$line" >>all
        sort -u offered | grep . >>all
    done
    exit 0
}
zle -N zle-line-init
cd $ZDOTDIR
)zsh";
    script += "lines=(";
    for (const std::string& line : lines) script += fmt::format("'{}' ", line);
    script += ")\n";
    {
        std::ofstream(home + "/.zshrc") << script;
    }
    const std::string command = fmt::format(
        "ZDOTDIR={} timeout 60 script -qec 'zsh -d -i' /dev/null </dev/null >/dev/null 2>&1", home);
    EXPECT_EQ(std::system(command.c_str()), 0);
    std::map<std::string, std::string> offered;
    std::ifstream all(home + "/all");
    std::string of;
    for (std::string line; std::getline(all, line);) {
        if (line.starts_with(':')) {
            offered[of = line.substr(1)];
        } else {
            offered[of] += line + "\n";
        }
    }
    std::filesystem::remove_all(home);
    return offered;
}

TEST(Completion, zsh_offers_what_the_table_has_and_runs_no_name) {
    if (std::system("command -v zsh >/dev/null") != 0) GTEST_SKIP() << "zsh is not installed";
    const std::vector<std::pair<std::string, std::string>> expected{
        {"underseer so", "sockets\n"},
        {"underseer log ", "follow\nshow\nverify\n"},
        {"underseer log show ver", ""},
        {"underseer ps vm --th", "--threads\n"},
        {"underseer modules --th", ""},
        {"underseer ps we", "web-1\n"},
        {"underseer ps zq", "zq\\$\\(touch\\ x\\)\n"},
        // Options before the command, with and without a value.
        {"underseer --th", "--threads\n"},
        {"underseer --json so", "sockets\n"},
        {"underseer --run /x so", "sockets\n"},
        {"underseer --run=/x so", "sockets\n"},
        {"underseer --pid 7 ps we", "web-1\n"},
        {"underseer --json --run /x log s", "show\n"},
        {"underseer --json ps vm --th", "--threads\n"},
        {"underseer --json modules --th", ""},
    };
    std::vector<std::string> lines;
    for (const auto& [line, offered] : expected) lines.push_back(line);
    const auto all = completed_by_zsh(lines, R"sh(printf "%s\n" web-1 other "zq\$(touch x)")sh");
    for (const auto& [line, offered] : expected) {
        ASSERT_TRUE(all.contains(line)) << line;
        EXPECT_EQ(all.at(line), offered) << line;
    }
}

TEST(Completion, bash_offers_what_the_table_has_and_runs_no_name) {
    EXPECT_EQ(completed("underseer so", "true"), "sockets\n");
    EXPECT_EQ(completed("underseer log ''", "true"), "show\nfollow\nverify\n");
    EXPECT_EQ(completed("underseer ps vm --th", "true"), "--threads\n");
    EXPECT_EQ(completed("underseer --pid 7 ps we", "printf 'web-1\\nother\\n'"), "web-1\n");
    const std::string hostile =
        completed("underseer ps zq", R"(printf '%s\n' 'zq$(touch /tmp/x)')");
    EXPECT_EQ(hostile, "zq\\$\\(touch\\ /tmp/x\\)\n");
}

TEST(Completion, fish_offers_what_the_table_has_and_runs_no_name) {
    if (std::system("command -v fish >/dev/null") != 0) GTEST_SKIP() << "fish is not installed";
    EXPECT_EQ(completed_by_fish("underseer so", "true"), "sockets\n");
    EXPECT_EQ(completed_by_fish("underseer log ", "true"), "follow\nshow\nverify\n");
    // A second word of `log` is a directory, and the name of a VM is no command.
    EXPECT_EQ(completed_by_fish("underseer log show ver", "true"), "");
    EXPECT_EQ(completed_by_fish("underseer ps log sho", "true"), "");
    EXPECT_EQ(completed_by_fish("underseer ps vm --th", "true"), "--threads\n");
    EXPECT_EQ(completed_by_fish("underseer --pid 7 ps we", "printf \"web-1\\nother\\n\""),
              "web-1\n");
    EXPECT_EQ(completed_by_fish("underseer ps zq", "printf \"%s\\n\" \"zq\\$(touch x)\""),
              "zq$(touch x)\n");
}

TEST(Manual, names_every_command_and_option) {
    const std::string text = program::manual_of(description());
    for (const program::Command& command : description().commands) {
        const bool named =
            text.find(fmt::format("\n\\fB{}\\fR", command.name)) != std::string::npos;
        EXPECT_EQ(named, !command.group.empty()) << command.name;
        for (const program::Option* option : command.options) {
            std::string name;
            for (const char c : option->name) name += c == '-' ? "\\-" : std::string(1, c);
            name = ".TP\n\\fB" + name + "\\fR";
            EXPECT_NE(text.find(name), std::string::npos) << name;
        }
    }
}

}  // namespace
}  // namespace underseer::cli
