#include "guest_linux/code_comparison.h"

#include <fmt/format.h>

#include <algorithm>

#include "guest_linux/hooks.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kMaxTextBytes = 256u << 20;
constexpr std::size_t kAround = 8;  // bytes of evidence on either side
constexpr std::size_t kToldTogether = 8;
constexpr std::byte kLock{0xf0}, kSegmentPrefix{0x3e};

// Locks are dropped and taken up again with the number of CPUs (.smp_locks).
bool is_lock(std::byte one) {
    return one == kLock || one == kSegmentPrefix;
}

}  // namespace

Result<PageHashes> hash_text(Kernel& kernel) {
    const GuestVirt begin = TRY(kernel.symbol("_text")), end = TRY(kernel.symbol("_etext"));
    if (end <= begin || end - begin > kMaxTextBytes) {
        return fail(Code::malformed, "the kernel's code has no end");
    }
    return hash_pages(kernel, begin, end - begin);
}

Result<ConstantsPlace> constants_place(Kernel& kernel) {
    const ConstantsPlace place{
        TRY(kernel.symbol("__start_rodata")), TRY(kernel.symbol("__end_rodata")),
        TRY(kernel.symbol("__start_ro_after_init")), TRY(kernel.symbol("__end_ro_after_init"))};
    if (place.end <= place.begin || place.end - place.begin > limits::kMaxKernelTextBytes ||
        place.early_begin < place.begin || place.early_end < place.early_begin ||
        place.end < place.early_end || place.begin.value % kPageSize != 0) {
        return fail(Code::malformed, "the kernel's constants have no end");
    }
    return place;
}

std::string constant_text(const Kernel& kernel, GuestVirt at) {
    const auto types = kernel.symbol("__start_BTF"), end = kernel.symbol("__stop_BTF");
    const bool is_of_types = types.has_value() && end.has_value() && at >= *types && at < *end;
    if (is_of_types) return fmt::format("BTF+{:#x}", at - *types);
    // They have no symbols of their own (scripts/kallsyms.c).
    const auto [names, names_end] = kernel.symbols().tables();
    if (at >= names && at < names_end) return fmt::format("kallsyms+{:#x}", at - names);
    return symbol_text(kernel, at);
}

Result<bool> is_up(Kernel& kernel) {
    const auto running = kernel.types().enumerator("SYSTEM_RUNNING");
    const GuestVirt state = TRY(kernel.symbol("system_state"));
    if (!running) return fail(Code::unavailable, "the kernel does not say whether it is up");
    return TRY(kernel.memory().read<std::uint32_t>(state)) >= *running;
}

void tell_differences(const CodeStretch& stretch,
                      const std::function<std::size_t(std::size_t)>& explain,
                      const std::function<std::string(GuestVirt)>& name_of,
                      CodeComparison& result) {
    const auto& [at, before, now, first, last, is_constant] = stretch;
    for (std::size_t i = first; i < last;) {
        if (before[i] == now[i] || (!is_constant && is_lock(before[i]) && is_lock(now[i]))) {
            ++i;
            continue;
        }
        if (const std::size_t explained = explain(i); explained > 0) {
            i += explained;
            continue;
        }
        const std::size_t left = i - std::min(i, kAround),
                          right = std::min(i + kToldTogether + kAround, before.size());
        if (result.altered.size() < limits::kMaxWaysOut) {
            const auto text = [&](Bytes of) {
                return std::string(as_text(of.subspan(left, right - left)));
            };
            result.altered.push_back(
                {name_of(at + i), at + i, at + left, text(before), text(now), is_constant});
        }
        i += kToldTogether;
    }
}

}  // namespace underseer::guest_linux
