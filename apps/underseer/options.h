// What the person asked for.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace underseer::cli {

struct Options {
    std::string command;
    std::string target;    // a VM's name, UUID or pid, the path of an image, or what of `log`
    std::string argument;  // a third word
    std::optional<std::uint32_t> pid;
    bool json = false;
    bool threads = false;
    bool environment = false;
    bool watch = false;
    bool force = false;
    bool deep = false;  // of check: search all RAM
    bool help = false;
    bool direct = false;                       // look ourselves even when an agent runs
    bool bulk = false;                         // the bulk log
    std::filesystem::path state_dir, run_dir;  // of the agent
    std::filesystem::path key;                 // public enrolment key; empty: the agent's
};

// Code::invalid_argument says what is wrong and what would be right.
Result<Options> parse_options(const std::vector<std::string>& arguments);

}  // namespace underseer::cli
