#include "guest_memory/fake_memory.h"

#include <algorithm>

namespace underseer::guest_memory {

FakeMemory::FakeMemory(std::vector<FakeRange> ranges) : ranges_(std::move(ranges)) {
    for (const FakeRange& range : ranges_) {
        regions_.push_back({GuestPhys{range.begin}, range.bytes.size()});
    }
}

void FakeMemory::read_many(std::span<ReadOp> ops) {
    for (ReadOp& op : ops) {
        op.status = ReadStatus::outside;
        std::ranges::fill(op.into, std::byte{0});
        for (const FakeRange& range : ranges_) {
            const std::uint64_t offset = op.from.value - range.begin;
            if (op.from.value < range.begin || offset > range.bytes.size() ||
                op.into.size() > range.bytes.size() - offset) {
                continue;
            }
            std::ranges::copy(Bytes(range.bytes).subspan(offset, op.into.size()), op.into.begin());
            op.status = ReadStatus::ok;
        }
    }
}

void RecordingMemory::read_many(std::span<ReadOp> ops) {
    source_->read_many(ops);
    for (const ReadOp& op : ops) {
        if (op.status != ReadStatus::ok) continue;
        read_.assign(op.from.value, op.from.value + op.into.size(), true);
    }
}

std::vector<RamRegion> RecordingMemory::read_ranges() const {
    std::vector<RamRegion> ranges;
    read_.for_each([&](std::uint64_t begin, std::uint64_t end, bool) {
        if (!ranges.empty() && ranges.back().end() == GuestPhys{begin}) {
            ranges.back().size_bytes += end - begin;
        } else {
            ranges.push_back({GuestPhys{begin}, end - begin});
        }
    });
    return ranges;
}

ReadStatus FaultyMemory::status_of(GuestPhys at) const {
    // splitmix64: near numbers give unlike ones.
    std::uint64_t mixed = (at.value / kPageSize + seed_) * 0x9e3779b97f4a7c15;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
    const auto lot = static_cast<unsigned>((mixed ^ mixed >> 31) % 1000);
    if (lot < holes_) return ReadStatus::hole;
    return lot < holes_ + failures_ ? ReadStatus::failed : ReadStatus::ok;
}

void FaultyMemory::read_many(std::span<ReadOp> ops) {
    source_->read_many(ops);
    for (ReadOp& op : ops) {
        const std::uint64_t end = op.from.value + op.into.size();
        for (std::uint64_t at = op.from.value; at < end && op.status == ReadStatus::ok;
             at = (at & kPageMask) + kPageSize) {
            op.status = status_of(GuestPhys{at});
        }
        if (op.status != ReadStatus::ok) std::ranges::fill(op.into, std::byte{0});
    }
}

void CountingMemory::read_many(std::span<ReadOp> ops) {
    source_->read_many(ops);
    ++calls;
    reads += ops.size();
    for (const ReadOp& op : ops) {
        bytes += op.into.size();
        if (op.status != ReadStatus::ok) ++not_ok;
    }
}

}  // namespace underseer::guest_memory
