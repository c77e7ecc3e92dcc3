#include "guest_linux/vmalloc.h"

#include <algorithm>

namespace underseer::guest_linux {

namespace {

// mm/vmalloc.c: one list of all until 6.8; since 6.9 as many nodes as nr_vmap_nodes says, each with
// its own (struct vmap_node.busy).
constexpr std::uint64_t kMaxNodes = 1024;

class AreaReader {
  public:
    explicit AreaReader(Kernel& kernel) : kernel_(kernel) {}

    Result<std::vector<VmallocArea>> read_all() {
        TRY(kernel_.require({start_, end_, list_, vm_, caller_}));
        if (const auto all = kernel_.symbol("vmap_area_list"); all.has_value()) {
            TRY(walk(*all));
        } else {
            const Field heads = kernel_.field("vmap_node", "busy.head");
            TRY(kernel_.require({heads}));
            const std::uint64_t node_bytes = TRY(kernel_.require_size_of("vmap_node"));
            const auto nodes =
                TRY(kernel_.memory().read<GuestVirt>(TRY(kernel_.symbol("vmap_nodes"))));
            const std::uint32_t count =
                TRY(kernel_.memory().read<std::uint32_t>(TRY(kernel_.symbol("nr_vmap_nodes"))));
            if (count == 0 || count > kMaxNodes) {
                return fail(Code::malformed, "the number of vmalloc nodes is no such number");
            }
            for (std::uint64_t i = 0; i < count; ++i) {
                TRY(walk(nodes + i * node_bytes + heads.offset));
            }
        }
        std::ranges::sort(areas_, {}, &VmallocArea::begin);
        return std::move(areas_);
    }

  private:
    Result<void> walk(GuestVirt head) {
        Result<void> unread;
        TRY(kernel_.walk_list(head, [&](GuestVirt node) {
            unread = add(node - list_.offset);
            return unread.has_value();
        }));
        return unread;
    }

    Result<void> add(GuestVirt at) {
        VmallocArea area;
        area.begin = TRY(kernel_.read_pointer(at, start_));
        const GuestVirt end = TRY(kernel_.read_pointer(at, end_));
        if (end.value <= area.begin.value) return fail(Code::malformed, "an area without an end");
        area.size_bytes = end.value - area.begin.value;
        // Null: a part of the address space that is kept for vm_map_ram() and the like.
        const GuestVirt vm = TRY(kernel_.read_pointer(at, vm_));
        if (vm) area.caller = TRY(kernel_.read_pointer(vm, caller_));
        areas_.push_back(area);
        return {};
    }

    Kernel& kernel_;
    Field start_ = kernel_.field("vmap_area", "va_start"),
          end_ = kernel_.field("vmap_area", "va_end"), list_ = kernel_.field("vmap_area", "list"),
          vm_ = kernel_.field("vmap_area", "vm"), caller_ = kernel_.field("vm_struct", "caller");
    std::vector<VmallocArea> areas_;
};

}  // namespace

Result<std::vector<VmallocArea>> vmalloc_areas(Kernel& kernel) {
    return AreaReader(kernel).read_all();
}

}  // namespace underseer::guest_linux
