// Border: a kernel's file, which somebody has downloaded, and a baseline, which another host's
// operator may have made. All of it is the input. Must hold: whatever is read from it lies inside
// of it, and what was read once is read again as the same.
#include "guest_linux/built_kernel.h"

namespace {
using namespace underseer;
using namespace underseer::guest_linux;

void check(const BuiltKernel& kernel) {
    for (const StartPatch& one : kernel.patches) {
        CHECK(one.at + std::size_t{one.size_bytes} <= kernel.text.size());
        if (one.kind != StartPatch::Kind::alternative) continue;
        CHECK(one.other + std::size_t{one.other_bytes} <= kernel.replacements.size());
    }
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const Bytes input(reinterpret_cast<const std::byte*>(data), size);
    if (const auto packed = packed_kernel(input); packed.has_value()) {
        CHECK(packed->data() >= input.data() &&
              packed->data() + packed->size() <= input.data() + input.size());
    }
    if (const auto built = read_built_kernel(input); built.has_value()) {
        check(*built);
        const auto again = unpack_built_kernel(as_bytes(pack(*built)));
        CHECK(again.has_value() && again->text == built->text &&
              again->patches.size() == built->patches.size());
    }
    if (const auto unpacked = unpack_built_kernel(input); unpacked.has_value()) check(*unpacked);
    return 0;
}
