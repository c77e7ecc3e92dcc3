#include "ram_reader.h"

#include <fmt/format.h>

#include <algorithm>

#include "guest_memory/ram_layout.h"

namespace underseer::cli {

using agent::kMaxRamQuestion;
using agent::RamExtent;
using agent::RamPart;
using agent::RamState;
using agent::Topic;
using guest_memory::RamRegion;
using guest_memory::ReadOp;
using guest_memory::ReadStatus;

Result<RamReader> RamReader::open(agent::Introspector* introspector) {
    const auto answer =
        TRY(introspector->ask<RamExtent>({.topic = Topic::ram_regions}, limits::kMaxImageRanges));
    std::vector<guest_memory::RamSlice> slices;
    for (const RamExtent& extent : answer.items) {
        slices.push_back({GuestPhys{extent.begin}, extent.size_bytes, 0, 0});
    }
    slices = TRY(guest_memory::validate_layout(std::move(slices)).context("the introspector says"));
    std::vector<RamRegion> regions;
    for (const auto& slice : slices) regions.push_back({slice.begin, slice.size_bytes});
    return RamReader(introspector, std::move(regions));
}

void RamReader::read_many(std::span<ReadOp> ops) {
    for (const ReadOp& op : ops) CHECK(op.into.size() <= kMaxRamQuestion);
    for (std::size_t first = 0; first < ops.size();) {
        std::size_t count = 0;
        std::uint64_t size = 0;
        while (first + count < ops.size()) {
            const ReadOp& op = ops[first + count];
            if (op.from != ops[first].from + size) break;
            if (count != 0 && size + op.into.size() > kMaxRamQuestion) break;
            size += op.into.size();
            ++count;
        }
        read_run(ops.subspan(first, count), size);
        first += count;
    }
}

// TRUST: the answer comes from a worker that a guest may have taken over.
void RamReader::read_run(std::span<ReadOp> run, std::uint64_t size_bytes) {
    for (ReadOp& op : run) {
        op.status = ReadStatus::failed;
        std::ranges::fill(op.into, std::byte{0});
    }
    if (broken_) return;
    const std::uint64_t begin = run.front().from.value;
    auto answer = introspector_->ask<RamPart>(
        {.topic = Topic::ram_bytes, .address = begin, .size_bytes = size_bytes},
        kMaxRamQuestion / kPageSize + 2);
    if (!answer.has_value()) {
        broken_ = std::move(answer).error();
        failure_ = broken_->to_text();
        return;
    }
    // The parts must be the question, from its first byte to its last.
    std::uint64_t next = begin;
    for (const RamPart& part : answer->items) {
        const bool fits =
            part.begin == next && part.size_bytes != 0 &&
            part.size_bytes <= begin + size_bytes - next &&
            part.bytes.size() == (part.state == RamState::bytes ? part.size_bytes : 0);
        if (!fits) break;
        next += part.size_bytes;
    }
    if (next != begin + size_bytes) {
        broken_ = Error{Code::malformed, 0, "the introspector answers something else than asked"};
        failure_ = broken_->to_text();
        return;
    }
    auto part = answer->items.begin();
    bool told = false;  // failure() is that of the first read of a run that failed
    for (ReadOp& op : run) {
        op.status = ReadStatus::ok;
        for (std::uint64_t at = op.from.value, end = at + op.into.size(); at < end;) {
            while (at >= part->begin + part->size_bytes) ++part;
            const std::uint64_t offset = at - part->begin;
            const std::uint64_t size = std::min(part->size_bytes - offset, end - at);
            if (part->state == RamState::bytes) {
                std::ranges::copy(
                    as_bytes(part->bytes).subspan(offset, size),
                    op.into.begin() + static_cast<std::ptrdiff_t>(at - op.from.value));
            } else if (part->state != RamState::zeros) {
                op.status = part->state == RamState::absent ? ReadStatus::hole : ReadStatus::failed;
                if (part->state == RamState::failed && !told) failure_ = part->why;
                told |= part->state == RamState::failed;
            }
            at += size;
        }
        if (op.status != ReadStatus::ok) std::ranges::fill(op.into, std::byte{0});
    }
}

}  // namespace underseer::cli
