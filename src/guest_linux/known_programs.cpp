#include "guest_linux/known_programs.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/limits.h"
#include "guest_linux/elf_image.h"
#include "guest_linux/page_store.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kMaxUnlike = 16;  // that are told
constexpr std::array<std::string_view, 6> kMerged{"bin/",   "sbin/",  "lib/",
                                                  "lib32/", "lib64/", "libx32/"};

// Packages say "./bin/ls", the guest "/usr/bin/ls": where /bin is a link to /usr/bin both are
// the same (https://wiki.debian.org/UsrMerge).
std::string path_key(std::string_view path) {
    if (path.starts_with("./")) path.remove_prefix(1);
    while (path.starts_with('/')) path.remove_prefix(1);
    constexpr std::string_view kUsr = "usr/";
    if (path.starts_with(kUsr)) {
        const std::string_view rest = path.substr(kUsr.size());
        for (const std::string_view folder : kMerged) {
            if (rest.starts_with(folder)) return std::string(rest);
        }
    }
    return std::string(path);
}

}  // namespace

void KnownPrograms::know(std::vector<ProgramSet> sets) {
    programs_.clear(), by_id_.clear(), by_path_.clear();
    for (ProgramSet& set : sets) {
        for (KnownProgram& known : set.programs) {
            by_id_[known.build_id].push_back(programs_.size());
            by_path_[path_key(known.path)].push_back(programs_.size());
            std::uint64_t pages = 0;
            for (const KnownPages& one : known.pages) pages += one.count();
            programs_.push_back({set.package, std::move(known), std::vector<std::uint64_t>(pages)});
        }
    }
}

Result<std::optional<std::string>> KnownPrograms::build_id_of(Kernel& kernel, GuestVirt mapping) {
    using BuildId = std::optional<std::string>;
    PageCache cache(&kernel);
    // Says as well whether this kernel's page cache can be read at all.
    const FilePages first = TRY(cache.pages_of(mapping, 0, 1));
    if (first.runs.empty()) return BuildId();
    const ReadFile read = [&](std::uint64_t offset, MutableBytes into) -> Result<void> {
        while (!into.empty()) {
            const std::uint64_t in_page = offset % kPageSize;
            const auto page = TRY(cache.page_of(mapping, offset / kPageSize));
            if (!page) return fail(Code::unavailable, "its beginning is not in memory");
            const std::size_t bytes = std::min<std::size_t>(into.size(), kPageSize - in_page);
            TRY(kernel.physical().read(*page + in_page, into.first(bytes)));
            into = into.subspan(bytes);
            offset += bytes;
        }
        return {};
    };
    const auto id = [&]() -> Result<std::string> {
        const auto image = TRY(ElfImage::of(read));
        return image.build_id(read);
    }();
    if (id.has_value()) return BuildId(*id);
    switch (id.error().code) {
        case Code::unavailable:  // the rest of its beginning
            return BuildId();
        case Code::malformed:  // it is something else
        case Code::unsupported:
        case Code::limit:
            return BuildId("");
        default:
            return fail(id.error());
    }
}

Result<ProgramComparison> KnownPrograms::compare_with(Kernel& kernel, GuestVirt mapping,
                                                      Program& program, std::uint64_t& budget) {
    PageCache cache(&kernel);
    ProgramComparison found{.package = program.package, .path = program.known.path, .unlike = {}};
    std::size_t before = 0;  // pages of the parts before
    std::array<std::byte, kPageSize> bytes;
    for (const KnownPages& part : program.known.pages) {
        const std::uint64_t end = part.first + part.count();
        const FilePages pages = TRY(cache.pages_of(mapping, part.first, end));
        std::uint64_t there = 0;
        for (const FileRun& run : pages.runs) {
            there += run.pages;
            for (std::uint64_t i = 0; i < run.pages; ++i) {
                if (budget == 0) {
                    return fail(Code::limit,
                                fmt::format("programs have more than {} pages in memory",
                                            limits::kMaxProgramPages));
                }
                --budget;
                ++found.compared;
                TRY(kernel.physical().read(run.phys + i * kPageSize, bytes));
                const std::uint64_t index = run.index + i, in_part = index - part.first;
                const std::uint64_t quick = page_hash(bytes);
                std::uint64_t& seen = program.seen[before + in_part];
                if (seen != 0 && seen == quick) continue;
                const std::string_view right =
                    std::string_view(part.hashes)
                        .substr(in_part * kKnownHashBytes, kKnownHashBytes);
                if (known_hash(bytes) == right) {
                    seen = quick;
                    continue;
                }
                ++found.unlike_count;
                if (found.unlike.size() < kMaxUnlike) found.unlike.push_back(index);
            }
        }
        found.absent += part.count() - std::min(there, part.count());
        before += part.count();
    }
    return found;
}

Result<std::optional<ProgramComparison>> KnownPrograms::best_of(Kernel& kernel, GuestVirt mapping,
                                                                const Index& index,
                                                                const std::string& key,
                                                                std::uint64_t& budget) {
    std::optional<ProgramComparison> best;
    const auto those = index.find(key);
    if (those == index.end()) return best;
    for (const std::size_t which : those->second) {
        auto one = TRY(compare_with(kernel, mapping, programs_[which], budget));
        if (!best || one.unlike_count < best->unlike_count) best = std::move(one);
        if (best->unlike_count == 0) break;
    }
    return best;
}

Result<std::optional<ProgramComparison>> KnownPrograms::compare(Kernel& kernel, GuestVirt mapping,
                                                                const std::string& build_id,
                                                                std::uint64_t& budget) {
    return best_of(kernel, mapping, by_id_, build_id, budget);
}

Result<std::optional<ProgramComparison>> KnownPrograms::compare_with_path(Kernel& kernel,
                                                                          GuestVirt mapping,
                                                                          std::string_view path,
                                                                          std::uint64_t& budget) {
    return best_of(kernel, mapping, by_path_, path_key(path), budget);
}

bool KnownPrograms::has_path(std::string_view path) const {
    return by_path_.contains(path_key(path));
}

bool KnownPrograms::loads(const std::string& build_id, std::uint64_t index) const {
    const auto those = by_id_.find(build_id);
    if (those == by_id_.end()) return false;
    return std::ranges::any_of(those->second, [&](std::size_t which) {
        return std::ranges::any_of(programs_[which].known.pages, [&](const KnownPages& part) {
            return index >= part.first && index - part.first < part.count();
        });
    });
}

}  // namespace underseer::guest_linux
