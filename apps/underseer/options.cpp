#include "options.h"

#include <fmt/format.h>

#include <charconv>

#include "agent/paths.h"

namespace underseer::cli {

namespace {

Result<std::uint32_t> parse_pid(std::string_view text) {
    std::uint32_t pid = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), pid);
    if (error != std::errc{} || end != text.data() + text.size()) {
        return fail(Code::invalid_argument, fmt::format("--pid wants a number, not '{}'", text));
    }
    return pid;
}

}  // namespace

Result<Options> parse_options(const std::vector<std::string>& arguments) {
    Options options;
    options.state_dir = agent::kDefaultStateDir;
    options.run_dir = agent::kDefaultRunDir;
    std::vector<std::string> words;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        const std::string& argument = arguments[i];
        if (argument == "--json") {
            options.json = true;
        } else if (argument == "--threads") {
            options.threads = true;
        } else if (argument == "--environment") {
            options.environment = true;
        } else if (argument == "--watch") {
            options.watch = true;
        } else if (argument == "--force") {
            options.force = true;
        } else if (argument == "--deep") {
            options.deep = true;
        } else if (argument == "--help" || argument == "-h") {
            options.help = true;
        } else if (argument == "--pid" && i + 1 < arguments.size()) {
            options.pid = TRY(parse_pid(arguments[++i]));
        } else if (argument.starts_with("--pid=")) {
            options.pid = TRY(parse_pid(std::string_view(argument).substr(6)));
        } else if (argument == "--direct") {
            options.direct = true;
        } else if (argument == "--bulk") {
            options.bulk = true;
        } else if (argument == "--state" && i + 1 < arguments.size()) {
            options.state_dir = arguments[++i];
        } else if (argument == "--run" && i + 1 < arguments.size()) {
            options.run_dir = arguments[++i];
        } else if (argument == "--key" && i + 1 < arguments.size()) {
            options.key = arguments[++i];
        } else if (argument.size() > 1 && argument[0] == '-') {
            return fail(Code::invalid_argument,
                        fmt::format("there is no option '{}'; see underseer --help", argument));
        } else {
            words.push_back(argument);
        }
    }
    if (!words.empty()) options.command = words[0];
    if (words.size() > 1) options.target = words[1];
    const bool takes_three =
        options.command == "log" || options.command == "dump" || options.command == "export";
    if (words.size() > 2 && takes_three) options.argument = words[2];
    const std::size_t most = takes_three ? 3 : 2;
    if (words.size() > most) {
        return fail(Code::invalid_argument,
                    fmt::format("'{}' is one word too many; see underseer --help", words[most]));
    }
    return options;
}

}  // namespace underseer::cli
