// What stands in the manual beside commands and options.
#pragma once

#include <vector>

#include "program/described.h"

namespace underseer::cli {

std::vector<program::Section> manual_sections();
program::Program policy_manual();  // underseer-policy(5)

}  // namespace underseer::cli
