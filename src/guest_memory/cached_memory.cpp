#include "guest_memory/cached_memory.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace underseer::guest_memory {

CachedMemory::CachedMemory(GuestMemory* source, std::size_t pages)
    : source_(source),
      mask_(std::bit_ceil(std::max<std::size_t>(pages, 1)) - 1),
      slots_(mask_ + 1),
      bytes_((mask_ + 1) * kPageSize) {}

ReadStatus CachedMemory::fetch(std::uint64_t page, std::size_t slot) {
    ReadOp op{GuestPhys{page * kPageSize}, std::span(bytes_).subspan(slot * kPageSize, kPageSize)};
    source_->read_many({&op, 1});
    slots_[slot] = {page, epoch_, op.status};
    return op.status;
}

void CachedMemory::read_one(ReadOp& op) {
    // Long reads (a whole section of the image) would only drive everything else out.
    if (op.into.size() > 4 * kPageSize) {
        source_->read_many({&op, 1});
        return;
    }
    GuestPhys at = op.from;
    MutableBytes rest = op.into;
    op.status = ReadStatus::ok;
    while (!rest.empty()) {
        const std::uint64_t page = at.value / kPageSize;
        const std::size_t slot = page & mask_;
        const bool held = slots_[slot].page == page && slots_[slot].epoch == epoch_;
        const ReadStatus status = held ? slots_[slot].status : fetch(page, slot);
        if (status != ReadStatus::ok) {
            op.status = status;
            std::ranges::fill(op.into, std::byte{0});
            return;
        }
        const std::size_t in_page = at.value % kPageSize;
        const std::size_t part = std::min<std::size_t>(rest.size(), kPageSize - in_page);
        std::memcpy(rest.data(), bytes_.data() + slot * kPageSize + in_page, part);
        rest = rest.subspan(part);
        at = at + part;
    }
}

void CachedMemory::read_many(std::span<ReadOp> ops) {
    for (ReadOp& op : ops) read_one(op);
}

}  // namespace underseer::guest_memory
