#include "guest_memory/guest_memory.h"

#include <fmt/format.h>

namespace underseer::guest_memory {

Result<void> GuestMemory::read(GuestPhys from, MutableBytes into) {
    ReadOp op{from, into};
    read_many({&op, 1});
    switch (op.status) {
        case ReadStatus::ok:
            return {};
        case ReadStatus::hole:
            return fail(Code::unreadable,
                        fmt::format("guest page {:#x} is not in this source", from.value));
        case ReadStatus::outside:
            return fail(Code::unreadable,
                        fmt::format("guest address {:#x} is not RAM", from.value));
        case ReadStatus::failed:
            break;
    }
    const std::string why = failure();
    return fail(Code::os, fmt::format("reading guest address {:#x} failed{}{}", from.value,
                                      why.empty() ? "" : ": ", why));
}

std::uint64_t GuestMemory::ram_bytes() const {
    std::uint64_t total = 0;
    for (const RamRegion& region : regions()) total += region.size_bytes;
    return total;
}

}  // namespace underseer::guest_memory
