#include "guest_memory/ram_layout.h"

#include <fmt/format.h>

#include <algorithm>

namespace underseer::guest_memory {

namespace {
constexpr std::uint64_t kPhysicalSpace = 1ull << 52;  // the most that x86-64 page tables can name
}

Result<std::vector<RamSlice>> validate_layout(std::vector<RamSlice> slices) {
    if (slices.empty()) return fail(Code::malformed, "the RAM layout is empty");
    std::ranges::sort(slices, {}, &RamSlice::begin);
    std::uint64_t previous_end = 0;
    for (const RamSlice& slice : slices) {
        const bool sane = slice.size_bytes != 0 && slice.begin.value < kPhysicalSpace &&
                          slice.size_bytes <= kPhysicalSpace - slice.begin.value &&
                          slice.offset <= ~0ull - slice.size_bytes;
        if (!sane || slice.begin.value < previous_end) {
            return fail(Code::malformed,
                        fmt::format("RAM slice at {:#x} of {:#x} bytes {}", slice.begin.value,
                                    slice.size_bytes,
                                    sane ? "overlaps the one before it" : "is out of range"));
        }
        previous_end = slice.begin.value + slice.size_bytes;
    }
    return slices;
}

}  // namespace underseer::guest_memory
