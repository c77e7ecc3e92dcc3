#include "options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "agent/paths.h"
#include "detect/check.h"
#include "detect/decoy_kernel/decoy_kernel.h"
#include "policy/policy.h"

namespace underseer::cli {

namespace {

template <const program::Option& option, std::optional<std::uint32_t> Options::* member>
Result<void> take_number(Options& options, const std::string& text) {
    std::uint32_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || end != text.data() + text.size()) {
        return fail(Code::invalid_argument,
                    fmt::format("{} wants a number, not '{}'", option.name, text));
    }
    options.*member = number;
    return {};
}

// "credentials,hidden_process"
Result<void> take_checks(Options& options, const std::string& text) {
    for (std::size_t begin = 0; begin <= text.size();) {
        const std::size_t end = std::min(text.find(',', begin), text.size());
        std::string name = text.substr(begin, end - begin);
        const bool known =
            name == detect::DecoyKernelCheck::kName || detect::find_check(name) != nullptr;
        if (!known) {
            std::string all(detect::DecoyKernelCheck::kName);
            for (const std::string_view one : detect::check_names())
                all += fmt::format(", {}", one);
            return fail(Code::invalid_argument,
                        fmt::format("there is no check '{}'; there are {}", name, all));
        }
        options.only.push_back(std::move(name));
        begin = end + 1;
    }
    return {};
}

template <std::vector<std::string> Options::* member>
Result<void> take_one_more(Options& options, const std::string& value) {
    (options.*member).push_back(value);
    return {};
}

template <const program::Option& option, std::optional<std::chrono::milliseconds> Options::* member>
Result<void> take_duration(Options& options, const std::string& text) {
    const auto duration = policy::parse_duration(text);
    if (!duration.has_value()) {
        return fail(Code::invalid_argument,
                    fmt::format("{}: {}", option.name, duration.error().message));
    }
    options.*member = *duration;
    return {};
}

template <bool Options::* member>
Result<void> set(Options& options, const std::string&) {
    options.*member = true;
    return {};
}

template <std::filesystem::path Options::* member>
Result<void> take_path(Options& options, const std::string& value) {
    options.*member = value;
    return {};
}

template <std::string Options::* member>
Result<void> take_text(Options& options, const std::string& value) {
    options.*member = value;
    return {};
}

struct Taker {
    const program::Option* option;
    Result<void> (*take)(Options&, const std::string& value);
};
constexpr std::array<Taker, 31> kTakers{{
    {&option::kPid, take_number<option::kPid, &Options::pid>},
    {&option::kJson, set<&Options::json>},
    {&option::kThreads, set<&Options::threads>},
    {&option::kEnvironment, set<&Options::environment>},
    {&option::kWatch, set<&Options::watch>},
    {&option::kDirect, set<&Options::direct>},
    {&option::kBulk, set<&Options::bulk>},
    {&option::kForce, set<&Options::force>},
    {&option::kMaps, set<&Options::maps>},
    {&option::kLinks, set<&Options::links>},
    {&option::kDeep, set<&Options::deep>},
    {&option::kExact, set<&Options::exact>},
    {&option::kSyscalls, set<&Options::syscalls>},
    {&option::kFunctions, take_one_more<&Options::functions>},
    {&option::kStops, take_number<option::kStops, &Options::stops>},
    {&option::kDryRun, set<&Options::dry_run>},
    {&option::kOnly, take_checks},
    {&option::kRules, take_one_more<&Options::rules>},
    {&option::kSigmaRules, take_one_more<&Options::sigma_rules>},
    {&option::kBaseline, take_one_more<&Options::baselines>},
    {&option::kOutput, take_text<&Options::output>},
    {&option::kTimeout, take_duration<option::kTimeout, &Options::timeout>},
    {&option::kFor, take_duration<option::kFor, &Options::duration>},
    {&option::kOnce, set<&Options::once>},
    {&option::kHelp, set<&Options::help>},
    {&option::kVersion, set<&Options::version>},
    {&option::kState, take_path<&Options::state_dir>},
    {&option::kRun, take_path<&Options::run_dir>},
    {&option::kKey, take_path<&Options::key>},
    {&option::kInstances, take_path<&Options::instances>},
    {&option::kPolicy, take_path<&Options::policy>},
}};

}  // namespace

Result<Options> parse_options(const program::Program& program,
                              const std::vector<std::string>& arguments) {
    program::Given given = TRY(program::parse(program, arguments, option::kHelp));
    Options options;
    options.state_dir = agent::kDefaultStateDir;
    options.run_dir = agent::kDefaultRunDir;
    options.policy = agent::kDefaultPolicy;
    options.instances = agent::kDefaultInstances;
    if (given.command != nullptr) options.command = given.command->name;
    if (!given.words.empty()) options.target = std::move(given.words[0]);
    if (given.words.size() > 1) options.argument = std::move(given.words[1]);
    for (std::size_t i = 2; i < given.words.size(); ++i) {
        options.arguments.push_back(std::move(given.words[i]));
    }
    for (const auto& [option, value] : given.options) {
        const auto taker = std::ranges::find(kTakers, option, &Taker::option);
        CHECK(taker != kTakers.end());  // every option of the table is taken here
        TRY(taker->take(options, value));
    }
    return options;
}

}  // namespace underseer::cli
