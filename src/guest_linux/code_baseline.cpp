#include "guest_linux/code_baseline.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "guest_linux/hooks.h"
#include "guest_linux/patch_sites.h"
#include "guest_linux/vdso.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kMaxModuleBytes = 256u << 20;
constexpr std::size_t kOverlap = 8;  // of a page with its neighbours: no place is longer

}  // namespace

std::vector<CodeBaseline::Piece> CodeBaseline::pieces(Kernel& kernel, const CodeMap& code,
                                                      const PageHashes& text,
                                                      CodeComparison& result) {
    Gaps& gaps = result.uncompared;
    std::vector<Piece> all{{.begin = text.begin, .size_bytes = text.size_bytes}};
    std::uint64_t left = kMaxModuleBytes;
    for (const ModuleCode& module : code.modules) {
        if (!module.is_live || module.size_bytes == 0) continue;
        const std::uint64_t pages = (module.size_bytes + kPageSize - 1) / kPageSize;
        if (module.size_bytes > left || pages * kPageSize > left) {
            gaps.add("module " + module.name, {Code::limit, 0, "modules have too much code"});
            continue;
        }
        left -= pages * kPageSize;
        all.push_back({.begin = module.begin,
                       .size_bytes = module.size_bytes,
                       .name = "module " + module.name,
                       .module = module.module,
                       .life = module.life});
    }
    for (VdsoImage& image : vdso_images(kernel, gaps)) {
        all.push_back({.begin = image.data,
                       .size_bytes = image.size_bytes,
                       .name = std::move(image.name),
                       .is_given = true});
    }
    const auto place = [&]() -> Result<ConstantsPlace> {
        if (!is_up_) is_up_ = TRY(is_up(kernel));
        // A guest that says so for ever has them never compared: that is told.
        if (!is_up_) return fail(Code::unavailable, "it says that it is still starting");
        return TRY(constants_place(kernel));
    }();
    if (place.has_value()) {
        all.push_back(
            {.begin = place->begin, .size_bytes = place->end - place->begin, .is_constant = true});
    } else {
        result.limits.add("constants of the kernel", place.error());
    }
    return all;
}

Result<CodeComparison> CodeBaseline::compare(Kernel& kernel, const CodeMap& code,
                                             const PageHashes& text) {
    CodeComparison result;
    const std::vector<Piece> present = pieces(kernel, code, text, result);
    // Where modules could not be listed, one that is not there may well be.
    if (code.gaps.empty()) {
        std::erase_if(known_, [&](const auto& known) {
            return std::ranges::find(present, known.second.piece) == present.end();
        });
    }
    std::optional<PatchSites> sites;  // only where something differs
    for (const Piece& piece : present) {
        const bool is_text = &piece == &present.front();
        const PageHashes own =
            is_text ? PageHashes{} : hash_pages(kernel, piece.begin, piece.size_bytes);
        const PageHashes& now = is_text ? text : own;
        auto found = known_.find(piece.key());
        if (found == known_.end() || found->second.piece != piece) {
            Known fresh{piece, PageStore(now.of.size()), {}};
            for (const Piece& other : present) {
                if (!piece.is_constant || !other.is_given) continue;
                fresh.elsewhere.push_back({other.begin, other.begin + other.size_bytes});
            }
            found = known_.insert_or_assign(piece.key(), std::move(fresh)).first;
        }
        Known& known = found->second;
        for (std::size_t page = 0; page < known.pages.size(); ++page) {
            if (!now.of[page]) {
                ++result.unreadable;
                continue;
            }
            if (!known.pages.hash(page)) {  // the first look, or the first that could read it
                if (!keep_page(kernel, known, page)) ++result.unreadable;
                continue;
            }
            ++result.pages;
            if (known.pages.hash(page) == now.of[page]) continue;
            if (result.altered.size() >= limits::kMaxWaysOut) continue;  // more than is told
            if (!sites) sites.emplace(kernel, code);
            compare_page(kernel, *sites, known, page, result);
        }
        known.pages.close();
    }
    if (sites) result.gaps = std::move(sites->gaps);
    return result;
}

bool CodeBaseline::keep_page(Kernel& kernel, Known& known, std::size_t page) {
    std::array<std::byte, kPageSize> bytes{};
    const std::size_t first = page * kPageSize,
                      size = std::min<std::size_t>(kPageSize, known.piece.size_bytes - first);
    if (!kernel.memory().read(known.piece.begin + first, std::span(bytes).first(size)).has_value())
        return false;
    known.pages.keep(page, bytes);
    return true;
}

// How many bytes from there on are of another piece: what processes are given of the kernel lies
// among its constants.
std::size_t CodeBaseline::compared_elsewhere(const Known& known, GuestVirt at) {
    for (const Stretch& stretch : known.elsewhere) {
        if (at >= stretch.begin && at < stretch.end) return stretch.end - at;
    }
    return 0;
}

// A place may lie across the border to a neighbour.
void CodeBaseline::compare_page(Kernel& kernel, const PatchSites& sites, Known& known,
                                std::size_t page, CodeComparison& result) {
    const Piece& piece = known.piece;
    const auto has = [&](std::size_t which) {
        return which < known.pages.size() && known.pages.hash(which).has_value();
    };
    const std::size_t first = page * kPageSize,
                      last = std::min<std::size_t>(first + kPageSize, piece.size_bytes);
    const std::size_t from = page > 0 && has(page - 1) ? first - kOverlap : first,
                      to = has(page + 1) ? std::min<std::size_t>(last + kOverlap, piece.size_bytes)
                                         : last;
    std::vector<std::byte> before, now(to - from);
    for (std::size_t which = from / kPageSize; which * kPageSize < to; ++which) {
        const auto bytes = known.pages.bytes(which);
        const std::size_t begins = which * kPageSize, skip = std::max(begins, from) - begins,
                          ends = std::min(to - begins, bytes.size());
        before.insert(before.end(), bytes.begin() + static_cast<std::ptrdiff_t>(skip),
                      bytes.begin() + static_cast<std::ptrdiff_t>(ends));
    }
    if (!kernel.memory().read(piece.begin + from, now).has_value()) {
        ++result.unreadable;
        return;
    }
    const GuestVirt at = piece.begin + from;
    tell_differences(
        {.at = at,
         .before = before,
         .now = now,
         .first = first - from,
         .last = last - from,
         .is_constant = piece.is_constant},
        [&](std::size_t i) {
            return piece.is_constant ? compared_elsewhere(known, at + i)
                                     : sites.explains(at, now, i);
        },
        [&](GuestVirt place) {
            if (piece.is_constant) return constant_text(kernel, place);
            return piece.name.empty() ? symbol_text(kernel, place)
                                      : fmt::format("{}+{:#x}", piece.name, place - piece.begin);
        },
        result);
}

CodeComparison compare_code(Kernel& kernel, const CodeMap& code, GuestVirt at, Bytes before,
                            Bytes now) {
    CHECK(before.size() == now.size());
    CodeComparison result;
    const PatchSites sites(kernel, code);
    tell_differences(
        {.at = at, .before = before, .now = now, .first = 0, .last = now.size()},
        [&](std::size_t i) { return sites.explains(at, now, i); },
        [&](GuestVirt place) { return symbol_text(kernel, place); }, result);
    result.gaps = sites.gaps;
    return result;
}

}  // namespace underseer::guest_linux
