// Vital signs: whether a kernel that was found in RAM is the one that runs.
//
// RAM keeps a kernel long after its end. A reset clears nothing: until the next kernel overwrites
// them, lists, page tables and symbols of the last one are all in place; kexec leaves the old
// kernel beside the new one. Only time tells: a kernel that runs counts ticks, unless it is idle or
// the guest is paused, and then nothing else changes in RAM either.
#pragma once

#include <cstdint>
#include <functional>

#include "base/bytes.h"
#include "base/result.h"

namespace underseer::guest_linux {

class Kernel;

struct VitalSigns {
    GuestPhys root;              // of the kernel's page tables
    std::uint64_t canary = 0;    // drawn anew at every boot: the first task's stack canary
    std::uint64_t ticks = 0;     // jiffies_64
    std::uint64_t firmware = 0;  // digest of page 0, which a BIOS writes and Linux does not

    bool operator==(const VitalSigns&) const = default;
    // The same boot of the same kernel, not one tick later.
    bool is_remains_of(const VitalSigns& other) const {
        return root == other.root && canary == other.canary && ticks == other.ticks;
    }
};

// Reads them anew. Code::gone when this kernel is not in place any more, or is on its way down;
// Code::unavailable while it is booting.
Result<VitalSigns> read_vital_signs(Kernel& kernel);

// Code::gone when `now` cannot be a later moment of the boot that `before` belongs to.
Result<void> check_same_life(const VitalSigns& before, const VitalSigns& now);

inline constexpr unsigned kWatchStepMs = 25;

// How long nothing may move in RAM before the guest counts as idle or paused, in rounds of 75 ms. A
// kernel that has never been seen to run needs more of them: firmware that waits for a device, or
// a guest that the host lets wait, looks idle for a moment as well.
enum class Acquaintance : unsigned { seen_running = 1, new_here = 4 };

// Proves that the kernel ran after `since` was read, or that nothing at all runs in the guest.
// Takes no time when the clock has moved, 75 or 300 ms on an idle guest, at most a second. `pause`
// waits for kWatchStepMs. Code::gone when something else runs; else the signs that were seen last.
Result<VitalSigns> prove_running(Kernel& kernel, const VitalSigns& since, Acquaintance kernel_is,
                                 const std::function<void()>& pause);

}  // namespace underseer::guest_linux
