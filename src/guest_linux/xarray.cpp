#include "guest_linux/xarray.h"

#include <fmt/format.h>

#include <array>
#include <unordered_set>

namespace underseer::guest_linux {

namespace {

// An entry is a pointer, a value (bit 0), or something internal: a node above the last page that no
// pointer has.
constexpr std::uint64_t kEntryTags = 3, kNodeTag = 2, kLastReserved = 4096;
constexpr unsigned kNodeSlots = 64;

}  // namespace

Result<void> each_of_idr(Kernel& kernel, GuestVirt idr, std::size_t max_entries,
                         std::string_view what, const std::function<void(GuestVirt)>& use) {
    const Field head = kernel.field("idr", {"idr_rt.xa_head", "idr_rt.rnode"}),
                slots_at = kernel.field("xa_node", "slots");
    TRY(kernel.require({head, slots_at}));
    struct Pending {
        std::uint64_t entry;
        std::size_t depth;
    };
    // A node's shift shrinks by 6 at every level, which bounds the depth whatever the pointers say.
    std::vector<Pending> stack{{TRY(kernel.read(idr, head)), 0}};
    std::unordered_set<std::uint64_t> nodes;
    while (!stack.empty()) {
        const Pending top = stack.back();
        stack.pop_back();
        if ((top.entry & kEntryTags) != kNodeTag) {
            if (top.entry != 0 && (top.entry & kEntryTags) == 0) use(GuestVirt{top.entry});
            continue;
        }
        if (top.entry <= kLastReserved) continue;
        if (!nodes.insert(top.entry).second) {
            return fail(Code::malformed, fmt::format("{} leads into itself", what));
        }
        if (top.depth > limits::kMaxTreeDepth || nodes.size() > max_entries / 8 + 1) {
            return fail(Code::limit, fmt::format("{} is deeper or larger than it can be", what));
        }
        std::array<std::uint64_t, kNodeSlots> slots;
        const GuestVirt node{top.entry - kNodeTag};
        TRY(kernel.memory().read(node + slots_at.offset, std::as_writable_bytes(std::span(slots))));
        for (const std::uint64_t slot : slots) {
            if (slot != 0) stack.push_back({slot, top.depth + 1});
        }
    }
    return {};
}

}  // namespace underseer::guest_linux
