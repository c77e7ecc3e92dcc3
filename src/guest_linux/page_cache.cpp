#include "guest_linux/page_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "guest_linux/direct_map.h"

namespace underseer::guest_linux {

namespace {

constexpr std::uint64_t kFolderMode = 0040000, kFileMode = 0100000, kModeMask = 0170000;
constexpr std::uint64_t kLongestName = 255;  // NAME_MAX
// xarray entries (include/linux/xarray.h): a pointer, a value (bit 0), or something internal.
constexpr std::uint64_t kTagMask = 3, kInternal = 2, kLastNonNode = 4096;
constexpr unsigned kChunkBits = 6;  // XA_CHUNK_SHIFT of all but tiny kernels
constexpr std::uint64_t kSlots = 1u << kChunkBits;
constexpr unsigned kHighestShift = 60;  // of a 64-bit index

bool is_node(std::uint64_t entry) {
    return (entry & kTagMask) == kInternal && entry > kLastNonNode;
}
// A sibling names the slot of the folio that it is a part of.
bool is_sibling(std::uint64_t entry) {
    return (entry & kTagMask) == kInternal && entry < (kSlots << 2);
}

// Puts together what lies beside each other. A compound page of 5.10 stands in each of its slots.
class FileRuns {
  public:
    FileRuns(std::uint64_t begin, std::uint64_t end) : begin_(begin), end_(end) {}

    Result<void> add(std::uint64_t index, std::uint64_t entry, GuestPhys phys,
                     std::uint64_t pages) {
        if (entry == entry_ && index == next_) {
            phys = phys + (index - entry_index_) * kPageSize;
        } else {
            entry_ = entry;
            entry_index_ = index;
        }
        next_ = index + pages;
        const std::uint64_t first = std::max(index, begin_), last = std::min(next_, end_);
        if (first >= last) return {};
        const GuestPhys at = phys + (first - index) * kPageSize;
        if (!runs.empty()) {
            FileRun& run = runs.back();
            if (run.index + run.pages == first && run.phys + run.pages * kPageSize == at) {
                run.pages += last - first;
                return {};
            }
        }
        if (runs.size() >= limits::kMaxFileRuns) {
            return fail(Code::limit, fmt::format("a file has more than {} runs of pages in memory",
                                                 limits::kMaxFileRuns));
        }
        runs.push_back({first, at, last - first});
        return {};
    }

    std::vector<FileRun> runs;

  private:
    const std::uint64_t begin_, end_;
    std::uint64_t entry_ = 0, entry_index_ = 0, next_ = 0;
};

}  // namespace

PageCache::PageCache(Kernel* kernel) : kernel_(kernel) {
    const Kernel& k = *kernel;
    root_ = k.field("task_struct", "fs");
    root_dentry_ = k.field("fs_struct", "root.dentry");
    // A list until 6.7, a hash's list since (include/linux/dcache.h).
    children_ = k.field("dentry", {"d_children", "d_subdirs"});
    sibling_ = k.field("dentry", {"d_sib", "d_child"});
    inode_ = k.field("dentry", "d_inode");
    name_ = k.field("dentry", "d_name.name");
    name_bytes_ = k.field("dentry", "d_name.len");
    mode_ = k.field("inode", "i_mode");
    size_ = k.field("inode", "i_size");
    mapping_ = k.field("inode", "i_mapping");
    pages_ = k.field("address_space", "i_pages");
    head_ = k.field("xarray", "xa_head");
    shift_ = k.field("xa_node", "shift");
    slots_ = k.field("xa_node", "slots");
    host_ = k.field("address_space", "host");
    operations_ = k.field("address_space", "a_ops");
}

Result<std::optional<GuestVirt>> PageCache::find(std::string_view path) {
    TRY(kernel_->require(
        {root_, root_dentry_, children_, sibling_, inode_, name_, name_bytes_, mode_}));
    // The first child of init_task is the first process; before it runs, init_task's own will do.
    const Field tasks = kernel_->field("task_struct", "tasks");
    TRY(kernel_->require({tasks}));
    const GuestVirt idle = TRY(kernel_->symbol("init_task"));
    const GuestVirt first = TRY(kernel_->read_pointer(idle, tasks)) - tasks.offset;
    GuestVirt at =
        TRY(kernel_->read_pointer(TRY(kernel_->read_pointer(first, root_)), root_dentry_));
    GuestVirt inode = TRY(kernel_->read_pointer(at, inode_));
    while (!path.empty()) {
        const std::size_t end = std::min(path.find('/'), path.size());
        const std::string_view name = path.substr(0, end);
        path.remove_prefix(std::min(end + 1, path.size()));
        if (name.empty()) continue;
        if ((TRY(kernel_->read(inode, mode_)) & kModeMask) != kFolderMode) {
            return fail(Code::unavailable, fmt::format("what holds {} is no folder", name));
        }
        const auto next = TRY(child(at, name));
        if (!next) return std::nullopt;
        at = *next;
        inode = TRY(kernel_->read_pointer(at, inode_));
        if (!inode) return std::nullopt;  // it is known that there is none
    }
    return inode;
}

Result<std::optional<GuestVirt>> PageCache::child(GuestVirt folder, std::string_view name) {
    std::optional<GuestVirt> found;
    const auto is_it = [&](GuestVirt entry) -> Result<bool> {
        const std::uint64_t bytes = TRY(kernel_->read(entry, name_bytes_));
        if (bytes != name.size() || bytes > kLongestName) return false;
        std::string own(bytes, '\0');
        TRY(kernel_->memory().read(TRY(kernel_->read_pointer(entry, name_)),
                                   std::as_writable_bytes(std::span(own))));
        if (own == name) found = entry;
        return found.has_value();
    };
    if (kernel_->field("dentry", "d_children").known()) {
        auto at = TRY(kernel_->read_pointer(folder, children_));
        CircleGuard circle;
        for (std::size_t i = 0; at && !found; ++i) {
            if (i > limits::kMaxListSteps || circle.closes_at(at)) {
                return fail(Code::limit, "a folder's list does not come to its end");
            }
            TRY(is_it(at - sibling_.offset));
            at = TRY(kernel_->memory().read<GuestVirt>(at));
        }
        return found;
    }
    Result<void> inside;
    TRY(kernel_->walk_list(folder + children_.offset, [&](GuestVirt node) {
        auto same = is_it(node - sibling_.offset);
        if (!same.has_value()) inside = fail(std::move(same).error());
        return inside.has_value() && !found;
    }));
    TRY(std::move(inside));
    return found;
}

Result<std::string> PageCache::read(GuestVirt inode, std::size_t limit_bytes) {
    TRY(kernel_->require({mode_, size_, mapping_, pages_, head_, shift_, slots_}));
    if ((TRY(kernel_->read(inode, mode_)) & kModeMask) != kFileMode) {
        return fail(Code::unavailable, "it is no ordinary file");
    }
    const std::uint64_t size =
        std::min<std::uint64_t>(TRY(kernel_->read(inode, size_)), limit_bytes);
    const GuestVirt mapping = TRY(kernel_->read_pointer(inode, mapping_));
    std::string content(size, '\0');
    for (std::uint64_t at = 0; at < size; at += kPageSize) {
        const auto page = TRY(page_of(mapping, at / kPageSize));
        if (!page) return fail(Code::unavailable, "not all of it is in memory");
        const std::size_t bytes = std::min<std::uint64_t>(kPageSize, size - at);
        TRY(kernel_->physical().read(
            *page, std::as_writable_bytes(std::span(content).subspan(at, bytes))));
    }
    return content;
}

Result<std::optional<GuestPhys>> PageCache::page_of(GuestVirt mapping, std::uint64_t index) {
    std::uint64_t entry = TRY(kernel_->read(mapping + pages_.offset, head_));
    unsigned shift = 64;
    std::uint64_t first = 0;  // index of the page that the entry is about
    while (is_node(entry)) {
        const GuestVirt node{entry - kInternal};
        const std::uint64_t own = TRY(kernel_->read(node, shift_));
        if (own >= shift) return fail(Code::malformed, "a page cache leads into itself");
        shift = static_cast<unsigned>(own);
        if (index >> shift >> kChunkBits != first >> shift >> kChunkBits) return std::nullopt;
        std::uint64_t slot = index >> shift & ((1u << kChunkBits) - 1);
        const auto at = [&](std::uint64_t i) {
            return kernel_->memory().read<std::uint64_t>(node + slots_.offset + 8 * i);
        };
        entry = TRY(at(slot));
        if (is_sibling(entry)) {
            slot = entry >> 2;
            entry = TRY(at(slot));
        }
        first = (index >> shift >> kChunkBits << kChunkBits | slot) << shift;
    }
    if (entry == 0 || (entry & kTagMask) != 0) return std::nullopt;
    const bool stands_alone = shift == 64;  // without any node it is the first page
    if (stands_alone && index != 0) return std::nullopt;
    // The first page of a folio; the others follow it in RAM.
    const GuestPhys page = TRY(physical_of_page(*kernel_, GuestVirt{entry}));
    return page + (index - first) * kPageSize;
}

Result<std::uint64_t> PageCache::size_of(GuestVirt mapping) {
    TRY(kernel_->require({host_, size_}));
    return kernel_->read(TRY(kernel_->read_pointer(mapping, host_)), size_);
}

Result<FilePages> PageCache::pages_of(GuestVirt mapping, std::uint64_t begin, std::uint64_t end) {
    TRY(kernel_->require({pages_, head_, shift_, slots_, operations_}));
    const auto shmem = kernel_->symbol("shmem_aops");
    // Elsewhere a value remembers a page that was dropped: the file has it, and nobody's memory.
    const bool values_are_swap =
        shmem.has_value() && TRY(kernel_->read_pointer(mapping, operations_)) == *shmem;
    struct Pending {
        std::uint64_t entry, first, pages;  // `first`: index of the first page that it is about
        unsigned below;                     // a node's shift is less than this
    };
    FilePages found;
    FileRuns runs(begin, end);
    // Without any node there is the first page alone.
    std::vector<Pending> stack{
        {TRY(kernel_->read(mapping + pages_.offset, head_)), 0, 1, kHighestShift + 1}};
    std::size_t nodes = 0;
    while (!stack.empty()) {
        const Pending top = stack.back();
        stack.pop_back();
        if (!is_node(top.entry)) {
            if ((top.entry & 1) != 0) {
                found.swapped += top.pages;
            } else if (top.entry != 0 && (top.entry & kTagMask) == 0) {
                const GuestPhys phys = TRY(physical_of_page(*kernel_, GuestVirt{top.entry}));
                TRY(runs.add(top.first, top.entry, phys, top.pages));
            }
            continue;
        }
        const GuestVirt node{top.entry - kInternal};
        const std::uint64_t shift = TRY(kernel_->read(node, shift_));
        if (shift >= top.below || shift % kChunkBits != 0) {
            return fail(Code::malformed, "a page cache leads into itself");
        }
        if (++nodes > limits::kMaxFileRuns) {
            return fail(Code::limit, "a page cache has more nodes than it can have");
        }
        std::array<std::uint64_t, kSlots> slots;
        TRY(kernel_->memory().read(node + slots_.offset, std::as_writable_bytes(std::span(slots))));
        for (std::uint64_t i = kSlots; i-- > 0;) {  // the lowest ends up on top
            const std::uint64_t first = top.first + (i << shift);
            if (slots[i] == 0 || is_sibling(slots[i]) || first >= end) continue;
            std::uint64_t own = 1;
            while (i + own < kSlots && is_sibling(slots[i + own]) && slots[i + own] >> 2 == i) {
                ++own;
            }
            const std::uint64_t pages = own << shift;
            if (first + pages <= begin) continue;
            stack.push_back({slots[i], first, pages, static_cast<unsigned>(shift)});
        }
    }
    if (!values_are_swap) found.swapped = 0;
    found.runs = std::move(runs.runs);
    return found;
}

}  // namespace underseer::guest_linux
