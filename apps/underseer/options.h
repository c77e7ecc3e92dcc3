// What the person asked for.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace underseer::cli {

struct Options {
    std::string command;
    std::string target;  // a VM's name, UUID or pid, or the path of an image
    std::optional<std::uint32_t> pid;
    bool json = false;
    bool threads = false;
    bool environment = false;
    bool watch = false;
    bool help = false;
};

// Code::invalid_argument says what is wrong and what would be right.
Result<Options> parse_options(const std::vector<std::string>& arguments);

}  // namespace underseer::cli
