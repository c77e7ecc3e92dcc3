#include "guest_linux/paths.h"

#include <fmt/format.h>

namespace underseer::guest_linux {

Paths::Paths(Kernel* kernel) : kernel_(kernel) {
    const Kernel& k = *kernel;
    f_ = {
        .path_mnt = k.field("path", "mnt"),
        .path_dentry = k.field("path", "dentry"),
        .dentry_parent = k.field("dentry", "d_parent"),
        // struct qstr moved into a union with __d_name in 6.15.
        .dentry_name = k.field("dentry", {"d_name.name", "__d_name.name"}),
        .dentry_name_len = k.field("dentry", {"d_name.len", "__d_name.len"}),
        .dentry_inode = k.field("dentry", "d_inode"),
        .dentry_hash_pprev = k.field("dentry", "d_hash.pprev"),
        .mount_mnt = k.field("mount", "mnt"),
        .mount_parent = k.field("mount", "mnt_parent"),
        .mount_mountpoint = k.field("mount", "mnt_mountpoint"),
        .vfsmount_root = k.field("vfsmount", "mnt_root"),
        .file_path = k.field("file", {"f_path", "__f_path"}),
        .inode_number = k.field("inode", "i_ino"),
        .inode_sb = k.field("inode", "i_sb"),
        .sb_type = k.field("super_block", "s_type"),
        .type_name = k.field("file_system_type", "name"),
        .inode_private = k.field("inode", "i_private"),
        .ns_name = k.field("proc_ns_operations", "name"),
        .proc_ns_ops = k.field("ns_common", "ops"),
    };
}

Result<std::string> Paths::dentry_name(GuestVirt dentry) {
    const GuestVirt text = TRY(kernel_->read_pointer(dentry, f_.dentry_name));
    const std::uint64_t length = TRY(kernel_->read(dentry, f_.dentry_name_len));
    if (length > 255) return fail(Code::malformed, "a file name is longer than NAME_MAX");
    std::string name(length, '\0');
    TRY(kernel_->memory().read(text, std::as_writable_bytes(std::span(name))));
    return name;
}

// fs/d_path.c, prepend_path(): up the dentries, and at the root of a mount on to its mount point.
Result<std::string> Paths::walk_up(GuestVirt mount, GuestVirt dentry) {
    std::string path;
    for (std::size_t depth = 0; depth < limits::kMaxPathDepth; ++depth) {
        const GuestVirt root =
            TRY(kernel_->read_pointer(mount + f_.mount_mnt.offset, f_.vfsmount_root));
        const GuestVirt parent = TRY(kernel_->read_pointer(dentry, f_.dentry_parent));
        if (dentry == root || dentry == parent) {
            const GuestVirt above = TRY(kernel_->read_pointer(mount, f_.mount_parent));
            // The topmost mount is its own parent. A dentry that is its own parent without being
            // the mount's root has been disconnected: the kernel stops there as well.
            if (above == mount || dentry != root) return path.empty() ? "/" : path;
            dentry = TRY(kernel_->read_pointer(mount, f_.mount_mountpoint));
            mount = above;
            continue;
        }
        path.insert(0, TRY(dentry_name(dentry)));
        path.insert(0, 1, '/');
        if (path.size() > limits::kMaxPathBytes) return fail(Code::limit, "a path is too long");
        dentry = parent;
    }
    return fail(Code::limit, "a path has too many levels");
}

// Files without a place in the tree get their name from their file system (d_op->d_dname).
Result<std::string> Paths::synthetic_name(GuestVirt dentry, GuestVirt inode,
                                          const std::string& fs_type, bool kernel_mount) {
    const std::uint64_t number = TRY(inode_number(inode));
    if (fs_type == "pipefs") return fmt::format("pipe:[{}]", number);    // fs/pipe.c
    if (fs_type == "sockfs") return fmt::format("socket:[{}]", number);  // net/socket.c
    if (fs_type == "anon_inodefs") {                                     // fs/anon_inodes.c
        return fmt::format("anon_inode:{}", TRY(dentry_name(dentry)));
    }
    if (fs_type == "pidfs") return std::string("anon_inode:[pidfd]");  // fs/pidfs.c
    if (fs_type == "nsfs") {                                           // fs/nsfs.c, ns_dname()
        const GuestVirt ns = TRY(kernel_->read_pointer(inode, f_.inode_private));
        const GuestVirt ops = TRY(kernel_->read_pointer(ns, f_.proc_ns_ops));
        const GuestVirt name = TRY(kernel_->read_pointer(ops, f_.ns_name));
        return fmt::format("{}:[{}]", TRY(kernel_->memory().read_cstring(name, 32)), number);
    }
    // Memory without a mount point: memfd, SysV, shared anonymous, huge pages (simple_dname()).
    if (kernel_mount) return fmt::format("/{} (deleted)", TRY(dentry_name(dentry)));
    return std::string();
}

Result<std::string> Paths::of_path(GuestVirt path) {
    const GuestVirt vfsmount = TRY(kernel_->read_pointer(path, f_.path_mnt));
    const GuestVirt dentry = TRY(kernel_->read_pointer(path, f_.path_dentry));
    if (!vfsmount || !dentry) return fail(Code::unavailable, "the path is empty");
    const GuestVirt mount = vfsmount - f_.mount_mnt.offset;
    const GuestVirt parent = TRY(kernel_->read_pointer(dentry, f_.dentry_parent));
    const bool unhashed = TRY(kernel_->read(dentry, f_.dentry_hash_pprev)) == 0;
    const GuestVirt inode = TRY(kernel_->read_pointer(dentry, f_.dentry_inode));
    if (inode && (unhashed || parent == dentry)) {
        const GuestVirt super_block = TRY(kernel_->read_pointer(inode, f_.inode_sb));
        const std::string fs_type = TRY(fs_type_of(super_block));
        // The kernel's own mounts (shm_mnt, ..) are in no namespace and have no mount point.
        const GuestVirt above = TRY(kernel_->read_pointer(mount, f_.mount_parent));
        const bool of_memory =
            fs_type == "tmpfs" || fs_type == "hugetlbfs" || fs_type == "secretmem";
        const bool kernel_mount = of_memory && parent == dentry && above == mount &&
                                  dentry != TRY(kernel_->read_pointer(vfsmount, f_.vfsmount_root));
        std::string name = TRY(synthetic_name(dentry, inode, fs_type, kernel_mount));
        if (!name.empty()) return name;
    }
    std::string text = TRY(walk_up(mount, dentry));
    if (unhashed && parent != dentry) text += " (deleted)";
    return text;
}

Result<std::string> Paths::of_file(GuestVirt file) {
    if (!f_.file_path.known()) return fail(Code::unavailable, "struct file has no f_path");
    return of_path(file + f_.file_path.offset);
}

Result<std::string> Paths::of_mount_point(GuestVirt mount) {
    const GuestVirt parent = TRY(kernel_->read_pointer(mount, f_.mount_parent));
    if (parent == mount) return std::string("/");
    return walk_up(parent, TRY(kernel_->read_pointer(mount, f_.mount_mountpoint)));
}

// fs/d_path.c, dentry_path(): up to the root of the file system, whatever is mounted there.
Result<std::string> Paths::of_mount_root(GuestVirt mount) {
    GuestVirt dentry = TRY(kernel_->read_pointer(mount + f_.mount_mnt.offset, f_.vfsmount_root));
    const GuestVirt inode = TRY(kernel_->read_pointer(dentry, f_.dentry_inode));
    const std::string fs_type = TRY(fs_type_of(TRY(kernel_->read_pointer(inode, f_.inode_sb))));
    if (fs_type == "nsfs") return synthetic_name(dentry, inode, fs_type, false);
    const bool unhashed = TRY(kernel_->read(dentry, f_.dentry_hash_pprev)) == 0;
    std::string path;
    for (std::size_t depth = 0; depth < limits::kMaxPathDepth; ++depth) {
        const GuestVirt parent = TRY(kernel_->read_pointer(dentry, f_.dentry_parent));
        if (parent == dentry) {
            if (path.empty()) return std::string("/");
            return unhashed ? path + "//deleted" : path;
        }
        path.insert(0, "/" + TRY(dentry_name(dentry)));
        if (path.size() > limits::kMaxPathBytes) return fail(Code::limit, "a path is too long");
        dentry = parent;
    }
    return fail(Code::limit, "a path has too many levels");
}

Result<std::uint64_t> Paths::inode_number(GuestVirt inode) {
    return kernel_->read(inode, f_.inode_number);
}

Result<std::string> Paths::fs_type_of(GuestVirt super_block) {
    const auto known = fs_types_.find(super_block);
    if (known != fs_types_.end()) return known->second;
    const GuestVirt type = TRY(kernel_->read_pointer(super_block, f_.sb_type));
    const GuestVirt name = TRY(kernel_->read_pointer(type, f_.type_name));
    std::string text = TRY(kernel_->memory().read_cstring(name, 64));
    if (fs_types_.size() < limits::kMaxListSteps) fs_types_.emplace(super_block, text);
    return text;
}

}  // namespace underseer::guest_linux
