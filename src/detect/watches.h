// What goes on from look to look: the watches, which look all the time and not by a schedule, and
// the rules of events, which remember what they have judged. For those outside of this module.
#pragma once

#include "detect/event_rules/event_rules.h"
#include "detect/hidden_runner/hidden_runner.h"
#include "detect/watched_memory/watched_memory.h"
