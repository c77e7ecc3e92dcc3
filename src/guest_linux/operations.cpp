#include "guest_linux/operations.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace underseer::guest_linux {

namespace {

constexpr unsigned kAttempts = 3;
constexpr std::uint64_t kFolder = 0040000, kTypeMask = 0170000;  // S_IFDIR, S_IFMT
constexpr std::uint64_t kMaxProcNameBytes = 256;

// What every kernel of a distribution has built in, and rootkits filter.
constexpr std::array<std::string_view, 18> kBuiltIn{
    "/proc",           "/proc/modules",     "/proc/kallsyms", "/proc/kmsg",     "/proc/version",
    "/proc/stat",      "/proc/meminfo",     "/proc/cpuinfo",  "/proc/loadavg",  "/proc/interrupts",
    "/proc/net/tcp",   "/proc/net/udp",     "/proc/net/raw",  "/proc/net/unix", "/proc/net/arp",
    "/proc/net/route", "/proc/net/netlink", "/proc/net/dev"};

class BindingReader {
  public:
    explicit BindingReader(Kernel& kernel) : kernel_(kernel) {}

    BindingList read() {
        part("/proc", [&]() -> Result<void> {
            return folder(TRY(kernel_.symbol("proc_root")), "/proc", 0);
        });
        part("/proc/net", [&] { return namespaces(); });
        part("file systems", [&] { return file_systems(); });
        return std::move(list_);
    }

  private:
    template <typename Read>
    void part(std::string_view what, Read&& read) {
        const std::size_t before = list_.bindings.size();
        for (unsigned attempt = 1;; ++attempt) {
            auto done = read();
            if (done.has_value()) return;
            if (attempt == kAttempts) {
                list_.gaps.add(what, done.error());
                return;
            }
            list_.bindings.resize(before);
            kernel_.forget();
        }
    }

    Result<void> namespaces() {
        const Field node = kernel_.field("net", "list"), proc = kernel_.field("net", "proc_net");
        TRY(kernel_.require({node, proc}));
        Result<void> inside;
        TRY(kernel_.walk_list(TRY(kernel_.symbol("net_namespace_list")), [&](GuestVirt at) {
            inside = [&]() -> Result<void> {
                const GuestVirt root = TRY(kernel_.read_pointer(at - node.offset, proc));
                // It is no entry of another folder, and has no mode (proc_net_ns_init(),
                // fs/proc/proc_net.c).
                return root ? folder(root, "/proc/net", 0) : Result<void>();
            }();
            return inside.has_value();
        }));
        return inside;
    }

    // struct proc_dir_entry, fs/proc/internal.h.
    Result<void> entry(GuestVirt at, const std::string& path, unsigned depth) {
        TRY(kernel_.require({inode_ops_, ops_, seq_ops_, mode_}));
        if (list_.bindings.size() > limits::kMaxProcEntries)
            return fail(Code::limit, "it has too many entries");
        const bool is_folder = (TRY(kernel_.read(at, mode_)) & kTypeMask) == kFolder;
        if (is_folder) return folder(at, path, depth);
        TRY(add(path, "proc_iops", at, inode_ops_));
        TRY(add(path, "proc_ops", at, ops_));
        // One member is either: with a table of sequences, or a function that shows all.
        return add(path, "seq_ops", at, seq_ops_);
    }

    Result<void> folder(GuestVirt at, const std::string& path, unsigned depth) {
        TRY(kernel_.require({inode_ops_, ops_, children_, child_, name_, name_bytes_}));
        TRY(add(path, "proc_iops", at, inode_ops_));
        TRY(add(path, "proc_dir_ops", at, ops_));
        if (depth >= limits::kMaxProcDepth) return fail(Code::limit, "its folders are too deep");
        const GuestVirt root = TRY(kernel_.read_pointer(at, children_));
        return kernel_.walk_rb_tree(root.value, [&](GuestVirt node) -> Result<void> {
            const GuestVirt child = node - child_.offset;
            const std::uint64_t bytes =
                std::min(TRY(kernel_.read(child, name_bytes_)), kMaxProcNameBytes);
            const std::string name =
                TRY(kernel_.memory().read_cstring(TRY(kernel_.read_pointer(child, name_)), bytes));
            return entry(child, path + "/" + name, depth + 1);
        });
    }

    Result<void> file_systems() {
        const Field node = kernel_.field("super_block", "s_list"),
                    type = kernel_.field("super_block", "s_type"),
                    operations = kernel_.field("super_block", "s_op"),
                    root = kernel_.field("super_block", "s_root"),
                    type_name = kernel_.field("file_system_type", "name"),
                    inode = kernel_.field("dentry", "d_inode"),
                    entry_ops = kernel_.field("dentry", "d_op"),
                    inode_ops = kernel_.field("inode", "i_op"),
                    file_ops = kernel_.field("inode", "i_fop");
        TRY(kernel_.require(
            {node, type, operations, root, type_name, inode, entry_ops, inode_ops, file_ops}));
        Result<void> inside;
        TRY(kernel_.walk_list(TRY(kernel_.symbol("super_blocks")), [&](GuestVirt at) {
            inside = [&]() -> Result<void> {
                const GuestVirt block = at - node.offset;
                const GuestVirt kind = TRY(kernel_.read_pointer(block, type));
                const std::string thing =
                    fmt::format("root of {}", TRY(kernel_.memory().read_cstring(
                                                  TRY(kernel_.read_pointer(kind, type_name)), 64)));
                TRY(add(thing, "s_op", block, operations));
                const GuestVirt top = TRY(kernel_.read_pointer(block, root));
                if (!top) return {};
                TRY(add(thing, "d_op", top, entry_ops));
                const GuestVirt folder = TRY(kernel_.read_pointer(top, inode));
                if (!folder) return {};
                TRY(add(thing, "i_op", folder, inode_ops));
                return add(thing, "i_fop", folder, file_ops);
            }();
            return inside.has_value();
        }));
        return inside;
    }

    Result<void> add(const std::string& thing, std::string_view member, GuestVirt object,
                     const Field& field) {
        const GuestVirt target = TRY(kernel_.read_pointer(object, field));
        if (!target) return {};
        list_.bindings.push_back(
            {thing, std::string(member), object + field.offset, target,
             std::ranges::find(kBuiltIn, thing) != kBuiltIn.end() || thing == "root of proc"});
        return {};
    }

    Kernel& kernel_;
    BindingList list_;
    Field inode_ops_ = kernel_.field("proc_dir_entry", "proc_iops"),
          ops_ = kernel_.field("proc_dir_entry", "proc_ops"),
          seq_ops_ = kernel_.field("proc_dir_entry", "seq_ops"),
          children_ = kernel_.field("proc_dir_entry", "subdir"),
          child_ = kernel_.field("proc_dir_entry", "subdir_node"),
          name_ = kernel_.field("proc_dir_entry", "name"),
          name_bytes_ = kernel_.field("proc_dir_entry", "namelen"),
          mode_ = kernel_.field("proc_dir_entry", "mode");
};

}  // namespace

BindingList list_bindings(Kernel& kernel) {
    return BindingReader(kernel).read();
}

}  // namespace underseer::guest_linux
