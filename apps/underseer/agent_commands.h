// Commands about the agent and what it has recorded.
#pragma once

#include "base/result.h"
#include "options.h"

namespace underseer::cli {

Result<int> status(const Options& options);
Result<int> findings(const Options& options);
// Has something done to an instance.
Result<int> act(const Options& options);
// log show | follow | verify
Result<int> log(const Options& options);

}  // namespace underseer::cli
