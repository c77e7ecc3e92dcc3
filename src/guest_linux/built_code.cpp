#include "guest_linux/built_code.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "guest_linux/hooks.h"
#include "guest_linux/patch_sites.h"
#include "guest_linux/start_patches.h"

namespace underseer::guest_linux {

namespace {

// A place that was patched may lie across the border of a page: the longest has 255 bytes.
constexpr std::size_t kMargin = 256;
constexpr std::size_t kAddressBytes = sizeof(std::uint32_t);
// KASLR moves a kernel by multiples of it (CONFIG_PHYSICAL_ALIGN).
constexpr std::uint64_t kSlideStep = 2u << 20;

// Addresses in the code have moved with it (arch/x86/tools/relocs.c): how many bytes from offset
// `i` on are the rest of one. A distance to a per-CPU variable, which does not move, is shorter by
// as much.
std::size_t moved_address(Bytes before, Bytes now, std::size_t i, std::uint64_t slide) {
    const auto by = static_cast<std::uint32_t>(slide);
    if (by == 0) return 0;
    for (std::size_t back = 0; back < kAddressBytes && back <= i; ++back) {
        const auto was = load_le<std::uint32_t>(before, i - back),
                   is = load_le<std::uint32_t>(now, i - back);
        if (!was || !is) continue;
        if (*is - *was == by || *was - *is == by) return kAddressBytes - back;
    }
    return 0;
}

// A list of options that the kernel splits where it stands, among its constants, when it starts on
// some CPUs of Intel's: commas become ends of strings (__check_quirks_intel() and
// set_rdt_options(), arch/x86/kernel/cpu/resctrl/core.c). Two kernels may have it either way.
std::size_t split_option(Bytes before, Bytes now, std::size_t i) {
    constexpr std::string_view kOptions = "!cmt,!mbmtotal,!mbmlocal,!l3cat";
    const auto is_list = [&](Bytes bytes, std::size_t at) {
        return at + kOptions.size() <= bytes.size() &&
               std::ranges::equal(
                   as_text(bytes.subspan(at, kOptions.size())), kOptions,
                   [](char is, char was) { return is == was || (was == ',' && is == '\0'); });
    };
    for (std::size_t back = 0; back < kOptions.size() && back <= i; ++back) {
        if (kOptions[back] == ',' && is_list(before, i - back) && is_list(now, i - back)) return 1;
    }
    return 0;
}

}  // namespace

// The code first.
Result<std::vector<BuiltCode::Part>> BuiltCode::parts(Kernel& kernel) const {
    const GuestVirt begin = TRY(kernel.symbol("_text")), end = TRY(kernel.symbol("_etext"));
    const std::string& text = built_->text;
    const std::uint64_t slide = begin.value - built_->begin;
    // Behind the last section's end the linker may have rounded up.
    if (end <= begin || (end - begin) / kPageSize > text.size() / kPageSize + 1 ||
        text.size() > (end - begin) + kSlideStep || slide % kSlideStep != 0) {
        return fail(Code::invalid_argument,
                    fmt::format("the baseline of {} has {} bytes of code, the guest's kernel {}",
                                built_->release, text.size(), end - begin));
    }
    std::vector<Part> all{
        {begin, as_bytes(text).first(std::min<std::size_t>(text.size(), end - begin)), false}};
    for (const BuiltConstants& constants : built_->constants) {
        all.push_back({GuestVirt{constants.begin + slide}, as_bytes(constants.bytes), true});
    }
    return all;
}

Result<CodeComparison> BuiltCode::compare(Kernel& kernel, const CodeMap& code) {
    CodeComparison result;
    result.pages = pages_;
    if (!has_constants_) {
        result.limits.add("constants of the kernel",
                          {Code::unavailable, 0, "its file does not say where they are"});
    }
    if (!built_) return result;
    const std::vector<Part> all = TRY(parts(kernel));
    const std::uint64_t slide = all.front().begin.value - built_->begin;
    if (!is_compared_) {
        for (std::size_t part = 0; part < all.size(); ++part) {
            const std::size_t pages = (all[part].built.size() + kPageSize - 1) / kPageSize;
            for (std::size_t page = 0; page < pages; ++page) open_.push_back({part, page});
        }
        pages_ = open_.size();
        constants_ = StartPatches::constants_of(kernel, *built_, slide);
    }
    const PatchSites sites(kernel, code);
    StartPatches start(kernel, *built_, slide, constants_);
    std::vector<std::byte> now;
    std::erase_if(open_, [&](const Page& open) {
        // More than is told: another kernel in its place must not take all of the time.
        if (result.altered.size() >= limits::kMaxWaysOut) return false;
        const Part& part = all[open.part];
        // It may be shorter by now: a guest says where its code ends.
        const std::size_t first = std::min(open.page * kPageSize, part.built.size()),
                          last = std::min(first + kPageSize, part.built.size()),
                          from = first - std::min(first, kMargin),
                          to = std::min(last + kMargin, part.built.size());
        now.resize(to - from);
        if (!kernel.memory().read(part.begin + from, now).has_value()) {
            ++result.unreadable;
            return false;
        }
        const Bytes before = part.built.subspan(from, to - from);
        if (std::memcmp(before.data(), now.data(), now.size()) == 0) return true;
        const std::size_t told = result.altered.size();
        tell_differences(
            {.at = part.begin + from,
             .before = before,
             .now = now,
             .first = first - from,
             .last = last - from,
             .is_constant = part.is_constant},
            [&](std::size_t i) -> std::size_t {
                if (const std::size_t moved = moved_address(before, now, i, slide)) return moved;
                if (part.is_constant) return split_option(before, now, i);
                if (const std::size_t made = start.explains(now, from, from + i)) return made;
                return sites.explains(part.begin + from, now, i);
            },
            [&](GuestVirt at) {
                return part.is_constant ? constant_text(kernel, at) : symbol_text(kernel, at);
            },
            result);
        return result.altered.size() == told;
    });
    is_compared_ = true;
    result.pages = pages_ - result.unreadable;
    result.gaps = sites.gaps;
    if (open_.empty()) built_.reset();
    return result;
}

}  // namespace underseer::guest_linux
