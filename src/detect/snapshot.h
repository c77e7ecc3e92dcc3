// Snapshot: one moment of a guest. What several checks need of it is read once.
#pragma once

#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "event/observation.h"
#include "guest_linux/guest.h"

namespace underseer::detect {

// Whether a look is one of those that come by themselves, or one in between for which there is a
// reason. Of the latter, what has not changed since the last one of the former need not be read.
enum class Turn : std::uint8_t { in, out_of };

class Snapshot {
  public:
    // Begins a new look at `guest`, which must outlive this.
    explicit Snapshot(guest_linux::Guest* guest, Turn turn = Turn::in);
    Snapshot(const Snapshot&) = delete;

    guest_linux::Guest& guest() { return *guest_; }
    guest_linux::Kernel& kernel() { return guest_->kernel(); }
    // Every process and thread. A process whose first thread has ended is shown as one of its
    // others.
    const guest_linux::Listing<event::Task>& tasks();
    // Whose code is where.
    const Result<guest_linux::CodeMap>& code();
    // What the checks of the kernel share: see the functions of Guest that are called so.
    const Result<guest_linux::WaysOut>& ways_out_of_code();
    const Result<guest_linux::WaysOut>& ways_out_of_constants();
    const Result<guest_linux::CodeComparison>& altered_code();
    // Null where nobody has told how the kernel was built; where what is known is only how a guest
    // was first seen to run it, the second one has it.
    const Result<guest_linux::CodeComparison>* code_unlike_built();
    const Result<guest_linux::CodeComparison>* code_unlike_first_seen();
    const Result<guest_linux::BpfObjects>& bpf();
    const guest_linux::DispatchReport& system_calls();
    const guest_linux::BindingList& bindings();
    const guest_linux::HookList& hooks();
    bool is_partial() const { return turn_ == Turn::out_of; }
    // Whether there is a reason to look at it: in turn there always is.
    bool concerns(const event::Task& task) const {
        return !is_partial() || changed_.contains(GuestVirt{task.address});
    }
    // Null when no process has that number.
    const event::Task* process(std::uint32_t pid);

  private:
    const Result<guest_linux::CodeComparison>* code_unlike_known(bool is_seen);

    guest_linux::Guest* guest_;
    Turn turn_;
    std::unordered_set<GuestVirt> changed_;
    std::optional<guest_linux::Listing<event::Task>> tasks_;
    std::optional<Result<guest_linux::CodeMap>> code_;
    std::optional<Result<guest_linux::WaysOut>> ways_out_, constant_ways_out_;
    std::optional<Result<guest_linux::CodeComparison>> altered_, unlike_known_;
    std::optional<Result<guest_linux::BpfObjects>> bpf_;
    std::optional<guest_linux::DispatchReport> system_calls_;
    std::optional<guest_linux::BindingList> bindings_;
    std::optional<guest_linux::HookList> hooks_;
    std::unordered_map<std::uint32_t, const event::Task*> processes_;
};

}  // namespace underseer::detect
