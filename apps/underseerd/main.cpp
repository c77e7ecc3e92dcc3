// The agent of a host.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <string_view>
#include <vector>

#include "agent/agent.h"
#include "agent/worker.h"
#include "base/counted.h"
#include "detect/check.h"
#include "program/described.h"

namespace {

using namespace underseer;

using program::Kind;
constexpr program::Option kPolicy{
    "--policy", "FILE", "the policy (/etc/underseer/policy.toml when it is there)", Kind::file};
constexpr program::Option kInstances{
    "--instances", "FILE", "whose VMs are whose (/etc/underseer/instances.toml when it is there)",
    Kind::file};
constexpr program::Option kState{"--state", "DIR", "keys, logs, manifest (/var/lib/underseer)",
                                 Kind::directory};
constexpr program::Option kRun{"--run", "DIR", "control socket (/run/underseer)", Kind::directory};
constexpr program::Option kCheckPolicy{
    "--check-policy", "FILE", "says whether the file is a valid policy, and ends", Kind::file};
constexpr program::Option kSeal{
    "--seal", "", "signs the installed programs and the policy as they are, and ends"};
constexpr program::Option kVersion{"--version", "", "the version, and nothing else"};
constexpr program::Option kHelp{"--help", "", "what the program does and takes"};
constexpr program::Option kManual{"--manual", "", "the source of its manual page"};
constexpr program::Option kCompletion{"--completion", "", "the source of its bash completion"};

// What the build asks for is no option to tell people about.
const program::Program& description(bool of_the_build) {
    static const auto make = [](std::vector<const program::Option*> options) {
        return program::Program{
            .name = "underseerd",
            .section = 8,
            .what = "watches the VMs of a host from below",
            .more =
                "Watches the VMs of this host from below: finds them, checks them, keeps a "
                "signed log, and answers underseer(1). Ends on SIGTERM or SIGINT; SIGHUP "
                "reloads the policy.\n\n"
                "Each guest is read by a process of its own that can do nothing else. Without "
                "root the memory of other users' VMs cannot be read.",
            .groups = {},
            .commands = {},
            .options = std::move(options),
            .exits = {{0, "all is well: it was told to end"},
                      {2, "wrong use"},
                      {5, "not allowed, or refused to run changed programs"},
                      {6, "the log is in use (another agent?)"},
                      {7, "the policy is wrong"},
                      {9, "the system failed"}},
            .sections = {{"FILES",
                          "",
                          {{"/etc/underseer/policy.toml", "the policy"},
                           {"/run/underseer/control.sock", "what underseer(1) talks to"},
                           {"/var/lib/underseer", "keys, logs, manifest"}}}},
            .see_also = {"underseer(1)", "underseer-policy(5)"}};
    };
    static const std::vector<const program::Option*> shown{
        &kPolicy, &kInstances, &kState, &kRun, &kCheckPolicy, &kSeal, &kVersion, &kHelp};
    static const program::Program for_people = make(shown);
    static const program::Program for_all = [] {
        auto options = shown;
        options.insert(options.end(), {&kManual, &kCompletion});
        return make(std::move(options));
    }();
    return of_the_build ? for_all : for_people;
}

struct Options {
    agent::AgentOptions agent;
    std::string check_policy;
    bool seal = false, help = false, version = false, manual = false, completion = false;
};

Result<Options> parse(int argc, char** argv) {
    const program::Given given =
        TRY(program::parse(description(true), {argv + 1, argv + argc}, kHelp));
    Options options;
    options.agent.state_dir = agent::kDefaultStateDir;
    options.agent.run_dir = agent::kDefaultRunDir;
    if (::access(agent::kDefaultPolicy.data(), F_OK) == 0) {
        options.agent.policy = agent::kDefaultPolicy;
    }
    if (::access(agent::kDefaultInstances.data(), F_OK) == 0) {
        options.agent.instances = agent::kDefaultInstances;
    }
    for (const auto& [option, value] : given.options) {
        if (option == &kPolicy) options.agent.policy = value;
        if (option == &kInstances) options.agent.instances = value;
        if (option == &kState) options.agent.state_dir = value;
        if (option == &kRun) options.agent.run_dir = value;
        if (option == &kCheckPolicy) options.check_policy = value;
    }
    options.seal = given.has(kSeal);
    options.help = given.has(kHelp);
    options.version = given.has(kVersion);
    options.manual = given.has(kManual);
    options.completion = given.has(kCompletion);
    return options;
}

Result<void> run(const Options& options) {
    if (options.help) {
        fmt::print("{}", program::help_of(description(false), 80));
        return {};
    }
    if (options.manual) {
        fmt::print("{}", program::manual_of(description(false)));
        return {};
    }
    if (options.completion) {
        fmt::print("{}", program::bash_completion(description(false), "true"));
        return {};
    }
    if (options.version) {
        fmt::print("underseerd {}\n", UNDERSEER_VERSION);
        return {};
    }
    if (!options.check_policy.empty()) {
        const auto policy = TRY(policy::load(options.check_policy, detect::check_names()));
        fmt::print("{}: a valid policy\n", options.check_policy);
        const auto rules = agent::load_event_rules(policy);
        if (!rules.has_value()) {
            fmt::print("its rules could not be tried: {}\n", rules.error().to_text());
            return {};
        }
        fmt::print("{} of events\n", counted(rules->rules.size(), "rule"));
        for (const sigma::Refusal& refusal : rules->refused) {
            fmt::print("not used: {}\n", agent::to_text(refusal));
        }
        return {};
    }
    // Whatever it makes is its own; the control socket sets its mode itself.
    ::umask(022);
    if (options.seal) {
        const auto key = TRY(agent::load_or_make_key(options.agent.state_dir));
        const auto manifest = agent::manifest_path(options.agent.state_dir);
        // Of a policy that is wrong the files are signed all the same: an upgrade must not fail.
        policy::Policy policy;
        if (!options.agent.policy.empty()) {
            auto loaded = policy::load(options.agent.policy, detect::check_names());
            if (loaded.has_value()) policy = std::move(*loaded);
        }
        TRY(agent::seal(options.agent.policy, agent::rule_files(policy), manifest, key));
        fmt::print("{}: signed\n", manifest.native());
        return {};
    }
    if (::geteuid() != 0) {
        fmt::print(stderr,
                   "underseerd: note: without root the memory of other users' VMs cannot "
                   "be read\n");
    }
    return TRY(agent::Agent::start(options.agent))->run();
}

int exit_status(const Error& error) {
    switch (error.code) {
        case Code::invalid_argument:
            return 2;
        case Code::permission:
            return 5;
        case Code::unavailable:
            return 6;
        case Code::malformed:
            return 7;
        default:
            return 9;
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (const auto status = agent::run_if_worker(argc, argv)) return *status;
    const auto options = parse(argc, argv);
    const auto ran = options.has_value() ? run(*options) : Result<void>(fail(options.error()));
    if (ran.has_value()) return 0;
    agent::say(agent::LogLevel::error, ran.error().to_text());
    return exit_status(ran.error());
}
