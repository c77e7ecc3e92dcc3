// What to watch: small parts of the kernel that nobody has to write to once it is up, and in which
// a few bytes decide who answers when the kernel is entered, asked for permission, or read in
// /proc.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "event/finding.h"
#include "guest_linux/gaps.h"
#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

struct WatchedPlace {
    enum class Kind : std::uint8_t {
        pointers,  // to functions or tables, eight bytes each
        gates,     // of interrupts
        code,      // which the kernel itself may patch: see CodeBaseline
        program,   // the name of a program that the kernel starts: may be set, and to what matters
        data,      // that somebody has asked for, whatever it is
    };
    Kind kind{};
    std::string name;  // "sys_call_table", "tcp4_seq_ops"
    GuestVirt begin;
    std::uint64_t size_bytes = 0;
    std::string structure{};       // of pointers: what it is one of, "" if it is an array
    std::uint64_t first_byte = 0;  // where `begin` lies in that

    // How many bytes change together.
    std::size_t unit_bytes() const;
};

struct WatchList {
    std::vector<WatchedPlace> places;  // by address
    Gaps gaps;
};

// The tables and the code that answer system calls, the table of interrupts, the first code of the
// kernel that is run, what security modules have registered, the operations that show processes,
// modules and sockets in /proc and take in what is typed, and the programs for crashes and modules.
// Where a part of them belongs to a module, it is not among them.
WatchList list_watched(Kernel& kernel);

// What somebody wants watched besides, as far as this kernel has it.
WatchList list_regions(Kernel& kernel, std::span<const event::MemoryRegion> regions);

// What stands so many bytes behind the begin of it: "getdents64 (sys_call_table[217])",
// "tcp4_seq_ops.show", "interrupt 0x81".
std::string watched_name(const Kernel& kernel, const WatchedPlace& place, std::uint64_t offset);

// Where a gate of the table of interrupts leads.
GuestVirt gate_target(std::uint64_t low, std::uint64_t high);

}  // namespace underseer::guest_linux
