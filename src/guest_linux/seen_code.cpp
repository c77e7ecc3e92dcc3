#include "guest_linux/seen_code.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <vector>

#include "base/limits.h"
#include "guest_linux/code_comparison.h"
#include "guest_linux/hooks.h"

namespace underseer::guest_linux {

namespace {

using Kind = StartPatch::Kind;

constexpr std::size_t kWordBytes = sizeof(std::uint64_t);
constexpr std::size_t kMostCapabilityWords = 64;
constexpr std::size_t kMostParavirtBytes = 4096;
constexpr std::size_t kMaxShifts = 64;

// Features that say how many CPUs there are and how they are numbered, and choose no instructions
// (arch/x86/include/asm/cpufeatures.h): HT, XTOPOLOGY, AMD_DCM, CMP_LEGACY.
struct Ignored {
    std::size_t word;
    std::uint32_t bits;
};
constexpr Ignored kOfTopology[] = {{0, 1u << 28}, {3, 1u << 22}, {3, 1u << 27}, {6, 1u << 1}};

// FNV-1a: it tells guests apart, and protects nothing.
class Digest {
  public:
    void add(Bytes bytes) {
        for (const std::byte one : bytes) {
            state_ = (state_ ^ static_cast<std::uint8_t>(one)) * 0x100000001b3;
        }
    }
    void add(std::uint64_t number) {
        std::array<std::byte, kWordBytes> bytes;
        std::memcpy(bytes.data(), &number, sizeof number);
        add(bytes);
    }
    std::string text() const { return fmt::format("{:016x}", state_); }

  private:
    std::uint64_t state_ = 0xcbf29ce484222325;
};

// What the alternatives are chosen by: features, and flaws that are worked around.
Result<void> add_capabilities(Kernel& kernel, Digest& digest) {
    const GuestVirt cpu = TRY(kernel.symbol("boot_cpu_data"));
    const Field words = kernel.field("cpuinfo_x86", "x86_capability");
    TRY(kernel.require({words}));
    const std::size_t count = words.size_bytes / sizeof(std::uint32_t);
    if (count > kMostCapabilityWords) {
        return fail(Code::malformed, "the kernel knows too many features of its CPU");
    }
    for (std::size_t i = 0; i < count; ++i) {
        auto word = TRY(
            kernel.memory().read<std::uint32_t>(cpu + words.offset + i * sizeof(std::uint32_t)));
        for (const Ignored& one : kOfTopology) {
            if (one.word == i) word &= ~one.bits;
        }
        digest.add(word);
    }
    return {};
}

// The functions that paravirtual calls and returns go to, by where they are in the image. A kernel
// that lacks one of these has no such calls.
void add_functions(Kernel& kernel, GuestVirt begin, Digest& digest) {
    const auto add_words = [&](std::string_view name, std::uint64_t bytes) {
        const auto at = kernel.symbol(name);
        if (!at.has_value()) return;
        for (std::uint64_t i = 0; i + kWordBytes <= std::min(bytes, kMostParavirtBytes);
             i += kWordBytes) {
            const auto word = kernel.memory().read<std::uint64_t>(*at + i);
            digest.add(word.has_value() ? *word - begin.value : 0);
        }
    };
    add_words("pv_ops", kernel.size_of("paravirt_patch_template"));
    add_words("x86_return_thunk", kWordBytes);
    // How calls by pointers are checked (enum cfi_mode, arch/x86/include/asm/cfi.h, since 6.2).
    if (const auto mode = kernel.symbol("cfi_mode"); mode.has_value()) {
        digest.add(kernel.memory().read<std::uint32_t>(*mode).value_or(0));
    }
}

// Numbers that only the start of a kernel has told (runtime constants, since 6.11;
// include/asm-generic/runtime-const.h). Where they were put in is known no more. Pointers to what
// was allocated stand nowhere else in a kernel's code; of a shift, of which there are many, the
// name of its list says which it is.
class ConstantFinder {
  public:
    ConstantFinder(Kernel& kernel, BuiltKernel& seen) : kernel_(kernel), seen_(seen) {}

    Result<void> find() {
        constexpr std::string_view kPointer = "__start_runtime_ptr_",
                                   kShift = "__start_runtime_shift_";
        bool has_pointers = false;
        std::vector<std::uint8_t> shifts;
        for (std::size_t i = 0; i < kernel_.symbols().size(); ++i) {
            const std::string name(kernel_.symbols().at(i).name);
            has_pointers |= name.starts_with(kPointer);
            if (!name.starts_with(kShift)) continue;
            const GuestVirt shift = TRY(kernel_.symbol(name.substr(kShift.size())));
            shifts.push_back(TRY(kernel_.memory().read<std::uint8_t>(shift)));
        }
        std::ranges::sort(shifts);
        shifts.erase(std::ranges::unique(shifts).begin(), shifts.end());
        if (shifts.size() > kMaxShifts) {
            return fail(Code::limit, fmt::format("{} different shifts are told only when the "
                                                 "kernel starts, more than any kernel has",
                                                 shifts.size()));
        }
        if (has_pointers) TRY(find_pointers());
        for (const std::uint8_t shift : shifts) TRY(find_shifts(shift));
        std::ranges::stable_sort(seen_.patches, {}, &StartPatch::at);
        return {};
    }

  private:
    // REX.W, the opcode, and eight bytes.
    Result<void> find_pointers() {
        constexpr std::uint64_t kKernelHalf = 0xff00ull << 48, kImages = ~std::uint64_t{0} << 31;
        std::map<std::uint64_t, std::uint32_t> numbers;
        const Bytes text = as_bytes(seen_.text);
        for (std::size_t at = 2; at + kWordBytes <= text.size(); ++at) {
            const std::uint8_t prefix = byte_at(text, at - 2), opcode = byte_at(text, at - 1);
            if ((prefix != 0x48 && prefix != 0x49) || (opcode & 0xf8) != 0xb8) continue;
            const std::uint64_t value = *load_le<std::uint64_t>(text, at);
            if (value < kKernelHalf || value >= kImages) continue;
            const auto number = numbers.try_emplace(value, constants_ + numbers.size());
            TRY(add(at, kWordBytes, number.first->second));
        }
        constants_ += static_cast<std::uint32_t>(numbers.size());
        return {};
    }

    // To the right, of a register of 32 bits: C1 /5.
    Result<void> find_shifts(std::uint8_t by) {
        const Bytes text = as_bytes(seen_.text);
        for (std::size_t at = 2; at < text.size(); ++at) {
            const bool is_shift =
                byte_at(text, at - 2) == 0xc1 && (byte_at(text, at - 1) & 0xf8) == 0xe8;
            if (is_shift && byte_at(text, at) == by) TRY(add(at, 1, constants_));
        }
        ++constants_;
        return {};
    }

    Result<void> add(std::size_t at, std::size_t size_bytes, std::uint32_t constant) {
        if (seen_.patches.size() >= limits::kMaxStartPatches) {
            return fail(Code::limit, "there are too many constants in the kernel's code");
        }
        seen_.patches.push_back({.kind = Kind::constant,
                                 .at = static_cast<std::uint32_t>(at),
                                 .size_bytes = static_cast<std::uint8_t>(size_bytes),
                                 .other = constant});
        return {};
    }

    Kernel& kernel_;
    BuiltKernel& seen_;
    std::uint32_t constants_ = 0;
};

}  // namespace

Result<std::string> code_variant(Kernel& kernel) {
    if (!TRY(is_up(kernel))) return fail(Code::unavailable, "the kernel is not up yet");
    Digest digest;
    TRY(add_capabilities(kernel, digest));
    add_functions(kernel, TRY(kernel.symbol("_text")), digest);
    return digest.text();
}

Result<BuiltKernel> see_code(Kernel& kernel) {
    const event::SystemInfo info = kernel.info();
    if (!info.build_id.available()) return fail(Code::unavailable, info.build_id.reason());
    const GuestVirt begin = TRY(kernel.symbol("_text")), end = TRY(kernel.symbol("_etext"));
    if (end <= begin || end - begin > limits::kMaxKernelTextBytes) {
        return fail(Code::malformed, "the kernel's code has no end");
    }
    const HookList hooks = list_kprobes(kernel);
    if (!hooks.gaps.empty()) {
        return fail(Code::unavailable, "where kprobes stand: " + hooks.gaps.texts.front());
    }
    const auto probes = std::ranges::count_if(
        hooks.hooks, [&](const Hook& hook) { return hook.place >= begin && hook.place < end; });
    if (probes > 0) {
        return fail(Code::unavailable,
                    fmt::format("kprobes stand in the kernel's code ({})", probes));
    }
    BuiltKernel seen{.is_seen = true,
                     .build_id = info.build_id.value(),
                     .release = std::string(kernel.image().release()),
                     .begin = begin.value,
                     .text = std::string(end - begin, '\0')};
    TRY(kernel.memory().read(begin, std::as_writable_bytes(std::span(seen.text))));
    const ConstantsPlace place = TRY(constants_place(kernel));
    for (const auto& [from, to] :
         {std::pair{place.begin, place.early_begin}, std::pair{place.early_end, place.end}}) {
        BuiltConstants constants{from.value, std::string(to - from, '\0')};
        TRY(kernel.memory().read(from, std::as_writable_bytes(std::span(constants.bytes))));
        seen.constants.push_back(std::move(constants));
    }
    TRY(ConstantFinder(kernel, seen).find());
    return seen;
}

}  // namespace underseer::guest_linux
