#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/os.h"
#include "guest_memory/sliced_memory.h"
#include "guest_memory/sources.h"

namespace underseer::guest_memory {

SlicedMemory::SlicedMemory(std::vector<int> fds, std::vector<RamSlice> slices, bool live,
                           std::string description, std::vector<std::byte> notes)
    : fds_(std::move(fds)),
      slices_(std::move(slices)),
      live_(live),
      description_(std::move(description)),
      notes_(std::move(notes)) {
    for (const RamSlice& slice : slices_) {
        // Slices that touch are one region to whoever reads.
        if (!regions_.empty() && regions_.back().end() == slice.begin) {
            regions_.back().size_bytes += slice.size_bytes;
        } else {
            regions_.push_back({slice.begin, slice.size_bytes});
        }
    }
}

void SlicedMemory::read_many(std::span<ReadOp> ops) {
    for (ReadOp& op : ops) read_one(op);
}

void SlicedMemory::read_one(ReadOp& op) const {
    GuestPhys at = op.from;
    MutableBytes rest = op.into;
    op.status = ReadStatus::ok;
    while (!rest.empty()) {
        auto slice = std::ranges::upper_bound(slices_, at, {}, &RamSlice::begin);
        const bool inside =
            slice != slices_.begin() && at - (slice - 1)->begin < (slice - 1)->size_bytes;
        if (!inside) {
            op.status = ReadStatus::outside;
            break;
        }
        --slice;
        const std::uint64_t offset = at - slice->begin;
        const std::size_t part =
            std::min<std::uint64_t>({rest.size(), slice->size_bytes - offset, kMaxReadBytes});
        const auto got = read_at(fds_[slice->source], rest.first(part), slice->offset + offset);
        if (!got.has_value() || *got != part) {
            op.status = ReadStatus::failed;
            break;
        }
        rest = rest.subspan(part);
        at = at + part;
    }
    if (op.status != ReadStatus::ok) std::ranges::fill(op.into, std::byte{0});
}

Result<std::unique_ptr<GuestMemory>> open_live(std::vector<int> fds, std::vector<RamSlice> layout,
                                               std::string description) {
    layout = TRY(validate_layout(std::move(layout)));
    for (const RamSlice& slice : layout) {
        if (slice.source >= fds.size()) {
            return fail(Code::malformed, fmt::format("RAM slice at {:#x} names fd {} of {}",
                                                     slice.begin.value, slice.source, fds.size()));
        }
    }
    return std::unique_ptr<GuestMemory>(std::make_unique<SlicedMemory>(
        std::move(fds), std::move(layout), /*live=*/true, std::move(description)));
}

}  // namespace underseer::guest_memory
