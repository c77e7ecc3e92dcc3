// Every system call of one process, or every call of some functions, at breakpoints that the
// supervisor holds. The inside of a jail; of the guest nothing is written here either.
#pragma once

#include <functional>
#include <optional>

#include "agent/exact_form.h"
#include "guest_linux/guest.h"
#include "jail/channel.h"

namespace underseer::agent {

// What is told waits for nobody: the guest may stand still meanwhile.
using TellExact = std::function<Result<void>(const ExactPart& part)>;

// Traces until it is over, and tells what it has seen; the last part has the summary. `memory` is
// what `guest` is read from, without a cache. An error: it has not begun, and nothing was done to
// the guest.
Result<void> trace_exactly(guest_linux::Guest& guest, guest_memory::GuestMemory* memory,
                           jail::Channel& supervisor, std::uint32_t pid, const TraceOrder& order,
                           const TellExact& tell);

}  // namespace underseer::agent
