#include "guest_linux/vmcoreinfo.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_set>
#include <vector>

#include "base/limits.h"

namespace underseer::guest_linux {

namespace {

constexpr std::string_view kStart = "OSRELEASE=";
// The direct map and vmalloc lie below the image (Documentation/arch/x86/x86_64/mm.rst).
constexpr std::uint64_t kKernelHalf = 0xff00000000000000, kImageMap = 0xffffffff80000000;

template <typename T>
std::optional<T> parse_number(std::string_view text, int base) {
    if (base == 16 && text.starts_with("0x")) text.remove_prefix(2);
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
}

bool is_printable(std::string_view text) {
    return std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; });
}

// "%ld", or "0x%lx" of addresses (VMALLOC_START, since 6.9).
std::optional<std::int64_t> parse_signed(std::string_view text) {
    if (!text.starts_with("0x")) return parse_number<std::int64_t>(text, 10);
    const auto value = parse_number<std::uint64_t>(text, 16);
    return value ? std::optional(static_cast<std::int64_t>(*value)) : std::nullopt;
}

bool value_is_readable(std::string_view key, std::string_view value) {
    if (key.starts_with("SYMBOL(") || key == "KERNELOFFSET") {
        return parse_number<std::uint64_t>(value, 16).has_value();
    }
    if (key.starts_with("NUMBER(")) return parse_signed(value).has_value();
    if (key.starts_with("OFFSET(") || key.starts_with("SIZE(")) {
        return parse_number<std::uint64_t>(value, 10).has_value();
    }
    return true;
}

Result<VmcoreInfo> read_at(VirtualMemory& memory, GuestVirt page) {
    std::vector<std::byte> bytes(limits::kMaxVmcoreInfoBytes);
    TRY(memory.read(page, bytes));
    return VmcoreInfo::parse(bytes);
}

// Pages that `words`, a piece of the image's data, points to, each once.
void collect_pages(Bytes words, std::unordered_set<std::uint64_t>& pages) {
    for (std::size_t at = 0; at + 8 <= words.size(); at += 8) {
        const std::uint64_t value = load_le<std::uint64_t>(words, at).value_or(0);
        if (value % kPageSize != 0 || value < kKernelHalf || value >= kImageMap) continue;
        if (pages.size() >= limits::kMaxVmcoreInfoCandidates) return;
        pages.insert(value);
    }
}

}  // namespace

Result<VmcoreInfo> VmcoreInfo::parse(Bytes page) {
    std::string_view rest = as_text(page.first(std::min(page.size(), limits::kMaxVmcoreInfoBytes)));
    rest = rest.substr(0, rest.find('\0'));
    if (!rest.starts_with(kStart)) {
        return fail(Code::malformed, "VMCOREINFO does not begin with OSRELEASE");
    }
    VmcoreInfo info;
    while (!rest.empty()) {
        const std::size_t end = rest.find('\n');
        const std::string_view line = rest.substr(0, end);
        rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
        if (line.empty()) continue;
        const std::size_t equals = line.find('=');
        if (equals == 0 || equals == std::string_view::npos || !is_printable(line)) {
            return fail(Code::malformed, "VMCOREINFO has a line that is no \"KEY=value\"");
        }
        const std::string_view key = line.substr(0, equals), value = line.substr(equals + 1);
        if (!value_is_readable(key, value)) {
            return fail(Code::malformed, fmt::format("VMCOREINFO's {} is no number", key));
        }
        const auto [known, fresh] = info.values_.emplace(key, value);
        if (!fresh && known->second != value) {
            return fail(Code::malformed, fmt::format("VMCOREINFO says two things of {}", key));
        }
    }
    return info;
}

std::optional<std::string_view> VmcoreInfo::text(std::string_view key) const {
    const auto found = values_.find(key);
    if (found == values_.end()) return std::nullopt;
    return found->second;
}

std::optional<GuestVirt> VmcoreInfo::symbol(std::string_view name) const {
    const auto value = text(fmt::format("SYMBOL({})", name));
    const auto address = value ? parse_number<std::uint64_t>(*value, 16) : std::nullopt;
    if (!address) return std::nullopt;
    return GuestVirt{*address};
}

std::optional<std::int64_t> VmcoreInfo::number(std::string_view name) const {
    const auto value = text(fmt::format("NUMBER({})", name));
    return value ? parse_signed(*value) : std::nullopt;
}

std::optional<std::uint64_t> VmcoreInfo::offset(std::string_view member) const {
    const auto value = text(fmt::format("OFFSET({})", member));
    return value ? parse_number<std::uint64_t>(*value, 10) : std::nullopt;
}

std::optional<std::uint64_t> VmcoreInfo::size(std::string_view structure) const {
    const auto value = text(fmt::format("SIZE({})", structure));
    return value ? parse_number<std::uint64_t>(*value, 10) : std::nullopt;
}

std::optional<std::uint64_t> VmcoreInfo::kernel_offset() const {
    const auto value = text("KERNELOFFSET");
    return value ? parse_number<std::uint64_t>(*value, 16) : std::nullopt;
}

Result<VmcoreInfo> find_vmcoreinfo(VirtualMemory& memory, const KernelImage& image,
                                   const Symbols& symbols) {
    if (const auto pointer = symbols.address("vmcoreinfo_data")) {
        return read_at(memory, TRY(memory.read<GuestVirt>(*pointer)));
    }
    std::unordered_set<std::uint64_t> pages;
    std::vector<std::byte> buffer(1u << 20);
    for (const ImageExtent& extent : image.extents) {
        if (!extent.writable) continue;
        for (std::uint64_t done = 0; done < extent.size_bytes; done += buffer.size()) {
            const auto part = std::span(buffer).first(
                std::min<std::uint64_t>(buffer.size(), extent.size_bytes - done));
            if (!memory.physical().read(extent.phys + done, part).has_value()) continue;
            collect_pages(part, pages);
        }
    }
    Error last{Code::not_found, 0, "the image points to no VMCOREINFO (CONFIG_VMCORE_INFO is off)"};
    for (const std::uint64_t page : pages) {
        std::array<std::byte, kStart.size()> start;
        if (!memory.read(GuestVirt{page}, start).has_value() || as_text(start) != kStart) continue;
        auto info = read_at(memory, GuestVirt{page});
        if (info.has_value()) return info;
        last = std::move(info).error();
    }
    return fail(std::move(last));
}

}  // namespace underseer::guest_linux
