// What the person asked for, and the options that commands take.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "program/described.h"

namespace underseer::cli {

struct Options {
    std::string command;
    std::string target;    // a VM's name, UUID or pid, the path of an image, or what of `log`
    std::string argument;  // a third word
    std::vector<std::string> arguments;  // what follows it
    std::optional<std::uint32_t> pid;
    bool json = false;
    bool threads = false;
    bool environment = false;
    bool watch = false;
    bool force = false;
    bool once = false;                     // of the demo: do not stay
    bool deep = false;                     // of check: search all RAM
    bool maps = false, links = false;      // of bpf
    bool exact = false;                    // of trace
    bool syscalls = false;                 // of an exact trace: what it is without functions
    std::vector<std::string> functions;    // of an exact trace
    std::optional<std::uint32_t> stops;    // of an exact trace
    bool dry_run = false;                  // of act: say what would be done
    std::vector<std::string> only;         // of check: these; empty: all
    std::vector<std::string> rules;        // of scan: files, or folders of them
    std::vector<std::string> sigma_rules;  // of check: the same
    // Of check and report: kernels' files, packages, or what was made of them.
    std::vector<std::string> baselines;
    std::string output;  // of baseline make
    std::optional<std::chrono::milliseconds> timeout;
    std::optional<std::chrono::milliseconds> duration;  // of trace
    bool help = false;
    bool version = false;
    bool direct = false;                       // look ourselves even when an agent runs
    bool bulk = false;                         // the bulk log
    std::filesystem::path state_dir, run_dir;  // of the agent
    std::filesystem::path policy;              // of the agent
    std::filesystem::path instances;           // the mapping file
    std::filesystem::path key;                 // public enrolment key; empty: the agent's
};

// The options of all commands. A command takes those that its row of the table names.
namespace option {
using program::Kind;
using program::Option;
inline constexpr Option kPid{"--pid", "N", "only of the process with this pid"};
inline constexpr Option kJson{"--json", "",
                              "for programs: stable keys, numbers above 2^53 as strings"};
inline constexpr Option kThreads{"--threads", "", "every thread, not only processes"};
inline constexpr Option kEnvironment{"--environment", "", "with --json: environment variables too"};
inline constexpr Option kWatch{"--watch", "", "again every second, until Ctrl-C"};
inline constexpr Option kDirect{"--direct", "",
                                "look into the VM ourselves even when an agent runs"};
inline constexpr Option kBulk{"--bulk", "", "the bulk log instead of the critical one"};
inline constexpr Option kState{"--state", "DIR", "the agent's state directory (/var/lib/underseer)",
                               Kind::directory};
inline constexpr Option kRun{"--run", "DIR", "where the agent's control socket is (/run/underseer)",
                             Kind::directory};
inline constexpr Option kKey{
    "--key", "FILE", "the public enrolment key to verify against (the agent's)", Kind::file};
inline constexpr Option kInstances{
    "--instances", "FILE", "whose VMs are whose (/etc/underseer/instances.toml)", Kind::file};
inline constexpr Option kPolicy{"--policy", "FILE",
                                "the agent's policy (/etc/underseer/policy.toml)", Kind::file};
inline constexpr Option kMaps{"--maps", "", "its maps instead of its programs"};
inline constexpr Option kLinks{"--links", "", "its links instead of its programs"};
inline constexpr Option kDeep{"--deep", "", "search all RAM too, for what no list leads to"};
inline constexpr Option kDryRun{"--dry-run", "", "say what would be done, and do nothing"};
inline constexpr Option kOnly{"--only", "CHECK,..", "these checks; underseer explain lists all"};
inline constexpr Option kRules{
    "--rules", "FILE", "YARA rules, or a folder of them; may be given several times", Kind::file};
inline constexpr Option kSigmaRules{
    "--rules", "FILE", "Sigma rules, or a folder of them; may be given several times", Kind::file};
inline constexpr Option kBaseline{"--baseline", "FILE",
                                  "compare with this kernel or package; may be given several times",
                                  Kind::file};
inline constexpr Option kOutput{"--output", "FILE", "write it into this file", Kind::file};
inline constexpr Option kTimeout{"--timeout", "TIME",
                                 "end after this (\"90s\", \"10m\"), with what is found by then"};
inline constexpr Option kFor{"--for", "TIME", "so long (\"30s\"); 10 s where it is not given"};
inline constexpr Option kExact{"--exact", "", "every call, at breakpoints: each stops the VM"};
inline constexpr Option kSyscalls{"--syscalls", "", "with --exact: system calls, as without it"};
inline constexpr Option kFunctions{
    "--functions", "PATTERN", "with --exact: instead, [FILE:]FUNCTION; may be given several times"};
inline constexpr Option kStops{"--stops", "N",
                               "with --exact: at most so many stops in a second (2000)"};
inline constexpr Option kForce{"--force", "", "replace the output file when it is there"};
inline constexpr Option kOnce{"--once", "", "end after the show, with its result as exit status"};
inline constexpr Option kHelp{"--help", "", "what the program, or the command, does and takes"};
inline constexpr Option kVersion{"--version", "", "the version, and nothing else"};
}  // namespace option

// Code::invalid_argument says what is wrong and what would be right.
Result<Options> parse_options(const program::Program& program,
                              const std::vector<std::string>& arguments);

}  // namespace underseer::cli
