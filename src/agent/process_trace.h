// What the threads of one process do, sampled from memory in steps of about a second. The inside of
// a jail. Nothing in the guest is touched.
#pragma once

#include <memory>
#include <optional>

#include "agent/introspection.h"
#include "guest_linux/guest.h"

namespace underseer::agent {

class ProcessTrace {
  public:
    template <typename T>
    using Listing = guest_linux::Listing<T>;

    ProcessTrace();
    ~ProcessTrace();
    ProcessTrace(const ProcessTrace&) = delete;

    // `memory` is what `guest` is read from, without a cache; it outlives the trace.
    Result<Listing<TracePart>> begin(guest_linux::Guest& guest, guest_memory::GuestMemory* memory,
                                     const TraceOrder& order, std::optional<std::uint32_t> pid);
    Result<Listing<TracePart>> go_on(guest_linux::Guest& guest);
    // Whatever was begun is over: another kernel runs.
    void leave_guest();

  private:
    class Look;

    std::unique_ptr<Look> look_;
};

}  // namespace underseer::agent
