#include "guest_linux/code_operands.h"

#include <algorithm>

namespace underseer::guest_linux {

namespace {

constexpr std::uint64_t kImageMap = 0xffffffff80000000;
constexpr std::uint64_t kPerCpuBytes = 1u << 20;

std::uint64_t sign_extended(std::uint32_t word) {
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<std::int32_t>(word)));
}

// "mov $imm32, register": C7 /0 with a REX prefix, or B8 + register.
bool is_immediate_move(Bytes code, std::size_t at) {
    const std::uint8_t before = byte_at(code, at - 1);
    if (before >= 0xb8 && before <= 0xbf) return true;
    return at >= 2 && before >= 0xc0 && before <= 0xc7 && byte_at(code, at - 2) == 0xc7;
}

template <typename T>
void add_once(std::vector<T>& values, T value) {
    if (std::ranges::find(values, value) == values.end()) values.push_back(value);
}

}  // namespace

std::vector<std::uint64_t> code_operands(Bytes code, GuestVirt at) {
    std::vector<std::uint64_t> values;
    for (std::size_t i = 1; i + 4 <= code.size(); ++i) {
        const std::uint32_t word = load_le<std::uint32_t>(code, i).value_or(0);
        const std::uint64_t absolute = sign_extended(word);
        if (absolute >= kImageMap) add_once(values, absolute);
        if (absolute < kPerCpuBytes && is_immediate_move(code, i)) add_once(values, absolute);
        if ((byte_at(code, i - 1) & 0xc7) != 0x05) continue;
        // An immediate of the same instruction may stand behind the displacement.
        for (const std::uint64_t immediate : {0u, 1u, 2u, 4u}) {
            const std::uint64_t target = at.value + i + 4 + immediate + absolute;
            if (target >= kImageMap) add_once(values, target);
        }
    }
    return values;
}

}  // namespace underseer::guest_linux
