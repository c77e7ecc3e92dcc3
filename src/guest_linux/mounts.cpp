#include "guest_linux/mounts.h"

#include <fmt/format.h>

#include <array>
#include <unordered_set>
#include <utility>

namespace underseer::guest_linux {

namespace {

// include/linux/mount.h, in the order that fs/proc_namespace.c prints them.
constexpr std::array<std::pair<std::uint64_t, std::string_view>, 7> kMountOptions{{
    {0x01, "nosuid"},
    {0x02, "nodev"},
    {0x04, "noexec"},
    {0x08, "noatime"},
    {0x10, "nodiratime"},
    {0x20, "relatime"},
    {0x80, "nosymfollow"},
}};
constexpr std::uint64_t kMntReadOnly = 0x40;

class MountReader {
  public:
    MountReader(Kernel& kernel, Paths& paths) : kernel_(kernel), paths_(paths) {}

    Result<void> list_namespace(GuestVirt ns, Listing<event::Mount>& listing) {
        const auto number = static_cast<std::uint32_t>(TRY(kernel_.read(ns, ns_number_)));
        for (const GuestVirt mount : TRY(mounts_of(ns))) {
            auto item = read(mount);
            if (!item.has_value()) {
                listing.note(item.error());
                continue;
            }
            item->mnt_namespace = number;
            listing.items.push_back(std::move(*item));
        }
        return {};
    }

  private:
    // A list until 6.7, a red-black tree by id since (fs/mount.h).
    Result<std::vector<GuestVirt>> mounts_of(GuestVirt ns) {
        std::vector<GuestVirt> mounts;
        if (ns_list_.known()) {
            TRY(kernel_.walk_list(ns + ns_list_.offset, [&](GuestVirt node) {
                mounts.push_back(node - list_node_.offset);
                return true;
            }));
            return mounts;
        }
        std::vector<std::uint64_t> stack{TRY(kernel_.read(ns, ns_tree_))};
        std::unordered_set<GuestVirt> seen;
        while (!stack.empty()) {
            const GuestVirt node{stack.back()};
            stack.pop_back();
            if (!node) continue;
            if (mounts.size() > limits::kMaxListSteps) return fail(Code::limit, "too many mounts");
            if (!seen.insert(node).second) {
                return fail(Code::malformed, "the tree of mounts leads into itself");
            }
            mounts.push_back(node - tree_node_.offset);
            // struct rb_node {__rb_parent_color, rb_right, rb_left}
            stack.push_back(TRY(kernel_.memory().read<std::uint64_t>(node + 8)));
            stack.push_back(TRY(kernel_.memory().read<std::uint64_t>(node + 16)));
        }
        return mounts;
    }

    Result<event::Mount> read(GuestVirt mount) {
        event::Mount result;
        result.id = static_cast<std::uint32_t>(TRY(kernel_.read(mount, id_)));
        const GuestVirt parent = TRY(kernel_.read_pointer(mount, parent_));
        result.parent_id = static_cast<std::uint32_t>(TRY(kernel_.read(parent, id_)));
        const GuestVirt device = TRY(kernel_.read_pointer(mount, device_name_));
        result.source = device ? TRY(kernel_.memory().read_cstring(device, limits::kMaxPathBytes))
                               : std::string("none");
        result.root = TRY(paths_.of_mount_root(mount));
        result.target = TRY(paths_.of_mount_point(mount));
        const GuestVirt super_block = TRY(kernel_.read_pointer(mount, super_block_));
        result.fs_type = TRY(paths_.fs_type_of(super_block));
        if (const GuestVirt subtype = TRY(kernel_.read_pointer(super_block, subtype_))) {
            result.fs_type += "." + TRY(kernel_.memory().read_cstring(subtype, 64));
        }
        const std::uint64_t flags = TRY(kernel_.read(mount, flags_));
        result.options = (flags & kMntReadOnly) != 0 ? "ro" : "rw";
        for (const auto& [bit, name] : kMountOptions) {
            if ((flags & bit) != 0) result.options += fmt::format(",{}", name);
        }
        const std::uint64_t dev = TRY(kernel_.read(super_block, dev_));
        result.device_major = static_cast<std::uint32_t>(dev >> 20);  // MINORBITS
        result.device_minor = static_cast<std::uint32_t>(dev & 0xfffff);
        return result;
    }

    Kernel& kernel_;
    Paths& paths_;
    Field ns_number_ = kernel_.field("mnt_namespace", "ns.inum");
    Field ns_list_ = kernel_.field("mnt_namespace", "list");
    Field ns_tree_ = kernel_.field("mnt_namespace", "mounts.rb_node");
    Field list_node_ = kernel_.field("mount", "mnt_list");
    Field tree_node_ = kernel_.field("mount", "mnt_node");
    Field id_ = kernel_.field("mount", "mnt_id");
    Field parent_ = kernel_.field("mount", "mnt_parent");
    Field device_name_ = kernel_.field("mount", "mnt_devname");
    Field super_block_ = kernel_.field("mount", "mnt.mnt_sb");
    Field flags_ = kernel_.field("mount", "mnt.mnt_flags");
    Field subtype_ = kernel_.field("super_block", "s_subtype");
    Field dev_ = kernel_.field("super_block", "s_dev");
};

}  // namespace

Result<void> add_mounts(Kernel& kernel, Paths& paths, const std::vector<GuestVirt>& tasks,
                        Listing<event::Mount>& listing) {
    MountReader reader(kernel, paths);
    const Field nsproxy = kernel.field("task_struct", "nsproxy");
    const Field mnt_ns = kernel.field("nsproxy", "mnt_ns");
    TRY(kernel.require({nsproxy, mnt_ns}));
    std::unordered_set<GuestVirt> seen;
    const auto list_that_of = [&](GuestVirt task) -> Result<void> {
        const GuestVirt proxy = TRY(kernel.read_pointer(task, nsproxy));
        if (!proxy) return {};  // exiting
        const GuestVirt ns = TRY(kernel.read_pointer(proxy, mnt_ns));
        if (!ns || !seen.insert(ns).second) return {};
        return reader.list_namespace(ns, listing);
    };
    for (const GuestVirt task : tasks) {
        const auto listed = list_that_of(task);
        if (!listed.has_value()) listing.note(listed.error());
    }
    return {};
}

}  // namespace underseer::guest_linux
