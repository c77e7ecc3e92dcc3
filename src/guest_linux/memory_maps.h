// The mappings of a process: the lines of /proc/PID/maps.
#pragma once

#include <utility>
#include <vector>

#include "event/observation.h"
#include "guest_linux/open_files.h"

namespace underseer::guest_linux {

class MemoryMaps {
  public:
    MemoryMaps(Kernel* kernel, Paths* paths, Tasks* tasks);

    Result<Listing<event::Vma>> list(GuestVirt task, std::uint32_t pid);
    // Each with the struct address_space of its file; null where no file is behind it.
    using WithFile = std::pair<event::Vma, GuestVirt>;
    Result<Listing<WithFile>> list_with_files(GuestVirt task, std::uint32_t pid);

  private:
    Result<std::vector<GuestVirt>> areas(GuestVirt mm);
    Result<std::vector<GuestVirt>> maple_entries(GuestVirt tree);
    Result<event::Vma> read(GuestVirt area, GuestVirt mm);
    Result<std::string> special_name(GuestVirt area, GuestVirt mm, const event::Vma& vma);
    Result<std::optional<event::Vma>> vsyscall_page();

    Kernel* kernel_;
    Paths* paths_;
    Tasks* tasks_;
    struct {
        Field mm_mt, mmap, brk, start_brk, start_stack;
        Field start, end, flags, file, page_offset, ops, private_data, next, anon_name;
        Field root, range_pivot, range_slot, arange_pivot, arange_slot;
        Field file_inode, file_mapping, inode_sb, sb_dev, special_name, anon_name_text;
    } f_;
};

}  // namespace underseer::guest_linux
