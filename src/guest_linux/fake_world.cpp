#include "guest_linux/fake_world.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <span>

namespace underseer::guest_linux {

namespace {

constexpr std::uint32_t kDaemon = 20;  // the process of FakeGuest::add_system() that has all this
constexpr std::uint32_t kMountNamespace = 4026531841, kNetNamespace = 4026531840;
constexpr std::uint32_t kRegular = 0100644, kDirectory = 040755, kSocketMode = 0140777;
constexpr std::uint64_t kListPoison1 = 0xdead000000000100, kListPoison2 = 0xdead000000000122;

struct Struct {
    std::string_view name;
    std::uint32_t size_bytes;
    std::string_view members;  // as FakeGuest::define() wants them
};

constexpr Struct kStructs[] = {
    {"atomic_t", 4, "counter:int@0"},
    {"atomic_long_t", 8, "counter:long@0"},
    {"rb_node", 24, "__rb_parent_color:long@0 rb_right:ptr@8 rb_left:ptr@16"},
    {"rb_root", 8, "rb_node:ptr@0"},
    {"ns_common", 16, "ops:ptr@0 inum:int@8"},
    // modules
    {"module_use", 48, "source_list:list_head@0 target_list:list_head@16 source:ptr@32"},
    // file systems
    {"file_system_type", 16, "name:ptr@0"},
    {"super_block", 48, "s_dev:int@0 s_type:ptr@8 s_subtype:ptr@16"},
    {"inode", 48, "i_mode:short@0 i_sb:ptr@8 i_ino:long@16 i_private:ptr@24"},
    {"qstr", 16, "len:int@4 name:ptr@8"},
    {"dentry", 64, "d_hash:hlist_node@0 d_parent:ptr@16 d_name:qstr@24 d_inode:ptr@40"},
    {"vfsmount", 24, "mnt_root:ptr@0 mnt_sb:ptr@8 mnt_flags:int@16"},
    {"nsproxy", 16, "mnt_ns:ptr@8"},
    // mappings
    {"vm_special_mapping", 8, "name:ptr@0"},
    {"maple_tree", 16, "ma_root:ptr@8"},
    {"maple_range_64", 256, "parent:ptr@0 pivot:long[15]@8 slot:ptr[16]@128"},
    {"maple_arange_64", 256, "parent:ptr@0 pivot:long[9]@8 slot:ptr[10]@80"},
    // interfaces
    {"net", 64, "list:list_head@0 ns:ns_common@16 dev_base_head:list_head@32"},
    {"bpf_xdp_entity", 16, "prog:ptr@0 link:ptr@8"},
    {"adjacent_devices", 32, "upper:list_head@0 lower:list_head@16"},
    {"netdev_adjacent", 32, "dev:ptr@0 master:char@8 list:list_head@16"},
    {"rtnl_link_ops", 8, "kind:ptr@0"},
    {"net_device", 224,
     "name:char[16]@0 dev_list:list_head@16 ifindex:int@32 flags:int@36 mtu:int@40 "
     "promiscuity:int@44 dev_addr:ptr@48 addr_len:char@56 perm_addr:char[32]@64 ip_ptr:ptr@96 "
     "ip6_ptr:ptr@104 nd_net:ptr@112 xdp_state:bpf_xdp_entity[3]@120 adj_list:adjacent_devices@168 "
     "rtnl_link_ops:ptr@200"},
    {"in_device", 8, "ifa_list:ptr@0"},
    {"in_ifaddr", 16, "ifa_next:ptr@0 ifa_local:int@8 ifa_prefixlen:char@12"},
    {"inet6_dev", 24, "addr_list:list_head@8"},
    {"inet6_ifaddr", 40, "addr:char[16]@0 prefix_len:int@16 if_list:list_head@24"},
    // BPF
    {"user_struct", 8, "uid:int@0"},
    {"bpf_ksym", 24, "lnode:list_head@0 prog:char@16"},
    {"bpf_prog", 48,
     "type:int@0 expected_attach_type:int@4 len:int@8 bpf_func:ptr@16 aux:ptr@24 "
     "insnsi:long@32"},
    {"bpf_prog_aux", 80,
     "used_map_cnt:int@0 id:int@4 prog:ptr@8 user:ptr@16 used_maps:ptr@24 "
     "name:char[16]@32 ksym:bpf_ksym@48"},
    {"bpf_map", 48,
     "map_type:int@0 key_size:int@4 value_size:int@8 max_entries:int@12 "
     "map_flags:int@16 id:int@20 frozen:char@24 name:char[16]@32"},
    {"bpf_link", 24, "id:int@0 type:int@4 ops:ptr@8 prog:ptr@16"},
    {"bpf_xdp_link", 32, "link:bpf_link@0 dev:ptr@24"},
    // sockets
    {"possible_net_t", 8, "net:ptr@0"},
    {"sock_common", 112,
     "skc_daddr:int@0 skc_rcv_saddr:int@4 skc_dport:short@8 skc_num:short@10 skc_family:short@12 "
     "skc_state:char@14 skc_net:possible_net_t@16 skc_v6_daddr:char[16]@24 "
     "skc_v6_rcv_saddr:char[16]@40 skc_nulls_node:hlist_node@56"},
    {"sock", 160,
     "__sk_common:sock_common@0 sk_type:short@112 sk_protocol:short@114 sk_uid:int@116 "
     "sk_socket:ptr@120"},
    {"socket", 32, "sk:ptr@24"},
    {"socket_alloc", 80, "socket:socket@0 vfs_inode:inode@32"},
    {"unix_address", 128, "len:int@4 name:char[112]@8"},
    {"unix_sock", 192, "sk:sock@0 addr:ptr@160 peer:ptr@168"},
    {"inet_hashinfo", 32, "ehash:ptr@0 ehash_mask:int@8 lhash2_mask:int@12 lhash2:ptr@16"},
    {"inet_listen_hashbucket", 16, "nulls_head:ptr@8"},
    {"udp_table", 16, "hash:ptr@0 mask:int@8"},
    {"udp_hslot", 16, "head:ptr@0"},
    {"raw_hashinfo", 40, "ht:ptr[4]@8"},
    // log
    {"prb_data_blk_lpos", 16, "begin:long@0 next:long@8"},
    {"prb_desc", 24, "state_var:atomic_long_t@0 text_blk_lpos:prb_data_blk_lpos@8"},
    {"prb_data_ring", 16, "size_bits:int@0 data:ptr@8"},
    {"prb_desc_ring", 40,
     "count_bits:int@0 descs:ptr@8 infos:ptr@16 head_id:atomic_long_t@24 tail_id:atomic_long_t@32"},
    {"printk_ringbuffer", 56, "desc_ring:prb_desc_ring@0 text_data_ring:prb_data_ring@40"},
    {"printk_info", 24,
     "seq:long@0 ts_nsec:long@8 text_len:short@16 facility:char@18 level:char@19"},
};

// What changed: include/linux/module.h in 6.4, fs/mount.h in 6.8, include/linux/mm_types.h in 6.1.
constexpr Struct kOldStructs[] = {
    {"module_layout", 16, "base:ptr@0 size:int@8"},
    {"module", 256,
     "state:int@0 list:list_head@8 name:char[56]@24 taints:long@80 source_list:list_head@88 "
     "refcnt:atomic_t@104 core_layout:module_layout@112 init_layout:module_layout@128"},
    {"mount", 128,
     "mnt_parent:ptr@0 mnt_mountpoint:ptr@8 mnt:vfsmount@16 mnt_devname:ptr@40 mnt_id:int@48 "
     "mnt_list:list_head@56"},
    {"mnt_namespace", 48, "ns:ns_common@0 list:list_head@16"},
    {"mm_struct", 64, "mmap:ptr@0 start_brk:long@16 brk:long@24 start_stack:long@32"},
    {"vm_area_struct", 72,
     "vm_start:long@0 vm_end:long@8 vm_flags:long@16 vm_file:ptr@24 vm_pgoff:long@32 vm_ops:ptr@40 "
     "vm_private_data:ptr@48 vm_next:ptr@56"},
};
constexpr Struct kRecentStructs[] = {
    {"module_memory", 16, "base:ptr@0 size:int@8"},
    {"module", 256,
     "state:int@0 list:list_head@8 name:char[56]@24 taints:long@80 source_list:list_head@88 "
     "refcnt:atomic_t@104 mem:module_memory[7]@112"},
    {"mount", 128,
     "mnt_parent:ptr@0 mnt_mountpoint:ptr@8 mnt:vfsmount@16 mnt_devname:ptr@40 mnt_id:int@48 "
     "mnt_node:rb_node@56"},
    {"mnt_namespace", 48, "ns:ns_common@0 mounts:rb_root@16"},
    {"mm_struct", 64, "mm_mt:maple_tree@0 start_brk:long@16 brk:long@24 start_stack:long@32"},
    {"vm_area_struct", 72,
     "vm_start:long@0 vm_end:long@8 vm_flags:long@16 vm_file:ptr@24 vm_pgoff:long@32 vm_ops:ptr@40 "
     "vm_private_data:ptr@48"},
};

}  // namespace

FakeWorld::FakeWorld(Age age, unsigned levels) : age_(age), guest_({.levels = levels}) {
    define_types();
    const auto system = guest_.add_system();
    daemon_ = system.daemon;
    build_modules();
    build_file_systems();
    build_mounts();
    build_files();
    build_maps();
    build_interfaces();
    build_bpf();
    build_sockets();
    build_log();
    guest_.finish();
}

// Each in a page of its own, so that one that cannot be read takes no other with it.
GuestVirt FakeWorld::place(std::size_t size_bytes) {
    const GuestVirt at = guest_.allocate(size_bytes, kPageSize);
    structures_.emplace_back(at, size_bytes);
    return at;
}

GuestVirt FakeWorld::text(std::string_view words) {
    const GuestVirt at = guest_.allocate(words.size() + 1, 8);
    std::memcpy(guest_.host(at), words.data(), words.size());
    return at;
}

// Words that take another value, and their old one again.
void FakeWorld::add_change(std::string topic,
                           std::vector<std::pair<GuestVirt, std::uint64_t>> words) {
    std::vector<std::pair<GuestVirt, std::uint64_t>> before;
    before.reserve(words.size());
    for (const auto& [where, value] : words) {
        before.emplace_back(where, guest_.read_back<std::uint64_t>(where));
    }
    const auto write = [this](const auto& all) {
        for (const auto& [where, value] : all) guest_.write(where, value);
    };
    changes_.push_back(
        {std::move(topic), [write, words] { write(words); }, [write, before] { write(before); }});
}

// list_del() (include/linux/list.h): the neighbours close up, and the node is poisoned.
void FakeWorld::leave_list(std::string topic, GuestVirt node) {
    const GuestVirt next{guest_.read_back<std::uint64_t>(node)},
        previous{guest_.read_back<std::uint64_t>(node + 8)};
    add_change(std::move(topic), {{previous, next.value},
                                  {next + 8, previous.value},
                                  {node, kListPoison1},
                                  {node + 8, kListPoison2}});
}

void FakeWorld::define_types() {
    for (const Struct& one : kStructs) guest_.define(one.name, one.size_bytes, one.members);
    const std::span<const Struct> of_its_age = age_ == Age::old
                                                   ? std::span<const Struct>(kOldStructs)
                                                   : std::span<const Struct>(kRecentStructs);
    for (const Struct& one : of_its_age) guest_.define(one.name, one.size_bytes, one.members);
}

// ---- modules ----------------------------------------------------------------------------------

void FakeWorld::build_modules() {
    const GuestVirt head = place(16);
    guest_.list_init(head);
    guest_.add_symbol("modules", 'D', head.value);
    struct Made {
        std::string_view name;
        std::uint32_t state;  // 0 live, 1 coming, 3 unformed (include/linux/module.h)
        std::uint64_t taints;
        std::uint32_t references;
    };
    constexpr std::array<Made, 4> kMade{{{"crc16", 0, 0, 1},
                                         {"ours", 0, 1 << 12 | 1 << 13, 0},
                                         {"unformed", 3, 0, 0},
                                         {"loading", 1, 0, 0}}};
    std::map<std::string_view, GuestVirt> made;
    std::uint64_t code = 0xffffffffc0000000;
    for (const Made& one : kMade) {
        const GuestVirt module = place(256);
        made[one.name] = module;
        set(module, "module", "state", one.state);
        std::memcpy(guest_.host(at(module, "module", "name")), one.name.data(), one.name.size());
        set(module, "module", "taints", one.taints);
        set(module, "module", "refcnt", one.references + 1);  // the load's own
        guest_.list_init(at(module, "module", "source_list"));
        guest_.list_add_tail(at(module, "module", "list"), head);
        event::Module expected{.name = std::string(one.name),
                               .address = module.value,
                               .text_begin = code,
                               .size_bytes = 0,
                               .reference_count = one.references,
                               .used_by = {},
                               .state = one.state == 1 ? "Loading" : "Live",
                               .taints = one.taints != 0 ? "OE" : ""};
        if (age_ == Age::recent) {
            for (std::uint32_t i = 0; i < 7; ++i) {
                const GuestVirt memory = at(module, "module", "mem") + 16ull * i;
                set(memory, "module_memory", "base", code + 0x10000ull * i);
                set(memory, "module_memory", "size", 0x1000 * (i + 1));
                expected.size_bytes += 0x1000 * (i + 1);
            }
        } else {
            set(at(module, "module", "core_layout"), "module_layout", "base", code);
            set(at(module, "module", "core_layout"), "module_layout", "size", 0x5000u);
            set(at(module, "module", "init_layout"), "module_layout", "size", 0x2000u);
            expected.size_bytes = 0x7000;
        }
        code += 0x100000;
        if (one.state != 3) modules.push_back(std::move(expected));
    }
    const GuestVirt use = place(48);  // "ours" uses crc16
    set(use, "module_use", "source", made["ours"].value);
    guest_.list_add_tail(use, at(made["crc16"], "module", "source_list"));
    modules[0].used_by = {"ours"};
    leave_list("modules", at(made["ours"], "module", "list"));
}

// ---- file systems -----------------------------------------------------------------------------

GuestVirt FakeWorld::super_block(std::string_view type, std::uint32_t dev) {
    const GuestVirt sb = place(48), kind = place(16);
    set(kind, "file_system_type", "name", text(type).value);
    set(sb, "super_block", "s_type", kind.value);
    set(sb, "super_block", "s_dev", dev);
    return sb;
}

GuestVirt FakeWorld::inode(GuestVirt sb, std::uint64_t number, std::uint32_t mode) {
    const GuestVirt made = place(48);
    set(made, "inode", "i_sb", sb.value);
    set(made, "inode", "i_ino", number);
    set(made, "inode", "i_mode", static_cast<std::uint16_t>(mode));
    return made;
}

GuestVirt FakeWorld::dentry(std::string_view name, GuestVirt parent, GuestVirt inode) {
    const GuestVirt made = place(64);
    set(made, "dentry", "d_parent", parent ? parent.value : made.value);
    set(made, "dentry", "d_inode", inode.value);
    set(at(made, "dentry", "d_name"), "qstr", "name", text(name).value);
    set(at(made, "dentry", "d_name"), "qstr", "len", static_cast<std::uint32_t>(name.size()));
    set(made, "dentry", "d_hash", std::uint64_t{0});
    // Hashed: pprev leads back. Roots are not.
    if (parent) guest_.write(at(made, "dentry", "d_hash") + 8, made.value);
    return made;
}

void FakeWorld::build_file_systems() {
    root_sb_ = super_block("ext4", 254u << 20 | 1);
    tmp_sb_ = super_block("tmpfs", 25);
    socket_sb_ = super_block("sockfs", 8);
    root_ = dentry("/", {}, inode(root_sb_, 2, kDirectory));
    tmp_ = dentry("/", {}, inode(tmp_sb_, 1, kDirectory));
    const GuestVirt etc = dentry("etc", root_, inode(root_sb_, 11, kDirectory));
    passwd_inode_ = inode(root_sb_, 131, kRegular);
    passwd_ = dentry("passwd", etc, passwd_inode_);
    conf_ = dentry("conf.d", etc, inode(root_sb_, 140, kDirectory));
}

void FakeWorld::build_mounts() {
    const GuestVirt ns = place(48), proxy = place(16);
    set(at(ns, "mnt_namespace", "ns"), "ns_common", "inum", kMountNamespace);
    set(proxy, "nsproxy", "mnt_ns", ns.value);
    set(daemon_, "task_struct", "nsproxy", proxy.value);
    if (age_ == Age::old) guest_.list_init(at(ns, "mnt_namespace", "list"));
    std::vector<GuestVirt> made;
    const auto mount = [&](std::uint32_t id, GuestVirt parent, GuestVirt mountpoint, GuestVirt root,
                           GuestVirt sb, std::string_view device, std::uint32_t flags) {
        const GuestVirt one = place(128);
        set(one, "mount", "mnt_parent", parent ? parent.value : one.value);
        set(one, "mount", "mnt_mountpoint", mountpoint ? mountpoint.value : root.value);
        set(at(one, "mount", "mnt"), "vfsmount", "mnt_root", root.value);
        set(at(one, "mount", "mnt"), "vfsmount", "mnt_sb", sb.value);
        set(at(one, "mount", "mnt"), "vfsmount", "mnt_flags", flags);
        set(one, "mount", "mnt_devname", device.empty() ? 0 : text(device).value);
        set(one, "mount", "mnt_id", id);
        if (id != 0) made.push_back(one);
        return one;
    };
    const GuestVirt tmp_point = dentry("tmp", root_, inode(root_sb_, 12, kDirectory));
    const GuestVirt bound = dentry("bound", tmp_, inode(tmp_sb_, 5, kDirectory));
    root_mount_ = mount(21, {}, {}, root_, root_sb_, "/dev/vda1", 0x20);
    tmp_mount_ = mount(22, root_mount_, tmp_point, tmp_, tmp_sb_, "", 0x1 | 0x2);
    mount(23, tmp_mount_, bound, conf_, root_sb_, "/dev/vda1", 0x40 | 0x4);
    // The kernel's own, in no namespace.
    socket_mount_ = mount(0, {}, {}, dentry("socket:", {}, inode(socket_sb_, 1, kDirectory)),
                          socket_sb_, "sockfs", 0);
    const auto expect = [&](std::uint32_t id, std::uint32_t parent, std::string source,
                            std::string root, std::string target, std::string type,
                            std::string options, std::uint32_t major, std::uint32_t minor) {
        mounts.push_back({kMountNamespace, id, parent, std::move(source), std::move(root),
                          std::move(target), std::move(type), std::move(options), major, minor});
    };
    expect(21, 21, "/dev/vda1", "/", "/", "ext4", "rw,relatime", 254, 1);
    expect(22, 21, "none", "/", "/tmp", "tmpfs", "rw,nosuid,nodev", 0, 25);
    expect(23, 22, "/dev/vda1", "/etc/conf.d", "/tmp/bound", "ext4", "ro,noexec", 254, 1);
    if (age_ == Age::old) {
        for (const GuestVirt one : made) {
            guest_.list_add_tail(at(one, "mount", "mnt_list"), at(ns, "mnt_namespace", "list"));
        }
        leave_list("mounts", at(made[2], "mount", "mnt_list"));
        return;
    }
    // The second is the root of the tree, as a red-black one of three is.
    const auto node = [&](std::size_t i) { return at(made[i], "mount", "mnt_node"); };
    set(at(ns, "mnt_namespace", "mounts"), "rb_root", "rb_node", node(1).value);
    set(node(1), "rb_node", "rb_left", node(0).value);
    set(node(1), "rb_node", "rb_right", node(2).value);
    add_change("mounts", {{at(node(1), "rb_node", "rb_right"), 0}});
}

GuestVirt FakeWorld::file(GuestVirt mount, GuestVirt dentry, GuestVirt inode) {
    const GuestVirt made = place(56);
    set(made, "file", "f_inode", inode.value);
    const GuestVirt path = at(made, "file", "f_path");
    set(path, "path", "mnt", at(mount, "mount", "mnt").value);
    set(path, "path", "dentry", dentry.value);
    return made;
}

void FakeWorld::build_files() {
    constexpr std::uint32_t kEntries = 8;
    const GuestVirt table = place(16), holder = place(8);
    fd_array_ = place(8 * kEntries);
    set(table, "fdtable", "max_fds", kEntries);
    set(table, "fdtable", "fd", fd_array_.value);
    set(holder, "files_struct", "fdt", table.value);
    set(daemon_, "task_struct", "files", holder.value);
    passwd_file_ = file(root_mount_, passwd_, passwd_inode_);
    set(passwd_file_, "file", "f_flags", 0x8000u);
    set(passwd_file_, "file", "f_pos", std::uint64_t{42});
    guest_.write(fd_array_, passwd_file_.value);
    files.push_back({kDaemon, 0, "/etc/passwd", 0x8000, 42, 131, kRegular});
    const GuestVirt gone_inode = inode(tmp_sb_, 9, kRegular);
    const GuestVirt gone = dentry("gone", tmp_, gone_inode);
    guest_.write(at(gone, "dentry", "d_hash") + 8, std::uint64_t{0});
    guest_.write(fd_array_ + 8 * 3, file(tmp_mount_, gone, gone_inode).value);
    files.push_back({kDaemon, 3, "/tmp/gone (deleted)", 0, 0, 9, kRegular});
    add_change("files", {{fd_array_ + 8 * 3, 0}});
}

// ---- mappings ---------------------------------------------------------------------------------

void FakeWorld::build_maps() {
    const GuestVirt mm = place(64);
    set(daemon_, "task_struct", "mm", mm.value);
    set(mm, "mm_struct", "start_brk", std::uint64_t{0x600000});
    set(mm, "mm_struct", "brk", std::uint64_t{0x621000});
    set(mm, "mm_struct", "start_stack", std::uint64_t{0x7ffd00001000});
    const GuestVirt special = place(8);
    guest_.add_symbol("special_mapping_vmops", 'D', guest_.allocate(64).value);
    set(special, "vm_special_mapping", "name", text("[vdso]").value);
    std::vector<GuestVirt> areas;
    const auto add = [&](std::uint64_t begin, std::uint64_t end, std::uint64_t flags,
                         std::string permissions, std::string path) {
        const GuestVirt area = place(72);
        set(area, "vm_area_struct", "vm_start", begin);
        set(area, "vm_area_struct", "vm_end", end);
        set(area, "vm_area_struct", "vm_flags", flags);
        areas.push_back(area);
        maps.push_back({.pid = kDaemon,
                        .begin = begin,
                        .end = end,
                        .permissions = std::move(permissions),
                        .path = std::move(path)});
        return area;
    };
    const GuestVirt code = add(0x400000, 0x402000, 0x85, "r-xs", "/etc/passwd");
    set(code, "vm_area_struct", "vm_file", passwd_file_.value);
    set(code, "vm_area_struct", "vm_pgoff", std::uint64_t{3});
    maps.back().offset_bytes = 3 * kPageSize;
    maps.back().device_major = 254;
    maps.back().device_minor = 1;
    maps.back().inode = 131;
    add(0x600000, 0x621000, 0x3, "rw-p", "[heap]");
    add(0x700000, 0x701000, 0, "---p", "");
    add(0x7ffd00000000, 0x7ffd00002000, 0x3, "rw-p", "[stack]");
    if (age_ == Age::old) {
        set(mm, "mm_struct", "mmap", areas.front().value);
        for (std::size_t i = 0; i + 1 < areas.size(); ++i) {
            set(areas[i], "vm_area_struct", "vm_next", areas[i + 1].value);
        }
        const GuestVirt after = at(areas[1], "vm_area_struct", "vm_next");
        add_change("maps", {{after, areas[3].value}});
        return;
    }
    // Two leaves below one node; what is mapped nowhere is a slot of 0, and the last pivot in use
    // is the node's own maximum (include/linux/maple_tree.h).
    constexpr std::uint64_t kLeaf = 1 << 3 | 2, kArange = 3 << 3 | 2;
    const GuestVirt top = place(256), low = place(256), high = place(256);
    const auto slot = [&](GuestVirt node, bool leaf, unsigned i, std::uint64_t last,
                          std::uint64_t value) {
        const std::string_view type = leaf ? "maple_range_64" : "maple_arange_64";
        guest_.write(at(node, type, "pivot") + 8ull * i, last);
        guest_.write(at(node, type, "slot") + 8ull * i, value);
    };
    slot(top, false, 0, 0x6fffff, low.value | kLeaf);
    slot(top, false, 1, ~0ull, high.value | kLeaf);
    slot(low, true, 0, 0x3fffff, 0);
    slot(low, true, 1, 0x401fff, areas[0].value);
    slot(low, true, 2, 0x5fffff, 0);
    slot(low, true, 3, 0x620fff, areas[1].value);
    slot(low, true, 4, 0x6fffff, 0);
    slot(high, true, 0, 0x700fff, areas[2].value);
    slot(high, true, 1, 0x7ffcffffffff, 0);
    slot(high, true, 2, 0x7ffd00001fff, areas[3].value);
    slot(high, true, 3, ~0ull, 0);
    set(at(mm, "mm_struct", "mm_mt"), "maple_tree", "ma_root", top.value | kArange);
    add_change("maps", {{at(high, "maple_range_64", "slot"), 0}});
}

// ---- interfaces -------------------------------------------------------------------------------

GuestVirt FakeWorld::add_device(GuestVirt net, std::uint32_t index, std::string_view name) {
    const GuestVirt device = place(224);
    std::memcpy(guest_.host(at(device, "net_device", "name")), name.data(), name.size());
    set(device, "net_device", "nd_net", net.value);
    set(device, "net_device", "ifindex", index);
    set(device, "net_device", "mtu", 1500u);
    set(device, "net_device", "addr_len", std::uint8_t{6});
    guest_.list_init(at(device, "net_device", "adj_list"));
    guest_.list_add_tail(at(device, "net_device", "dev_list"), at(net, "net", "dev_base_head"));
    return device;
}

void FakeWorld::build_interfaces() {
    const GuestVirt head = place(16);
    guest_.list_init(head);
    guest_.add_symbol("net_namespace_list", 'D', head.value);
    net_ = place(64);
    set(at(net_, "net", "ns"), "ns_common", "inum", kNetNamespace);
    guest_.list_init(at(net_, "net", "dev_base_head"));
    guest_.list_add_tail(at(net_, "net", "list"), head);

    const GuestVirt lo = add_device(net_, 1, "lo"), eth0 = add_device(net_, 2, "eth0"),
                    tap = add_device(net_, 3, "tap0"), bridge = add_device(net_, 4, "br0");
    eth0_ = eth0;
    const auto mac = [&](GuestVirt device, std::string_view now, std::string_view permanent) {
        set(device, "net_device", "dev_addr", text(now).value);
        std::memcpy(guest_.host(at(device, "net_device", "perm_addr")), permanent.data(), 6);
    };
    mac(lo, std::string_view("\0\0\0\0\0\0", 6), std::string_view("\0\0\0\0\0\0", 6));
    mac(eth0, "\x52\x54\x66\x01\x02\x03", "\x52\x54\x66\x0a\x0b\x0c");
    mac(tap, "\x52\x54\x66\x01\x02\x04", "\x52\x54\x66\x01\x02\x04");
    set(eth0, "net_device", "flags", 0x1003u);
    set(eth0, "net_device", "promiscuity", 1u);
    mac(bridge, "\x52\x54\x66\x01\x02\x04", "\x52\x54\x66\x01\x02\x04");
    const GuestVirt kind = place(8), above = place(32);
    set(kind, "rtnl_link_ops", "kind", text("bridge").value);
    set(bridge, "net_device", "rtnl_link_ops", kind.value);
    set(above, "netdev_adjacent", "dev", bridge.value);
    set(above, "netdev_adjacent", "master", std::uint8_t{1});
    guest_.list_add_tail(at(above, "netdev_adjacent", "list"), at(tap, "net_device", "adj_list"));
    const GuestVirt v4 = place(8), first = place(16), second = place(16);
    set(eth0, "net_device", "ip_ptr", v4.value);
    set(v4, "in_device", "ifa_list", first.value);
    set(first, "in_ifaddr", "ifa_next", second.value);
    set(first, "in_ifaddr", "ifa_local", 0x0200000au);  // in network order
    set(first, "in_ifaddr", "ifa_prefixlen", std::uint8_t{24});
    set(second, "in_ifaddr", "ifa_local", 0x010200c0u);
    set(second, "in_ifaddr", "ifa_prefixlen", std::uint8_t{32});
    const GuestVirt v6 = place(24), local = place(40);
    set(eth0, "net_device", "ip6_ptr", v6.value);
    guest_.list_init(at(v6, "inet6_dev", "addr_list"));
    const char link_local[] = "\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\x01";
    std::memcpy(guest_.host(at(local, "inet6_ifaddr", "addr")), link_local, 16);
    set(local, "inet6_ifaddr", "prefix_len", 64u);
    guest_.list_add_tail(at(local, "inet6_ifaddr", "if_list"), at(v6, "inet6_dev", "addr_list"));

    const auto expect = [&](std::uint32_t index, std::string name, std::uint32_t flags,
                            std::string now, std::string permanent,
                            std::vector<std::string> addresses, std::uint32_t promiscuity,
                            std::string bridge_name) {
        interfaces.push_back({kNetNamespace, index, std::move(name), flags, 1500, std::move(now),
                              std::move(permanent), std::move(addresses), promiscuity,
                              std::move(bridge_name)});
    };
    expect(1, "lo", 0, "00:00:00:00:00:00", "00:00:00:00:00:00", {}, 0, "");
    expect(2, "eth0", 0x1003, "52:54:66:01:02:03", "52:54:66:0a:0b:0c",
           {"10.0.0.2/24", "192.0.2.1/32", "fe80::1/64"}, 1, "");
    expect(3, "tap0", 0, "52:54:66:01:02:04", "52:54:66:01:02:04", {}, 0, "br0");
    expect(4, "br0", 0, "52:54:66:01:02:04", "52:54:66:01:02:04", {}, 0, "");
    leave_list("interfaces", at(tap, "net_device", "dev_list"));
}

// ---- BPF --------------------------------------------------------------------------------------

void FakeWorld::build_idr(std::string_view symbol, GuestVirt first, GuestVirt second,
                          std::string_view topic) {
    constexpr std::uint64_t kNodeTag = 2;
    const GuestVirt table = place(24), node = place(40 + 512);
    guest_.add_symbol(std::string(symbol), 'D', table.value);
    set(at(table, "idr", "idr_rt"), "xarray", "xa_head", node.value + kNodeTag);
    const GuestVirt slots = at(node, "xa_node", "slots");
    guest_.write(slots + 8, first.value);
    guest_.write(slots + 16, second.value);
    add_change(std::string(topic), {{slots + 16, 0}});
}

// The first of each is in use: a program that a link has attached to eth0, and its map. There are
// no enumerations here, so that types have no names.
void FakeWorld::build_bpf() {
    constexpr std::uint64_t kReturn = 0x95;  // BPF_JMP | BPF_EXIT
    const GuestVirt symbols = place(16), user = place(8);
    guest_.list_init(symbols);
    guest_.add_symbol("bpf_kallsyms", 'D', symbols.value);
    guest_.add_function("__bpf_call_base", "\xc3");
    set(user, "user_struct", "uid", 1000u);
    const auto name = [&](GuestVirt where, std::string_view words) {
        std::memcpy(guest_.host(where), words.data(), words.size());
    };
    const auto map = [&](std::uint32_t id, std::string_view called) {
        const GuestVirt made = place(48);
        set(made, "bpf_map", "map_type", 1u);
        set(made, "bpf_map", "key_size", 4u);
        set(made, "bpf_map", "value_size", 8u);
        set(made, "bpf_map", "max_entries", 64 * id);
        set(made, "bpf_map", "map_flags", id);
        set(made, "bpf_map", "id", id);
        set(made, "bpf_map", "frozen", static_cast<std::uint8_t>(id - 1));
        name(at(made, "bpf_map", "name"), called);
        bpf_maps.push_back({.id = id,
                            .type = "type 1",
                            .name = std::string(called),
                            .key_bytes = 4,
                            .value_bytes = 8,
                            .max_entries = 64 * id,
                            .flags = id,
                            .frozen = id == 2,
                            .program_ids = std::vector<std::uint32_t>{},
                            .listed = true,
                            .address = made.value});
        return made;
    };
    const auto program = [&](std::uint32_t id, std::string_view called) {
        const GuestVirt made = place(48), aux = place(80);
        set(made, "bpf_prog", "type", 6u);
        set(made, "bpf_prog", "len", 1u);
        set(made, "bpf_prog", "aux", aux.value);
        set(made, "bpf_prog", "insnsi", kReturn);
        set(aux, "bpf_prog_aux", "id", id);
        set(aux, "bpf_prog_aux", "prog", made.value);
        set(aux, "bpf_prog_aux", "user", user.value);
        name(at(aux, "bpf_prog_aux", "name"), called);
        bpf_programs.push_back({.id = id,
                                .type = "type 6",
                                .name = std::string(called),
                                .uid = 1000,
                                .attachments = std::vector<event::BpfAttachment>{},
                                .map_ids = std::vector<std::uint32_t>{},
                                .listed = true,
                                .has_symbol = false,
                                .address = made.value});
        return std::pair(made, aux);
    };
    const auto link = [&](std::uint32_t id, std::uint32_t type, GuestVirt of) {
        const GuestVirt made = place(32);
        set(made, "bpf_link", "id", id);
        set(made, "bpf_link", "type", type);
        set(made, "bpf_link", "prog", of.value);
        bpf_links.push_back({.id = id,
                             .type = fmt::format("type {}", type),
                             .program_id = 1u,
                             .kind = fmt::format("type {}", type),
                             .target = std::string(),
                             .listed = true,
                             .address = made.value});
        return made;
    };
    const GuestVirt counts = map(1, "counts");
    build_idr("map_idr", counts, map(2, "unused"), "BPF maps");
    const auto [filter, aux] = program(1, "filter");
    build_idr("prog_idr", filter, program(2, "unattached").first, "BPF programs");
    const GuestVirt attached = link(1, 6, filter);
    build_idr("link_idr", attached, link(2, 4, filter), "BPF links");

    const GuestVirt used = place(8);
    guest_.write(used, counts.value);
    set(aux, "bpf_prog_aux", "used_map_cnt", 1u);
    set(aux, "bpf_prog_aux", "used_maps", used.value);
    const GuestVirt symbol = at(aux, "bpf_prog_aux", "ksym");
    set(symbol, "bpf_ksym", "prog", std::uint8_t{1});
    guest_.list_add_tail(at(symbol, "bpf_ksym", "lnode"), symbols);
    set(at(eth0_, "net_device", "xdp_state"), "bpf_xdp_entity", "link", attached.value);
    bpf_programs[0].map_ids = std::vector{1u};
    bpf_programs[0].has_symbol = true;
    bpf_maps[0].program_ids = std::vector{1u};
    bpf_links[0].target = fmt::format("eth0 of net:[{}] (generic)", kNetNamespace);
}

// ---- sockets ----------------------------------------------------------------------------------

void FakeWorld::build_sockets() {
    const auto common = [&](GuestVirt sk, std::uint16_t family, std::uint8_t state) {
        set(sk, "sock_common", "skc_family", family);
        set(sk, "sock_common", "skc_state", state);
        set(at(sk, "sock_common", "skc_net"), "possible_net_t", "net", net_.value);
    };
    // A socket, its inode and the file that a process holds.
    const auto open = [&](unsigned fd, std::size_t bytes, std::uint16_t type,
                          std::uint16_t protocol) {
        const GuestVirt both = place(80), sk = place(bytes);
        const GuestVirt its_inode = at(both, "socket_alloc", "vfs_inode");
        const std::uint64_t number = 770 + fd;
        set(its_inode, "inode", "i_sb", socket_sb_.value);
        set(its_inode, "inode", "i_ino", number);
        set(its_inode, "inode", "i_mode", static_cast<std::uint16_t>(kSocketMode));
        set(at(both, "socket_alloc", "socket"), "socket", "sk", sk.value);
        set(sk, "sock", "sk_socket", both.value);
        set(sk, "sock", "sk_type", type);
        set(sk, "sock", "sk_protocol", protocol);
        set(sk, "sock", "sk_uid", 33u);
        const GuestVirt name = dentry("", {}, its_inode);
        guest_.write(fd_array_ + 8ull * fd, file(socket_mount_, name, its_inode).value);
        files.push_back(
            {kDaemon, fd, fmt::format("socket:[{}]", number), 0, 0, number, kSocketMode});
        return sk;
    };
    const GuestVirt listening = open(5, 160, 1, 6), local = open(6, 192, 1, 0),
                    waiting = place(160);
    common(listening, 2, 10);
    set(listening, "sock_common", "skc_num", std::uint16_t{22});
    sockets.push_back({"inet",
                       "tcp",
                       "LISTEN",
                       "0.0.0.0",
                       22,
                       "0.0.0.0",
                       0,
                       775,
                       kNetNamespace,
                       33,
                       {kDaemon},
                       listening.value});
    common(local, 1, 10);
    const GuestVirt address = place(128);
    const std::string_view path = "/run/daemon.sock";
    set(address, "unix_address", "len", static_cast<std::uint32_t>(2 + path.size() + 1));
    std::memcpy(guest_.host(at(address, "unix_address", "name") + 2), path.data(), path.size());
    set(local, "unix_sock", "addr", address.value);
    sockets.push_back({"unix",
                       "stream",
                       "LISTEN",
                       std::string(path),
                       0,
                       "",
                       0,
                       776,
                       kNetNamespace,
                       33,
                       {kDaemon},
                       local.value});
    add_change("sockets", {{fd_array_ + 8 * 6, 0}});
    add_change("files", {{fd_array_ + 8 * 6, 0}});

    // One that nobody holds: in TIME_WAIT, in the hash table only.
    common(waiting, 10, 6);
    set(waiting, "sock_common", "skc_num", std::uint16_t{443});
    set(waiting, "sock_common", "skc_dport", std::uint16_t{0x3930});
    guest_.write(at(waiting, "sock_common", "skc_v6_daddr") + 15, std::uint8_t{2});
    guest_.write(at(waiting, "sock_common", "skc_v6_rcv_saddr") + 15, std::uint8_t{1});
    const GuestVirt node = at(waiting, "sock_common", "skc_nulls_node");
    guest_.write(node, std::uint64_t{1});
    constexpr std::uint32_t kBuckets = 4;
    const GuestVirt info = place(32), buckets = place(8 * kBuckets);
    guest_.add_symbol("tcp_hashinfo", 'D', info.value);
    set(info, "inet_hashinfo", "ehash", buckets.value);
    set(info, "inet_hashinfo", "ehash_mask", kBuckets - 1);
    for (std::uint64_t i = 0; i < kBuckets; ++i) guest_.write(buckets + 8 * i, 2 * i + 1);
    guest_.write(buckets + 8 * 2, node.value);
    sockets.push_back({"inet6",
                       "tcp",
                       "TIME_WAIT",
                       "::1",
                       443,
                       "::2",
                       12345,
                       0,
                       kNetNamespace,
                       0,
                       {},
                       waiting.value});
    add_change("sockets", {{buckets + 8 * 2, 5}});

    // In the other tables: the listener that a process has, and two that none has.
    const auto node_of = [&](GuestVirt sk, std::uint64_t end) {
        guest_.write(at(sk, "sock_common", "skc_nulls_node"), end);
        return at(sk, "sock_common", "skc_nulls_node").value;
    };
    const GuestVirt listeners = place(16 * 2), datagrams = place(160), raw = place(160),
                    udp = place(16), slots = place(16 * 2), raw_info = place(40);
    set(info, "inet_hashinfo", "lhash2", listeners.value);
    set(info, "inet_hashinfo", "lhash2_mask", 1u);
    guest_.write(listeners + 8, std::uint64_t{1});
    guest_.write(listeners + 16 + 8, node_of(listening, 3));
    const auto unheld = [&](GuestVirt sk, const char* type, std::uint16_t number,
                            std::uint16_t protocol, std::uint32_t port) {
        common(sk, 2, 7);
        set(sk, "sock", "sk_type", number);
        set(sk, "sock", "sk_protocol", protocol);
        set(sk, "sock", "sk_uid", 0u);
        set(sk, "sock_common", "skc_num", static_cast<std::uint16_t>(port));
        sockets.push_back({"inet",
                           type,
                           "CLOSE",
                           "0.0.0.0",
                           port,
                           "0.0.0.0",
                           0,
                           0,
                           kNetNamespace,
                           0,
                           {},
                           sk.value});
    };
    unheld(datagrams, "udp", 2, 17, 53);
    unheld(raw, "raw", 3, 1, 1);
    guest_.add_symbol("udp_table", 'D', udp.value);
    set(udp, "udp_table", "hash", slots.value);
    set(udp, "udp_table", "mask", 1u);
    guest_.write(slots + 16, node_of(datagrams, 0));
    guest_.add_symbol("raw_v4_hashinfo", 'D', raw_info.value);
    guest_.write(raw_info + 8 + 8, node_of(raw, 0));
    add_change("sockets", {{slots + 16, 0}});
    add_change("sockets", {{raw_info + 8 + 8, 0}});
}

// ---- log --------------------------------------------------------------------------------------

void FakeWorld::build_log() {
    constexpr std::uint64_t kCountBits = 2, kSizeBits = 7,
                            kFirst = 6;  // ids 6, 7, 8: it has wrapped
    const GuestVirt pointer = place(8), ring = place(56), descriptors = place(24 << kCountBits),
                    infos = place(24 << kCountBits), words = place(1 << kSizeBits);
    guest_.add_symbol("prb", 'D', pointer.value);
    guest_.write(pointer, ring.value);
    const GuestVirt desc_ring = at(ring, "printk_ringbuffer", "desc_ring");
    set(desc_ring, "prb_desc_ring", "count_bits", static_cast<std::uint32_t>(kCountBits));
    set(desc_ring, "prb_desc_ring", "descs", descriptors.value);
    set(desc_ring, "prb_desc_ring", "infos", infos.value);
    set(desc_ring, "prb_desc_ring", "tail_id", kFirst);
    set(desc_ring, "prb_desc_ring", "head_id", kFirst + 3);
    const GuestVirt text_ring = at(ring, "printk_ringbuffer", "text_data_ring");
    set(text_ring, "prb_data_ring", "size_bits", static_cast<std::uint32_t>(kSizeBits));
    set(text_ring, "prb_data_ring", "data", words.value);
    const auto add = [&](std::uint64_t id, std::uint64_t state, std::uint64_t begin,
                         std::uint64_t next, std::string_view line) {
        const std::uint64_t index = id & ((1 << kCountBits) - 1);
        const GuestVirt descriptor = descriptors + 24 * index, info = infos + 24 * index;
        set(descriptor, "prb_desc", "state_var", state << 62 | id);
        const GuestVirt place_of_text = at(descriptor, "prb_desc", "text_blk_lpos");
        set(place_of_text, "prb_data_blk_lpos", "begin", begin);
        set(place_of_text, "prb_data_blk_lpos", "next", next);
        set(info, "printk_info", "seq", 100 + id);
        set(info, "printk_info", "ts_nsec", 1'000'000 * id);
        set(info, "printk_info", "text_len", static_cast<std::uint16_t>(line.size()));
        set(info, "printk_info", "facility", std::uint8_t{1});
        set(info, "printk_info", "level", std::uint8_t{4});
        if ((begin & 1) == 0) {
            const bool wrapped = begin >> kSizeBits != next >> kSizeBits;
            const std::uint64_t where = wrapped ? 0 : begin & ((1 << kSizeBits) - 1);
            std::memcpy(guest_.host(words + where + 8), line.data(), line.size());
        }
        const bool readable = state == 1 || state == 2;
        if (readable) log.push_back({100 + id, 1'000'000 * id, 1, 4, std::string(line)});
    };
    add(6, 2, 0x40, 0x60, "the first that is left");
    add(7, 2, 0x68, 0x98, "begins anew at the ring's start");  // 0x68 is too near to its end
    add(8, 1, 1, 1, "");                                       // no text at all
    add(9, 0, 1, 1, "");                                       // reserved, and not written yet
    add_change("log", {{descriptors + 24 * (7 & 3), 3ull << 62 | 7}});  // reusable
}

}  // namespace underseer::guest_linux
