// Writes memory as an ELF core, so that other tools read it too: all of RAM, as QEMU's
// dump-guest-memory does it, or what a process or a module has of it.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "guest_memory/guest_memory.h"

namespace underseer::guest_memory {

struct ElfDump {
    std::uint64_t ram_bytes = 0;
    std::uint64_t file_bytes = 0;    // as `ls` shows it
    std::uint64_t stored_bytes = 0;  // pages that are not zeros; the others are holes of the file
    std::uint64_t absent_pages = 0;  // the source does not hold them; zeros in the file
    std::uint64_t failed_pages = 0;  // could not be read; zeros in the file
    GuestPhys first_failed;          // of them
    std::string why;                 // and why
};

// Called after every piece with what has been done of how much; false ends the writing.
using Progress = std::function<bool(std::uint64_t done_bytes, std::uint64_t ram_bytes)>;

// Memory at an address of the core. Those that follow one another, with the same rights, become one
// PT_LOAD.
struct CoreRun {
    std::uint64_t address = 0;
    GuestPhys phys;
    std::uint64_t size_bytes = 0;
    std::uint32_t rights = 0;  // PF_R, PF_W, PF_X

    bool follows(const CoreRun& other) const {
        return address == other.address + other.size_bytes && rights == other.rights;
    }
};

// One PT_LOAD for each region of RAM, addresses physical. `fd` is an empty regular file. A page
// that cannot be had is counted, not an error. Code::os when the file cannot be written, Code::gone
// when `progress` said to end.
Result<ElfDump> write_elf_core(GuestMemory& memory, int fd, const Progress& progress);

// The same of `runs`, which are sorted by address. `notes`: the content of the core's PT_NOTE;
// empty: it has none. Code::limit when there are more segments than a core may have.
Result<ElfDump> write_elf_core(GuestMemory& memory, std::span<const CoreRun> runs, Bytes notes,
                               int fd, const Progress& progress);

}  // namespace underseer::guest_memory
