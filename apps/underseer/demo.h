// `underseer demo`: a small guest hides a process, and a person sees who notices.
#pragma once

#include "base/result.h"
#include "options.h"

namespace underseer::cli {

// Becomes the installed demo script; only returns when that fails.
Result<int> demo(const Options& options);

}  // namespace underseer::cli
