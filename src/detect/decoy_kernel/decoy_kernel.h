// Decoy kernels: whether the kernel that memory shows is the one that the guest's CPUs run.
//
// Whoever controls a kernel can lay a copy of it beside it, complete with page tables, lists and a
// clock that it keeps going, in which nothing is amiss. To be believed, a decoy must keep time
// (guest_linux/vital_signs.h); a kernel that keeps time and that no CPU runs is one. What a reboot
// or kexec has left behind does not count any more.
//
// The same registers say whether the CPUs still protect the kernel as it has told them to.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "detect/check.h"

namespace underseer::detect {

// Kept over many looks at one guest, and so none of all_checks(): registers come from outside, once
// for each.
class DecoyKernelCheck {
  public:
    static constexpr std::string_view kName = "decoy_kernel";
    static std::span<const Rule> rules();
    // A finding needs this many hearings in a row that say the same.
    static constexpr unsigned kHearings = 3;

    // A kernel that was believed until a CPU spoke for another.
    void suspect(guest_linux::UnrunKernel kernel);

    // `cpus` as they were a moment ago. Clean: at least one CPU runs the kernel of `guest`, none
    // another. Unavailable: no CPU says anything, or not often enough yet.
    event::CheckReport hear(guest_linux::Guest& guest, std::span<const event::CpuRegisters> cpus);

  private:
    struct Suspect {
        guest_linux::UnrunKernel kernel;
        std::optional<std::uint64_t> ticks;  // at the last hearing
        unsigned moved = 0;                  // hearings between which its clock went on
    };
    // Returns how many are new.
    unsigned watch_suspects(guest_linux::Guest& guest);

    std::map<GuestPhys, Suspect> suspects_;  // by the root of their page tables
    std::map<std::string, unsigned> heard_;  // times in a row, by the key of what a CPU says
};

}  // namespace underseer::detect
