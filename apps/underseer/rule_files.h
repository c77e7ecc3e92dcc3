// The files of rules that a person names, and what they include.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "scan/rules.h"

namespace underseer::cli {

// Of a folder: every *.yar and *.yara in and below it. What include directives name is added where
// it is an ordinary file in or below the folder of the file that was named; where it is not, the
// compiler says so. Nothing of what they say is understood here.
Result<std::vector<scan::RuleFile>> load_rule_files(const std::vector<std::string>& paths);

}  // namespace underseer::cli
