// Where guest RAM comes from: a live VMM's memory, or an image file.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "guest_memory/guest_memory.h"
#include "guest_memory/ram_layout.h"

namespace underseer::guest_memory {

// Live RAM behind file descriptors: the VMM's shared memfd or file, or its /proc/PID/mem. Read by
// pread and never mapped: a hole of a memfd costs nothing, a file that shrinks is a failed read and
// no SIGBUS, and a jail can allow just these fds and ranges. `fds` are borrowed and must stay open.
Result<std::unique_ptr<GuestMemory>> open_live(std::vector<int> fds, std::vector<RamSlice> layout,
                                               std::string description);

// An image file: LiME, AVML, ELF core (QEMU dump-guest-memory, virsh dump --memory-only),
// kdump-compressed, flattened or not (makedumpfile, QEMU), or, when it has no header that we know,
// raw memory from address 0. `fd` is borrowed, `file_bytes` its size
// (a jail cannot ask for it). TRUST: hostile bytes.
Result<std::unique_ptr<GuestMemory>> open_image(int fd, std::uint64_t file_bytes, std::string name);

}  // namespace underseer::guest_memory
