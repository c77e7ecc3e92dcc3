#include "guest_linux/memory_maps.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <unordered_set>

namespace underseer::guest_linux {

namespace {

// include/linux/mm.h
constexpr std::uint64_t kVmRead = 1, kVmWrite = 2, kVmExec = 4, kVmMayShare = 0x80;

// include/linux/maple_tree.h: an encoded node is its address with the type in bits 3..6.
constexpr std::uint64_t kMapleNodeMask = ~0xffull;
constexpr unsigned kMapleLeaf64 = 1, kMapleRange64 = 2, kMapleArange64 = 3;
constexpr std::uint64_t kXaLastNonNode = 4096;
constexpr std::size_t kMapleNodeWords = 256 / 8;

}  // namespace

MemoryMaps::MemoryMaps(Kernel* kernel, Paths* paths, Tasks* tasks)
    : kernel_(kernel), paths_(paths), tasks_(tasks) {
    const Kernel& k = *kernel;
    f_ = {
        .mm_mt = k.field("mm_struct", "mm_mt"),  // since 6.1
        .mmap = k.field("mm_struct", "mmap"),
        .brk = k.field("mm_struct", "brk"),
        .start_brk = k.field("mm_struct", "start_brk"),
        .start_stack = k.field("mm_struct", "start_stack"),
        .start = k.field("vm_area_struct", "vm_start"),
        .end = k.field("vm_area_struct", "vm_end"),
        .flags = k.field("vm_area_struct", {"vm_flags", "__vm_flags", "flags"}),
        .file = k.field("vm_area_struct", "vm_file"),
        .page_offset = k.field("vm_area_struct", "vm_pgoff"),
        .ops = k.field("vm_area_struct", "vm_ops"),
        .private_data = k.field("vm_area_struct", "vm_private_data"),
        .next = k.field("vm_area_struct", "vm_next"),
        .anon_name = k.field("vm_area_struct", "anon_name"),
        .root = k.field("maple_tree", "ma_root"),
        .range_pivot = k.field("maple_range_64", "pivot"),
        .range_slot = k.field("maple_range_64", "slot"),
        .arange_pivot = k.field("maple_arange_64", "pivot"),
        .arange_slot = k.field("maple_arange_64", "slot"),
        .file_inode = k.field("file", "f_inode"),
        .file_mapping = k.field("file", "f_mapping"),
        .inode_sb = k.field("inode", "i_sb"),
        .sb_dev = k.field("super_block", "s_dev"),
        .special_name = k.field("vm_special_mapping", "name"),
        .anon_name_text = k.field("anon_vma_name", "name"),
    };
}

// All entries of a maple tree in order. Ranges bound what is looked at: slots behind the pivot that
// equals a node's maximum are stale.
Result<std::vector<GuestVirt>> MemoryMaps::maple_entries(GuestVirt tree) {
    struct Pending {
        std::uint64_t node, min, max;
        std::size_t depth;
    };
    std::vector<GuestVirt> entries;
    const std::uint64_t root = TRY(kernel_->read(tree, f_.root));
    const auto is_node = [](std::uint64_t entry) {
        return (entry & 3) == 2 && entry > kXaLastNonNode;
    };
    if (root != 0 && !is_node(root)) entries.push_back(GuestVirt{root});
    std::vector<Pending> stack;
    if (is_node(root)) stack.push_back({root, 0, ~0ull, 0});
    std::unordered_set<std::uint64_t> nodes;
    while (!stack.empty()) {
        const Pending top = stack.back();
        stack.pop_back();
        if (!nodes.insert(top.node).second) {
            return fail(Code::malformed, "the tree of mappings leads into itself");
        }
        if (top.depth > limits::kMaxTreeDepth || nodes.size() > limits::kMaxVmasPerProcess) {
            return fail(Code::limit, "the tree of mappings is deeper or larger than it can be");
        }
        const auto type = static_cast<unsigned>((top.node >> 3) & 0xf);
        if (type != kMapleLeaf64 && type != kMapleRange64 && type != kMapleArange64) {
            return fail(Code::malformed, fmt::format("a maple node of type {}", type));
        }
        const bool arange = type == kMapleArange64;
        const Field& pivot_field = arange ? f_.arange_pivot : f_.range_pivot;
        const Field& slot_field = arange ? f_.arange_slot : f_.range_slot;
        const std::uint64_t pivots_at = pivot_field.offset / 8, slots_at = slot_field.offset / 8;
        const std::uint64_t pivots = pivot_field.size_bytes / 8;
        // These come from the guest too: unknown, or in forged types, they lie outside the node.
        if (pivots_at + pivots > kMapleNodeWords || slots_at + pivots + 1 > kMapleNodeWords) {
            return fail(Code::unavailable, "the maple nodes of this kernel's types have no layout");
        }
        std::array<std::uint64_t, kMapleNodeWords> raw{};
        TRY(kernel_->memory().read(GuestVirt{top.node & kMapleNodeMask},
                                   std::as_writable_bytes(std::span(raw))));
        std::vector<Pending> children;
        std::uint64_t min = top.min;
        for (std::uint64_t i = 0; i <= pivots && min <= top.max; ++i) {
            std::uint64_t pivot = i < pivots ? raw[pivots_at + i] : top.max;
            if (pivot == 0 && i > 0) pivot = top.max;  // an unset pivot: the last slot in use
            const std::uint64_t slot = raw[slots_at + i];
            if (type != kMapleLeaf64) {
                if (slot != 0) children.push_back({slot, min, pivot, top.depth + 1});
            } else if (slot != 0 && (slot & 3) == 0) {
                entries.push_back(GuestVirt{slot});
            }
            if (pivot >= top.max) break;
            min = pivot + 1;
        }
        stack.insert(stack.end(), children.rbegin(), children.rend());
    }
    return entries;
}

Result<std::vector<GuestVirt>> MemoryMaps::areas(GuestVirt mm) {
    if (f_.mm_mt.known()) return maple_entries(mm + f_.mm_mt.offset);
    std::vector<GuestVirt> list;
    GuestVirt area = TRY(kernel_->read_pointer(mm, f_.mmap));
    CircleGuard circle;
    while (area) {
        if (list.size() >= limits::kMaxVmasPerProcess || circle.closes_at(area)) {
            return fail(Code::limit, "too many mappings, or a circle of them");
        }
        list.push_back(area);
        area = TRY(kernel_->read_pointer(area, f_.next));
    }
    return list;
}

// fs/proc/task_mmu.c, show_map_vma() and get_vma_name()
Result<std::string> MemoryMaps::special_name(GuestVirt area, GuestVirt mm, const event::Vma& vma) {
    const GuestVirt ops = TRY(kernel_->read_pointer(area, f_.ops));
    // Nothing else that no file is behind has operations of its own.
    if (ops && ops == TRY(kernel_->symbol("special_mapping_vmops"))) {
        const GuestVirt mapping = TRY(kernel_->read_pointer(area, f_.private_data));
        const GuestVirt name = TRY(kernel_->read_pointer(mapping, f_.special_name));
        return kernel_->memory().read_cstring(name, 64);
    }
    TRY(kernel_->require({f_.brk, f_.start_brk, f_.start_stack}));
    const std::uint64_t brk = TRY(kernel_->read(mm, f_.brk));
    const std::uint64_t start_brk = TRY(kernel_->read(mm, f_.start_brk));
    if (vma.begin < brk && vma.end > start_brk) return std::string("[heap]");
    const std::uint64_t start_stack = TRY(kernel_->read(mm, f_.start_stack));
    if (vma.begin <= start_stack && start_stack <= vma.end) return std::string("[stack]");
    if (f_.anon_name.known()) {
        const GuestVirt name = TRY(kernel_->read_pointer(area, f_.anon_name));
        if (name) {
            return fmt::format("[anon:{}]", TRY(kernel_->memory().read_cstring(
                                                name + f_.anon_name_text.offset, 80)));
        }
    }
    return std::string();
}

Result<event::Vma> MemoryMaps::read(GuestVirt area, GuestVirt mm) {
    event::Vma vma;
    vma.begin = TRY(kernel_->read(area, f_.start));
    vma.end = TRY(kernel_->read(area, f_.end));
    const std::uint64_t flags = TRY(kernel_->read(area, f_.flags));
    vma.permissions = {(flags & kVmRead) != 0 ? 'r' : '-', (flags & kVmWrite) != 0 ? 'w' : '-',
                       (flags & kVmExec) != 0 ? 'x' : '-', (flags & kVmMayShare) != 0 ? 's' : 'p'};
    const GuestVirt file = TRY(kernel_->read_pointer(area, f_.file));
    if (!file) {
        vma.path = TRY(special_name(area, mm, vma));
        return vma;
    }
    vma.offset_bytes = TRY(kernel_->read(area, f_.page_offset)) * kPageSize;
    const GuestVirt inode = TRY(kernel_->read_pointer(file, f_.file_inode));
    vma.inode = TRY(paths_->inode_number(inode));
    const GuestVirt super_block = TRY(kernel_->read_pointer(inode, f_.inode_sb));
    const std::uint64_t device = TRY(kernel_->read(super_block, f_.sb_dev));
    vma.device_major = static_cast<std::uint32_t>(device >> 20);  // MINORBITS, linux/kdev_t.h
    vma.device_minor = static_cast<std::uint32_t>(device & 0xfffff);
    vma.path = TRY(paths_->of_file(file));
    return vma;
}

// The vsyscall page is in no process's tree; /proc shows it to every 64-bit process
// (arch/x86/entry/vsyscall/vsyscall_64.c, vsyscall_mode: EMULATE, XONLY, NONE).
Result<std::optional<event::Vma>> MemoryMaps::vsyscall_page() {
    const auto mode_at = kernel_->symbol("vsyscall_mode");
    if (!mode_at.has_value()) return std::optional<event::Vma>();  // built without
    const auto mode = TRY(kernel_->memory().read<std::uint32_t>(*mode_at));
    if (mode > 1) return std::optional<event::Vma>();
    event::Vma vma;
    vma.begin = 0xffffffffff600000;
    vma.end = vma.begin + kPageSize;
    vma.permissions = mode == 0 ? "r-xp" : "--xp";
    vma.path = "[vsyscall]";
    return std::optional(std::move(vma));
}

Result<Listing<event::Vma>> MemoryMaps::list(GuestVirt task, std::uint32_t pid) {
    Listing<event::Vma> listing;
    const GuestVirt mm = TRY(tasks_->mm(task));
    if (!mm) return listing;
    for (const GuestVirt area : TRY(areas(mm))) {
        auto vma = read(area, mm);
        if (!vma.has_value()) {
            listing.note(vma.error());
            continue;
        }
        vma->pid = pid;
        listing.items.push_back(std::move(*vma));
    }
    auto page = vsyscall_page();
    if (!page.has_value()) {
        listing.note(page.error());
    } else if (*page && !listing.items.empty()) {
        (*page)->pid = pid;
        listing.items.push_back(std::move(**page));
    }
    return listing;
}

Result<Listing<MemoryMaps::WithFile>> MemoryMaps::list_with_files(GuestVirt task,
                                                                  std::uint32_t pid) {
    Listing<WithFile> listing;
    const GuestVirt mm = TRY(tasks_->mm(task));
    if (!mm) return listing;
    const auto read_one = [&](GuestVirt area) -> Result<WithFile> {
        const GuestVirt file = TRY(kernel_->read_pointer(area, f_.file));
        GuestVirt mapping;
        if (file) mapping = TRY(kernel_->read_pointer(file, f_.file_mapping));
        WithFile one{TRY(read(area, mm)), mapping};
        one.first.pid = pid;
        return one;
    };
    for (const GuestVirt area : TRY(areas(mm))) {
        auto one = read_one(area);
        if (!one.has_value()) {
            listing.note(one.error());
        } else {
            listing.items.push_back(std::move(*one));
        }
    }
    return listing;
}

}  // namespace underseer::guest_linux
