// Snapshot: one moment of a guest. What several checks need of it is read once.
#pragma once

#include <optional>
#include <unordered_map>

#include "event/observation.h"
#include "guest_linux/guest.h"

namespace underseer::detect {

class Snapshot {
  public:
    // Begins a new look at `guest`, which must outlive this.
    explicit Snapshot(guest_linux::Guest* guest);
    Snapshot(const Snapshot&) = delete;

    guest_linux::Guest& guest() { return *guest_; }
    guest_linux::Kernel& kernel() { return guest_->kernel(); }
    // Every process and thread. A process whose first thread has ended is shown as one of its
    // others.
    const guest_linux::Listing<event::Task>& tasks();
    // Whose code is where.
    const Result<guest_linux::CodeMap>& code();
    // Null when no process has that number.
    const event::Task* process(std::uint32_t pid);

  private:
    guest_linux::Guest* guest_;
    std::optional<guest_linux::Listing<event::Task>> tasks_;
    std::optional<Result<guest_linux::CodeMap>> code_;
    std::unordered_map<std::uint32_t, const event::Task*> processes_;
};

}  // namespace underseer::detect
