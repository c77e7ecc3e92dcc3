// The memory of processes as far as it is in RAM: what each has of its own, and the files that they
// map, each once for all of them.
#pragma once

#include <optional>
#include <vector>

#include "guest_linux/memory_maps.h"
#include "guest_linux/page_cache.h"
#include "guest_linux/page_walk.h"

namespace underseer::guest_linux {

class UserMemory {
  public:
    UserMemory(Kernel* kernel, MemoryMaps* maps, Tasks* tasks);

    struct Area {
        event::Vma vma;
        GuestVirt file;  // its struct address_space; null where no file is behind the area
    };
    struct Process {
        GuestVirt mm;
        AddressSpace space;
        Listing<Area> areas;
    };
    // Nothing when the task has no memory: a kernel thread, or one that is ending.
    Result<std::optional<Process>> process(GuestVirt task, std::uint32_t pid);

    // Pages of an area from `from` on that are not the file's own: anonymous ones, and private
    // copies. At most `max_pages` are looked at; PresentPages::next is where to go on.
    Result<PresentPages> own_pages(AddressSpace space, const Area& area, GuestVirt from,
                                   std::uint64_t max_pages);

    // A file as the guest has it in memory, whoever has mapped which part of it.
    Result<FilePages> file_pages(GuestVirt file);
    Result<std::uint64_t> file_bytes(GuestVirt file) { return cache_.size_of(file); }

    guest_memory::GuestMemory& physical() { return kernel_->physical(); }

  private:
    Kernel* kernel_;
    MemoryMaps* maps_;
    Tasks* tasks_;
    PageCache cache_;
};

}  // namespace underseer::guest_linux
