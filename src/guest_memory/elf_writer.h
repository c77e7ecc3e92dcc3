// Writes memory as an ELF core: one PT_LOAD for each region of RAM, addresses physical, as
// QEMU's dump-guest-memory does it, so that other tools read it too.
#pragma once

#include <functional>
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

// `fd` is an empty regular file. A page that cannot be had is counted, not an error. Code::os when
// the file cannot be written, Code::gone when `progress` said to end.
Result<ElfDump> write_elf_core(GuestMemory& memory, int fd, const Progress& progress);

}  // namespace underseer::guest_memory
