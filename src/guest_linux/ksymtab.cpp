#include "guest_linux/ksymtab.h"

#include <algorithm>
#include <optional>
#include <unordered_map>

namespace underseer::guest_linux {

namespace {

constexpr std::uint64_t kImageMap = 0xffffffff80000000;
constexpr std::size_t kMaxOccurrences = 64;  // of one name; a kernel has a handful
constexpr std::size_t kMaxNameBytes = 512;   // KSYM_NAME_LEN
constexpr std::size_t kEntryBytes = 12;
// An entry counts with so many others around it.
constexpr std::size_t kNeighbours = 4;

// What the relative reference at `at` leads to, as an offset into the data.
std::optional<std::uint64_t> target(Bytes rodata, std::size_t at) {
    const auto word = load_le<std::uint32_t>(rodata, at);
    if (!word) return std::nullopt;
    return at + static_cast<std::uint64_t>(static_cast<std::int32_t>(*word));
}

bool is_name(Bytes rodata, std::uint64_t at) {
    if (at >= rodata.size()) return false;
    const std::string_view rest = as_text(rodata).substr(at, kMaxNameBytes);
    const std::size_t end = rest.find('\0');
    return end != std::string_view::npos && end > 0 &&
           std::ranges::all_of(rest.substr(0, end), [](char c) {
               return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '_' || c == '.';
           });
}

bool is_entry(Bytes rodata, std::size_t at) {
    if (at + kEntryBytes > rodata.size()) return false;
    const auto name = target(rodata, at + 4), space = target(rodata, at + 8);
    // No namespace: an offset of 0, or a reference to an empty string (6.5+).
    return name && is_name(rodata, *name) && space && (*space < rodata.size() || *space == at + 8);
}

bool in_a_row(Bytes rodata, std::size_t at) {
    std::size_t around = 0;
    for (std::size_t k = 1; k <= kNeighbours && is_entry(rodata, at + k * kEntryBytes); ++k) {
        ++around;
    }
    for (std::size_t k = 1; k <= kNeighbours && at >= k * kEntryBytes; ++k, ++around) {
        if (!is_entry(rodata, at - k * kEntryBytes)) break;
    }
    return around >= kNeighbours;
}

}  // namespace

std::map<std::string, GuestVirt, std::less<>> find_exports(
    Bytes rodata, GuestVirt at, const std::vector<std::string_view>& names) {
    // Where a name's text stands, in __ksymtab_strings or elsewhere.
    std::unordered_map<std::uint64_t, std::string_view> places;
    const std::string_view text = as_text(rodata);
    for (const std::string_view name : names) {
        const std::string wanted = std::string(name) + '\0';
        std::size_t seen = 0;
        for (std::size_t pos = text.find(wanted);
             pos != std::string_view::npos && seen < kMaxOccurrences;
             pos = text.find(wanted, pos + 1), ++seen) {
            places.emplace(pos, name);
        }
    }
    std::map<std::string, GuestVirt, std::less<>> found;
    if (places.empty()) return found;
    for (std::size_t entry = 0; entry + kEntryBytes <= rodata.size(); entry += 4) {
        const auto name = target(rodata, entry + 4);
        const auto place = places.find(*name);
        if (place == places.end()) continue;
        if (!is_entry(rodata, entry) || !in_a_row(rodata, entry)) continue;
        const GuestVirt address = at + *target(rodata, entry);
        if (address.value >= kImageMap) found.emplace(place->second, address);
    }
    return found;
}

}  // namespace underseer::guest_linux
