#include "guest_linux/open_files.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

namespace underseer::guest_linux {

OpenFiles::OpenFiles(Kernel* kernel, Paths* paths) : kernel_(kernel), paths_(paths) {
    const Kernel& k = *kernel;
    f_ = {
        .files = k.field("task_struct", "files"),
        .fdt = k.field("files_struct", "fdt"),
        .max_fds = k.field("fdtable", "max_fds"),
        .fd = k.field("fdtable", "fd"),
        .file_flags = k.field("file", "f_flags"),
        .file_position = k.field("file", "f_pos"),
        .file_inode = k.field("file", "f_inode"),
        .inode_mode = k.field("inode", "i_mode"),
        .inode_sb = k.field("inode", "i_sb"),
        .socket_alloc_socket = k.field("socket_alloc", "socket"),
        .socket_alloc_inode = k.field("socket_alloc", "vfs_inode"),
        .socket_sk = k.field("socket", "sk"),
    };
}

Result<std::vector<std::uint64_t>> OpenFiles::table(GuestVirt task) {
    const GuestVirt files = TRY(table_of(task));
    if (!files) return std::vector<std::uint64_t>();
    const GuestVirt fdt = TRY(kernel_->read_pointer(files, f_.fdt));
    const std::uint64_t count = TRY(kernel_->read(fdt, f_.max_fds));
    if (count > limits::kMaxFdsPerProcess) {
        return fail(Code::limit, fmt::format("a file table with {} entries", count));
    }
    const GuestVirt array = TRY(kernel_->read_pointer(fdt, f_.fd));
    std::vector<std::uint64_t> entries(count);
    TRY(kernel_->memory().read(array, std::as_writable_bytes(std::span(entries))));
    return entries;
}

Result<event::OpenFile> OpenFiles::read(GuestVirt file) {
    event::OpenFile result;
    result.flags = static_cast<std::uint32_t>(TRY(kernel_->read(file, f_.file_flags)));
    result.position_bytes = TRY(kernel_->read(file, f_.file_position));
    const GuestVirt inode = TRY(kernel_->read_pointer(file, f_.file_inode));
    result.inode = TRY(paths_->inode_number(inode));
    result.mode = static_cast<std::uint32_t>(TRY(kernel_->read(inode, f_.inode_mode)));
    result.path = TRY(paths_->of_file(file));
    // Some kernels make these regular files and hide it from stat(2) (fs/anon_inodes.c,
    // anon_inode_getattr()).
    if (result.path.starts_with("anon_inode:")) result.mode &= ~static_cast<std::uint32_t>(S_IFMT);
    return result;
}

Result<Listing<event::OpenFile>> OpenFiles::list(GuestVirt task, std::uint32_t pid) {
    Listing<event::OpenFile> listing;
    TRY(for_each(task, [&](std::uint32_t fd, GuestVirt address) {
        auto file = read(address);
        if (!file.has_value()) return listing.note(file.error());
        file->pid = pid;
        file->fd = fd;
        listing.items.push_back(std::move(*file));
    }));
    return listing;
}

Result<event::OpenFile> OpenFiles::one(GuestVirt task, std::uint32_t fd) {
    const std::vector<std::uint64_t> files = TRY(table(task));
    if (fd >= files.size() || files[fd] == 0) {
        return fail(Code::not_found, fmt::format("descriptor {} is not open", fd));
    }
    auto file = TRY(read(GuestVirt{files[fd]}));
    file.fd = fd;
    return file;
}

Result<GuestVirt> OpenFiles::socket_of(GuestVirt file) {
    const GuestVirt inode = TRY(kernel_->read_pointer(file, f_.file_inode));
    const GuestVirt super_block = TRY(kernel_->read_pointer(inode, f_.inode_sb));
    if (TRY(paths_->fs_type_of(super_block)) != "sockfs") return GuestVirt{};
    // SOCKET_I(): the inode and its socket are allocated together (include/net/sock.h).
    TRY(kernel_->require({f_.socket_alloc_inode, f_.socket_alloc_socket}));
    const GuestVirt socket = inode - f_.socket_alloc_inode.offset + f_.socket_alloc_socket.offset;
    return kernel_->read_pointer(socket, f_.socket_sk);
}

}  // namespace underseer::guest_linux
