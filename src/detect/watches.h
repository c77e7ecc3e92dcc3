// The watches: what is looked at all the time, and not by a schedule. For those outside of this
// module.
#pragma once

#include "detect/hidden_runner/hidden_runner.h"
#include "detect/watched_memory/watched_memory.h"
