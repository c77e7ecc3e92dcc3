// The agent of a host.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <string_view>

#include "agent/agent.h"
#include "agent/worker.h"

namespace {

using namespace underseer;

constexpr std::string_view kHelp =
    "usage: underseerd [options]\n\n"
    "Watches the VMs of this host from below: finds them, checks them, keeps a signed log, and\n"
    "answers `underseer status`. Ends on SIGTERM or SIGINT; SIGHUP reloads the policy.\n\n"
    "Options:\n"
    "  --policy FILE        the policy (/etc/underseer/policy.toml when it is there)\n"
    "  --instances FILE     whose VMs are whose (/etc/underseer/instances.toml when it is there)\n"
    "  --state DIR          keys, logs, manifest (/var/lib/underseer)\n"
    "  --run DIR            control socket (/run/underseer)\n"
    "  --check-policy FILE  says whether the file is a valid policy, and ends\n"
    "  --seal               signs the installed programs and the policy as they are, and ends\n"
    "  --version, --help\n\n"
    "Exit status: 0 well; 2 wrong use; 5 not allowed, or refused to run changed programs; 6 the\n"
    "log is in use (another agent?); 7 the policy is wrong; 9 the system failed.\n";

struct Options {
    agent::AgentOptions agent;
    std::string check_policy;
    bool seal = false, help = false, version = false;
};

Result<Options> parse(int argc, char** argv) {
    Options options;
    options.agent.state_dir = agent::kDefaultStateDir;
    options.agent.run_dir = agent::kDefaultRunDir;
    if (::access(agent::kDefaultPolicy.data(), F_OK) == 0) {
        options.agent.policy = agent::kDefaultPolicy;
    }
    if (::access(agent::kDefaultInstances.data(), F_OK) == 0) {
        options.agent.instances = agent::kDefaultInstances;
    }
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        const auto value = [&]() -> Result<std::string> {
            if (i + 1 < argc) return std::string(argv[++i]);
            return fail(Code::invalid_argument, fmt::format("{} wants a value", word));
        };
        if (word == "--policy") {
            options.agent.policy = TRY(value());
        } else if (word == "--instances") {
            options.agent.instances = TRY(value());
        } else if (word == "--state") {
            options.agent.state_dir = TRY(value());
        } else if (word == "--run") {
            options.agent.run_dir = TRY(value());
        } else if (word == "--check-policy") {
            options.check_policy = TRY(value());
        } else if (word == "--seal") {
            options.seal = true;
        } else if (word == "--version") {
            options.version = true;
        } else if (word == "--help" || word == "-h") {
            options.help = true;
        } else {
            return fail(Code::invalid_argument,
                        fmt::format("there is no option '{}'; see underseerd --help", word));
        }
    }
    return options;
}

Result<void> run(const Options& options) {
    if (options.help) {
        fmt::print("{}", kHelp);
        return {};
    }
    if (options.version) {
        fmt::print("underseerd {}\n", UNDERSEER_VERSION);
        return {};
    }
    if (!options.check_policy.empty()) {
        TRY(policy::load(options.check_policy));
        fmt::print("{}: a valid policy\n", options.check_policy);
        return {};
    }
    // Whatever it makes is its own; the control socket sets its mode itself.
    ::umask(022);
    if (options.seal) {
        const auto key = TRY(agent::load_or_make_key(options.agent.state_dir));
        const auto manifest = agent::manifest_path(options.agent.state_dir);
        TRY(agent::seal(options.agent.policy, manifest, key));
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
    fmt::print(stderr, "underseerd: {}\n", ran.error().to_text());
    return exit_status(ran.error());
}
