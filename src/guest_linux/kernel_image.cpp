#include "guest_linux/kernel_image.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>

#include "base/counted.h"
#include "base/limits.h"

namespace underseer::guest_linux {

namespace {

using guest_memory::GuestMemory;
using guest_memory::RamRegion;
using guest_memory::ReadOp;
using guest_memory::ReadStatus;

constexpr std::uint64_t kLargePage = 2u << 20;
constexpr std::string_view kBannerStart = "Linux version ";
constexpr std::string_view kByRegister = "a CPU's CR3";
// __START_KERNEL_map (arch/x86/include/asm/page_64_types.h): the image is mapped in the GiB above.
constexpr std::uint64_t kImageMapBegin = 0xffffffff80000000;
// .data, with init_top_pgt in it, follows .rodata; both are some tens of MiB even in debug kernels.
constexpr std::uint64_t kTableSearchBytes = 128u << 20;
constexpr std::uint64_t kLowMemoryBytes = 1u << 20;
constexpr std::size_t kMaxBanners = 4096;
// Distinct last entries that are followed: each costs some page reads when it looks right.
constexpr std::size_t kMaxTopEntries = 1u << 16;
constexpr std::size_t kBannerBytes = 1024;

using Table = std::array<std::uint64_t, 512>;

std::optional<Table> read_table(GuestMemory& memory, GuestPhys at) {
    Table table;
    const auto got = memory.read(at, std::as_writable_bytes(std::span(table)));
    if (!got.has_value()) return std::nullopt;
    return table;
}

struct Banner {
    GuestPhys phys;
    std::string text;
};

// The banner that begins at text[at], if what follows looks like one: printable up to a newline.
std::optional<std::string> banner_text(std::string_view text, std::size_t at) {
    const std::string_view rest = text.substr(at);
    const std::size_t end = rest.find('\n');
    if (end == std::string_view::npos || end > 512) return std::nullopt;
    const std::string_view line = rest.substr(0, end);
    const bool printable = std::ranges::all_of(line, [](char c) { return c >= ' ' && c <= '~'; });
    // The format strings "Linux version %s .." in the image have no number there.
    const char digit = line.size() > kBannerStart.size() ? line[kBannerStart.size()] : '%';
    if (!printable || digit < '0' || digit > '9') return std::nullopt;
    return std::string(line);
}

void banners_in(Bytes bytes, GuestPhys at, std::vector<Banner>& found) {
    const std::string_view text = as_text(bytes);
    for (std::size_t pos = text.find(kBannerStart); pos != std::string_view::npos;
         pos = text.find(kBannerStart, pos + 1)) {
        if (found.size() >= kMaxBanners) return;
        if (auto line = banner_text(text, pos)) found.push_back({at + pos, std::move(*line)});
    }
}

// The quick way: the first KiB of every 2 MiB page.
std::vector<Banner> banners_at_large_pages(GuestMemory& memory) {
    std::vector<Banner> found;
    std::array<std::byte, kBannerBytes> buffer;
    for (const RamRegion& region : memory.regions()) {
        std::uint64_t at = (region.begin.value + kLargePage - 1) & ~(kLargePage - 1);
        for (; at + kBannerBytes <= region.end().value; at += kLargePage) {
            ReadOp op{GuestPhys{at}, buffer};
            memory.read_many({&op, 1});
            if (op.status == ReadStatus::ok) banners_in(buffer, op.from, found);
        }
    }
    return found;
}

// The slow way: every byte. For kernels whose read-only data begins elsewhere.
std::vector<Banner> banners_anywhere(GuestMemory& memory) {
    std::vector<Banner> found;
    constexpr std::uint64_t kStep = 1u << 20;
    std::vector<std::byte> buffer(kStep + kBannerBytes);  // overlapping, so no banner is cut
    for (const RamRegion& region : memory.regions()) {
        for (GuestPhys at = region.begin; at < region.end(); at = at + kStep) {
            const auto size = std::min<std::uint64_t>(buffer.size(), region.end() - at);
            ReadOp op{at, std::span(buffer).first(size)};
            memory.read_many({&op, 1});
            if (op.status != ReadStatus::ok) continue;
            banners_in(std::span<const std::byte>(op.into), at, found);
        }
    }
    const auto same = [](const Banner& a, const Banner& b) { return a.phys == b.phys; };
    found.erase(std::unique(found.begin(), found.end(), same), found.end());
    return found;
}

struct ImageMap {
    std::vector<ImageExtent> extents;
    unsigned levels = 4;
    bool maps(GuestPhys phys, bool writable) const {
        return std::ranges::any_of(extents, [&](const ImageExtent& e) {
            return e.writable == writable && phys >= e.phys && phys < e.phys + e.size_bytes;
        });
    }
};

void add_extent(ImageMap& map, const ImageExtent& next) {
    if (!map.extents.empty()) {
        ImageExtent& last = map.extents.back();
        if (last.virt + last.size_bytes == next.virt && last.phys + last.size_bytes == next.phys &&
            last.writable == next.writable && last.executable == next.executable) {
            last.size_bytes += next.size_bytes;
            return;
        }
    }
    map.extents.push_back(next);
}

void add_leaf(ImageMap& map, std::uint64_t entry, std::uint64_t virt, std::uint64_t size) {
    const GuestPhys phys{entry_target(entry).value & ~(size - 1)};
    add_extent(map, {GuestVirt{virt}, phys, size, (entry & kPteWritable) != 0,
                     (entry & kPteNoExecute) == 0});
}

// What level2_kernel_pgt maps: the 512 entries for the GiB above kImageMapBegin. The image is
// contiguous in physical memory, so only stretches at the distance of the largest one belong to it.
ImageMap read_image_map(GuestMemory& memory, const Table& level2) {
    ImageMap map;
    for (std::uint64_t i = 0; i < level2.size(); ++i) {
        const std::uint64_t virt = kImageMapBegin + i * kLargePage;
        if ((level2[i] & kPtePresent) == 0) continue;
        if ((level2[i] & kPteHuge) != 0) {
            add_leaf(map, level2[i], virt, kLargePage);
            continue;
        }
        const auto leaves = read_table(memory, entry_target(level2[i]));
        if (!leaves) continue;
        for (std::uint64_t k = 0; k < leaves->size(); ++k) {
            if (((*leaves)[k] & kPtePresent) == 0) continue;
            add_leaf(map, (*leaves)[k], virt + k * kPageSize, kPageSize);
        }
    }
    if (map.extents.empty()) return map;
    const auto distance = [](const ImageExtent& e) { return e.virt.value - e.phys.value; };
    const std::uint64_t own =
        distance(*std::ranges::max_element(map.extents, {}, &ImageExtent::size_bytes));
    std::erase_if(map.extents, [&](const ImageExtent& e) { return distance(e) != own; });
    return map;
}

bool leads_to_table(std::uint64_t entry) {
    return (entry & (kPtePresent | kPteWritable | kPteHuge)) == (kPtePresent | kPteWritable);
}

// Follows the last entry of a page that may be a top table. Every table on the way must lie in the
// data of the image that it maps: process tables and chance cannot have that.
std::optional<ImageMap> follow_last_entry(GuestMemory& memory, std::uint64_t last) {
    std::array<GuestPhys, 4> path{};
    std::size_t steps = 0;
    for (unsigned levels = 4; levels <= 5 && leads_to_table(last); ++levels) {
        const GuestPhys table_at = entry_target(last);
        path[steps++] = table_at;
        const auto table = read_table(memory, table_at);
        if (!table) return std::nullopt;
        // Level 3 has the image in entry 510; level 4 of a 5-level kernel has only entry 511.
        const std::uint64_t image = (*table)[510];
        if (leads_to_table(image)) {
            const auto level2 = read_table(memory, entry_target(image));
            if (!level2) return std::nullopt;
            path[steps++] = entry_target(image);
            ImageMap map = read_image_map(memory, *level2);
            map.levels = levels;
            const bool own = std::all_of(path.begin(), path.begin() + static_cast<long>(steps),
                                         [&](GuestPhys at) { return map.maps(at, true); });
            if (own) return map;
            // Level 4 may have an entry 510 as well (ESPFIX, Documentation/arch/x86/x86_64/mm.rst).
            --steps;
        }
        last = (*table)[511];
    }
    return std::nullopt;
}

// Since 6.1 init/version.c leaves a weak copy of the banner in the image, without the build's
// number
// ("# SMP" for "#1 SMP").
bool has_build_number(std::string_view banner) {
    const std::size_t hash = banner.rfind('#');
    return hash != std::string_view::npos && hash + 1 < banner.size() && banner[hash + 1] != ' ';
}

// The banner in what the image maps read-only and not executable.
std::optional<std::pair<GuestVirt, std::string>> banner_of(GuestMemory& memory,
                                                           const ImageMap& map) {
    constexpr std::uint64_t kStep = 1u << 20;
    std::vector<std::byte> buffer(kStep + kBannerBytes);  // overlapping, so no banner is cut
    std::optional<std::pair<GuestVirt, std::string>> first;
    for (const ImageExtent& extent : map.extents) {
        if (extent.writable || extent.executable) continue;
        for (std::uint64_t done = 0; done < extent.size_bytes; done += kStep) {
            const auto size = std::min<std::uint64_t>(buffer.size(), extent.size_bytes - done);
            ReadOp op{extent.phys + done, std::span(buffer).first(size)};
            memory.read_many({&op, 1});
            if (op.status != ReadStatus::ok) continue;
            std::vector<Banner> found;
            banners_in(std::span<const std::byte>(op.into), op.from, found);
            for (Banner& banner : found) {
                const bool whole = has_build_number(banner.text);
                if (first && !whole) continue;
                first.emplace(extent.virt + (banner.phys - extent.phys), std::move(banner.text));
                if (whole) return first;
            }
        }
    }
    return first;
}

// Top tables among the 4 KiB pages of [begin, end): pages whose last entry is `last` if one is
// given. Only pages inside the image count, so process tables (which copy that entry) do not.
std::optional<GuestPhys> top_table_of(GuestMemory& memory, const ImageMap& map,
                                      std::uint64_t last) {
    std::optional<GuestPhys> best;
    long best_entries = 0;
    std::vector<std::byte> block(kLargePage);
    for (const ImageExtent& extent : map.extents) {
        if (!extent.writable) continue;
        for (std::uint64_t done = 0; done < extent.size_bytes; done += kLargePage) {
            const auto size = std::min(kLargePage, extent.size_bytes - done);
            ReadOp op{extent.phys + done, std::span(block).first(size)};
            memory.read_many({&op, 1});
            if (op.status != ReadStatus::ok) continue;
            for (std::uint64_t page = 0; page + kPageSize <= size; page += kPageSize) {
                if (load_le<std::uint64_t>(block, page + 511 * 8) != last) continue;
                // Entries for the direct map, vmalloc and vmemmap, all below the last few:
                // early_top_pgt has none, and neither has the level-4 table of a 5-level kernel.
                const auto table = read_table(memory, op.from + page);
                if (!table) continue;
                const auto present = [](std::uint64_t e) { return (e & kPtePresent) != 0; };
                long entries = std::count_if(table->begin() + 256, table->begin() + 500, present);
                // A process's table in freed init memory has the same, and a user half.
                if (std::any_of(table->begin(), table->begin() + 256, present)) entries = 1;
                if (entries > best_entries) {
                    best_entries = entries;
                    best = op.from + page;
                }
            }
        }
    }
    return best;
}

std::optional<KernelImage> image_from_last_entry(GuestMemory& memory, std::uint64_t last,
                                                 std::string_view rung) {
    auto map = follow_last_entry(memory, last);
    if (!map) return std::nullopt;
    auto banner = banner_of(memory, *map);
    if (!banner) return std::nullopt;
    const auto root = top_table_of(memory, *map, last);
    if (!root) return std::nullopt;
    return KernelImage{std::move(banner->second),
                       banner->first,
                       {*root, map->levels},
                       std::string(rung),
                       std::move(map->extents)};
}

// Collects kernels, each once, from pages that may be top tables.
class Search {
  public:
    explicit Search(GuestMemory& memory) : memory_(memory) {}

    void try_pages(GuestPhys begin, std::uint64_t size_bytes, std::string_view rung) {
        std::vector<std::byte> block(size_bytes);
        ReadOp op{begin, block};
        memory_.read_many({&op, 1});
        if (op.status != ReadStatus::ok) return try_each_page(begin, size_bytes, rung);
        for (std::uint64_t page = 0; page + kPageSize <= size_bytes; page += kPageSize) {
            try_entry(load_le<std::uint64_t>(block, page + 511 * 8).value_or(0), rung);
        }
    }

    void try_around(GuestPhys banner, std::string_view rung) {
        const std::size_t before = images.size();
        const std::uint64_t home = banner.value & ~(kLargePage - 1);
        for (std::uint64_t step = 0; step < kTableSearchBytes; step += kLargePage) {
            try_pages(GuestPhys{home + step}, kLargePage, rung);  // data follows read-only data
            if (images.size() > before) return;
        }
        for (std::uint64_t step = kLargePage; step <= std::min(home, kTableSearchBytes);
             step += kLargePage) {
            try_pages(GuestPhys{home - step}, kLargePage, rung);
            if (images.size() > before) return;
        }
    }

    std::vector<KernelImage> images;

  private:
    // A block with a hole or a border in it is read page by page.
    void try_each_page(GuestPhys begin, std::uint64_t size_bytes, std::string_view rung) {
        for (std::uint64_t page = 0; page + kPageSize <= size_bytes; page += kPageSize) {
            const auto table = read_table(memory_, begin + page);
            if (table) try_entry((*table)[511], rung);
        }
    }

    void try_entry(std::uint64_t last, std::string_view rung) {
        if (!leads_to_table(last) || std::ranges::find(tried_, last) != tried_.end()) return;
        if (tried_.size() >= kMaxTopEntries) return;
        tried_.push_back(last);
        if (auto image = image_from_last_entry(memory_, last, rung)) {
            const bool known = std::ranges::any_of(images, [&](const KernelImage& other) {
                return other.space.root == image->space.root;
            });
            if (!known) images.push_back(std::move(*image));
        }
    }

    GuestMemory& memory_;
    std::vector<std::uint64_t> tried_;
};

}  // namespace

Result<GuestPhys> KernelImage::phys_of(GuestVirt address) const {
    for (const ImageExtent& extent : extents) {
        if (address >= extent.virt && address < extent.virt + extent.size_bytes) {
            return extent.phys + (address - extent.virt);
        }
    }
    return fail(Code::unavailable, fmt::format("{:#x} is not in the kernel image", address.value));
}

Result<GuestVirt> KernelImage::virt_of(GuestPhys address) const {
    for (const ImageExtent& extent : extents) {
        if (address >= extent.phys && address < extent.phys + extent.size_bytes) {
            return extent.virt + (address - extent.phys);
        }
    }
    return fail(Code::unavailable,
                fmt::format("the kernel image has no part at {:#x}", address.value));
}

bool KernelImage::executable(GuestVirt address) const {
    return std::ranges::any_of(extents, [&](const ImageExtent& extent) {
        return extent.executable && address >= extent.virt &&
               address < extent.virt + extent.size_bytes;
    });
}

std::string KernelImage::release() const {
    const std::size_t begin = kBannerStart.size();
    if (banner.size() <= begin) return {};
    return banner.substr(begin, banner.find(' ', begin) - begin);
}

std::optional<KernelImage> kernel_image_under(GuestMemory& memory, GuestPhys top_table) {
    const auto table = read_table(memory, top_table);
    if (!table) return std::nullopt;
    return image_from_last_entry(memory, (*table)[511], kByRegister);
}

Result<std::vector<KernelImage>> find_kernel_images(GuestMemory& memory,
                                                    std::span<const GuestPhys> leads) {
    Search search(memory);
    search.try_pages(GuestPhys{0}, kLowMemoryBytes, "real-mode trampoline");
    std::size_t banners = 0;
    if (search.images.empty()) {
        for (const Banner& banner : banners_at_large_pages(memory)) {
            ++banners;
            search.try_around(banner.phys, "banner at a 2 MiB border");
        }
    }
    // Not instead of the other rungs: what they find and no CPU runs is worth knowing.
    for (const GuestPhys lead : leads) search.try_pages(lead, kPageSize, kByRegister);
    if (search.images.empty()) {
        for (const Banner& banner : banners_anywhere(memory)) {
            ++banners;
            search.try_around(banner.phys, "banner found by a search of all RAM");
        }
    }
    if (search.images.empty()) {
        return fail(Code::not_linux,
                    fmt::format("no running Linux kernel found: {} in {} MiB of RAM, none of them "
                                "mapped by a kernel page table",
                                counted(banners, "banner"), memory.ram_bytes() >> 20));
    }
    return std::move(search.images);
}

}  // namespace underseer::guest_linux
