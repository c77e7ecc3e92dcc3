// Open files and memory mappings of a process.
#pragma once

#include <vector>

#include "event/observation.h"
#include "guest_linux/kernel.h"
#include "guest_linux/paths.h"
#include "guest_linux/tasks.h"

namespace underseer::guest_linux {

// What a walk found, and how many entries it could not read (never silently left out).
template <typename T>
struct Listing {
    std::vector<T> items;
    std::uint32_t unreadable = 0;
    std::string first_error;  // of the unreadable ones

    void note(const Error& error) {
        if (unreadable++ == 0) first_error = error.to_text();
    }
};

class OpenFiles {
  public:
    OpenFiles(Kernel* kernel, Paths* paths);

    // The file table of a task, in fd order. Empty for kernel threads and zombies.
    Result<Listing<event::OpenFile>> list(GuestVirt task, std::uint32_t pid);

    // One of it. Code::not_found when it is not open.
    Result<event::OpenFile> one(GuestVirt task, std::uint32_t fd);

    // The file table of a task, which others may share; null where it has none.
    Result<GuestVirt> table_of(GuestVirt task) { return kernel_->read_pointer(task, f_.files); }

    // Calls visit(fd, struct file address) for every open file.
    template <typename Visit>
    Result<void> for_each(GuestVirt task, Visit&& visit);

    // The struct sock behind an open file, null when it is no socket.
    Result<GuestVirt> socket_of(GuestVirt file);

  private:
    Result<std::vector<std::uint64_t>> table(GuestVirt task);
    Result<event::OpenFile> read(GuestVirt file);

    Kernel* kernel_;
    Paths* paths_;
    struct {
        Field files, fdt, max_fds, fd;
        Field file_flags, file_position, file_inode, inode_mode, inode_sb;
        Field socket_alloc_socket, socket_alloc_inode, socket_sk;
    } f_;
};

template <typename Visit>
Result<void> OpenFiles::for_each(GuestVirt task, Visit&& visit) {
    const std::vector<std::uint64_t> files = TRY(table(task));
    for (std::size_t fd = 0; fd < files.size(); ++fd) {
        if (files[fd] != 0) visit(static_cast<std::uint32_t>(fd), GuestVirt{files[fd]});
    }
    return {};
}

}  // namespace underseer::guest_linux
