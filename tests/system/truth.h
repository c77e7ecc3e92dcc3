// What the guest itself says, through its own /proc: the ground truth for what Underseer sees.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "testing/test_vm.h"

namespace underseer::testing {

// Text by pid, of one file of every /proc/PID (or every thread with `threads`).
using ByPid = std::map<std::uint32_t, std::string>;

// `command` sees the directory as $p; its output is the value. NULs are shown as '\1'.
ByPid for_each_process(TestVm& vm, const std::string& command, bool threads = false);

std::vector<std::string> lines_of(const std::string& text);
std::vector<std::string> words_of(const std::string& line);

}  // namespace underseer::testing
