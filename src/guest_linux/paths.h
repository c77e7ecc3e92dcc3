// Paths of files, as /proc shows them: dentry and mount chains turned into text.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

class Paths {
  public:
    explicit Paths(Kernel* kernel);

    // A `struct path {mnt, dentry}` at that address. "/usr/bin/x", "/tmp/x (deleted)",
    // "socket:[123]", "pipe:[4]", "anon_inode:[eventfd]", "/memfd:x (deleted)", "net:[402..]".
    // Paths go up to the root of their mount namespace.
    Result<std::string> of_path(GuestVirt path);
    // The path of an open `struct file`.
    Result<std::string> of_file(GuestVirt file);
    // Path of a mount's mount point ("/" for the root of its namespace). `mount` is a struct mount.
    Result<std::string> of_mount_point(GuestVirt mount);
    // What of its file system a mount shows: "/" for all, "/var/lib" of a bind mount,
    // "net:[402..]".
    Result<std::string> of_mount_root(GuestVirt mount);

    // Inode number, mode, and the name of the file system type.
    Result<std::uint64_t> inode_number(GuestVirt inode);
    Result<std::string> fs_type_of(GuestVirt super_block);

    // Forgets what was remembered of the guest.
    void new_epoch() { fs_types_.clear(); }

  private:
    Result<std::string> dentry_name(GuestVirt dentry);
    Result<std::string> walk_up(GuestVirt mount, GuestVirt dentry);
    Result<std::string> synthetic_name(GuestVirt dentry, GuestVirt inode,
                                       const std::string& fs_type, bool kernel_mount);

    Kernel* kernel_;
    struct {
        Field path_mnt, path_dentry;
        Field dentry_parent, dentry_name, dentry_name_len, dentry_inode, dentry_hash_pprev;
        Field mount_mnt, mount_parent, mount_mountpoint, vfsmount_root;
        Field file_path, inode_number, inode_sb, sb_type, type_name, inode_private;
        Field ns_name, proc_ns_ops;
    } f_;
    std::unordered_map<GuestVirt, std::string> fs_types_;  // by super_block, of one look
};

}  // namespace underseer::guest_linux
