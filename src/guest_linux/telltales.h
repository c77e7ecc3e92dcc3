// Telltales: words of a kernel that move when somebody in the guest does something that a check may
// have to judge. They say nothing of what it was; they are so cheap that they can be asked all the
// time, and a guest in which nothing happens need not be looked at because something might have.
//
// TRUST: a guest's words. A kernel that lies can have itself looked at more often, and no less than
// without them.
#pragma once

#include <cstdint>
#include <vector>

#include "guest_linux/gaps.h"
#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

// What may have happened, as bits.
enum Sign : std::uint32_t {
    kSignOfTasks = 1,      // one began, changed its program or credentials, or is traced
    kSignOfModules = 2,    // one came or went
    kSignOfCode = 4,       // the kernel patched its own code: tracers, probes, static calls
    kSignOfHooks = 8,      // somebody wants to be called: notifiers, packets, terminals, formats
    kSignOfPrograms = 16,  // a program, map or link of BPF came or went
    kSignOfEnds = 32,      // a process is in the list no more: it has ended, or is hidden
};
using Signs = std::uint32_t;
constexpr Signs kAllSigns = 63;

class Telltales {
  public:
    // `memory` is read at each poll, and must not be a cache; both must outlive this.
    Telltales(Kernel* kernel, guest_memory::GuestMemory* memory);

    // Chains of notifiers grow and shrink: where they go now is looked up.
    void follow_chains();
    // Which have moved since the last poll.
    Signs poll();
    // The same of every process by its task_struct, kSignOfTasks and kSignOfEnds: it costs as much
    // as all else twenty times.
    Signs call_the_roll();

    const Gaps& gaps() const { return gaps_; }

  private:
    struct Word {
        Sign sign{};
        GuestVirt at;
        std::uint32_t size_bytes = 0;
        std::uint64_t kept = 0;  // a hash
    };
    void find_words();
    void watch(Sign sign, GuestVirt at, std::uint64_t size_bytes);
    void watch_symbol(Sign sign, std::string_view symbol, std::uint64_t size_bytes);
    // A member of a variable.
    void watch_member(Sign sign, std::string_view symbol, std::string_view structure,
                      std::string_view member);
    Result<void> watch_patching();
    Result<std::uint64_t> hash_of(const Word& word);
    // A hash for each process.
    Result<std::vector<std::uint64_t>> roll();

    Kernel* kernel_;
    VirtualMemory live_;
    std::vector<Word> words_, links_;  // those that stay, and those of chains
    Field next_;                       // of a link
    std::vector<std::byte> bytes_, task_bytes_;
    std::vector<std::uint64_t> roll_;  // sorted
    GuestVirt init_task_;
    struct {
        Field tasks, pid, mm, real_cred, cred, ptrace;
    } f_;
    Gaps gaps_;
};

}  // namespace underseer::guest_linux
