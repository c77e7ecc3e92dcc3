#include "guest_memory/block_memory.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace underseer::guest_memory {

BlockMemory::BlockMemory(const std::vector<RamSlice>& ranges, std::size_t block_bytes,
                         std::size_t slots, std::string description)
    : block_bytes_(block_bytes), slots_(slots), description_(std::move(description)) {
    CHECK(std::has_single_bit(slots));
    for (const RamSlice& range : ranges) {
        if (!regions_.empty() && regions_.back().end() == range.begin) {
            regions_.back().size_bytes += range.size_bytes;
        } else {
            regions_.push_back({range.begin, range.size_bytes});
        }
    }
}

Bytes BlockMemory::fetch(const Block& block) {
    CHECK(block.size_bytes <= block_bytes_);
    Slot& slot = slots_[block.number & (slots_.size() - 1)];
    if (slot.number != block.number) {
        slot.bytes.resize(block.size_bytes);
        slot.number = block.number;
        const auto decoded = decode(block, slot.bytes);
        slot.good = decoded.has_value();
        if (!slot.good) failure_ = decoded.error().to_text();
    }
    return slot.good ? Bytes(slot.bytes) : Bytes();
}

void BlockMemory::read_one(ReadOp& op) {
    GuestPhys at = op.from;
    MutableBytes rest = op.into;
    op.status = ReadStatus::ok;
    while (!rest.empty()) {
        Block block;
        op.status = locate(at, block);
        if (op.status != ReadStatus::ok) break;
        const Bytes bytes = fetch(block);
        if (bytes.empty()) {
            op.status = ReadStatus::failed;
            break;
        }
        const std::size_t offset = at - block.begin;
        const std::size_t part = std::min(rest.size(), bytes.size() - offset);
        std::memcpy(rest.data(), bytes.data() + offset, part);
        rest = rest.subspan(part);
        at = at + part;
    }
    if (op.status != ReadStatus::ok) std::ranges::fill(op.into, std::byte{0});
}

void BlockMemory::read_many(std::span<ReadOp> ops) {
    for (ReadOp& op : ops) read_one(op);
}

}  // namespace underseer::guest_memory
