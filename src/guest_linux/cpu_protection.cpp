#include "guest_linux/cpu_protection.h"

#include <fmt/format.h>

#include <array>
#include <utility>

namespace underseer::guest_linux {

namespace {

// Intel SDM vol. 3A, 2.5 and 2.2.1.
constexpr std::uint64_t kCr0WriteProtect = 1u << 16, kEferLongModeEnable = 1u << 8,
                        kEferNoExecute = 1u << 11;
constexpr std::uint64_t kMaskNoExecute = 1ull << 63;
constexpr std::array<std::pair<unsigned, std::string_view>, 5> kCr4Bits{
    {{11, "UMIP"}, {16, "FSGSBASE"}, {20, "SMEP"}, {21, "SMAP"}, {23, "CET"}}};

// 0 where the kernel has none of that name.
std::uint64_t variable(Kernel& kernel, std::string_view name) {
    const auto at = kernel.symbol(name);
    if (!at.has_value()) return 0;
    return kernel.memory().read<std::uint64_t>(*at).value_or(0);
}

}  // namespace

std::vector<std::string> protections_off(Kernel& kernel, const event::CpuRegisters& cpu) {
    std::vector<std::string> off;
    if ((cpu.cr0 & kCr0WriteProtect) == 0) off.push_back("CR0.WP");
    const std::uint64_t missing = variable(kernel, "cr4_pinned_bits") & ~cpu.cr4;
    for (const auto& [bit, name] : kCr4Bits) {
        if ((missing >> bit & 1) != 0) off.push_back(fmt::format("CR4.{}", name));
    }
    const bool wants_no_execute = (variable(kernel, "__supported_pte_mask") & kMaskNoExecute) != 0;
    // A dump does not hold EFER: what follows from the other registers is put in its place
    // (registers_in_notes()), which is less than a CPU in 64-bit mode has.
    const bool is_told = (cpu.efer & kEferLongModeEnable) != 0;
    if (is_told && wants_no_execute && (cpu.efer & kEferNoExecute) == 0) {
        off.push_back("EFER.NXE");
    }
    return off;
}

}  // namespace underseer::guest_linux
