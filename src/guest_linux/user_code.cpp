#include "guest_linux/user_code.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/limits.h"
#include "guest_linux/vdso.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kMaxAltered = 16;  // of one area
constexpr std::size_t kShownBytes = 16;
constexpr std::size_t kMaxKnownPages = 1u << 18;  // remembered: some 16 MiB
constexpr std::size_t kHeadBytes = 64;
constexpr std::byte kInt3{0xcc};

}  // namespace

UserCode::UserCode(Kernel* kernel, MemoryMaps* maps, Tasks* tasks)
    : kernel_(kernel), maps_(maps), tasks_(tasks), cache_(kernel) {}

Result<Listing<CodeArea>> UserCode::list(GuestVirt task, std::uint32_t pid) {
    Listing<CodeArea> listing;
    const GuestVirt mm = TRY(tasks_->mm(task));
    if (!mm) return listing;
    VirtualMemory memory = TRY(tasks_->user_memory(task));
    const auto areas = TRY(maps_->list_with_files(task, pid));
    listing.unreadable = areas.unreadable;
    listing.first_error = areas.first_error;
    for (const auto& [vma, mapping] : areas.items) {
        if (vma.permissions.find('x') == std::string::npos) continue;
        if (vma.path == "[vsyscall]" || vma.path == "[uprobes]") continue;
        CodeArea area{.area = vma};
        const auto looked = [&]() -> Result<void> {
            return look_at(memory, TRY(original_of(mm, mapping, vma)), area);
        }();
        if (!looked.has_value()) {
            if (looked.error().code == Code::limit) return fail(looked.error());
            listing.note(looked.error());
            continue;
        }
        listing.items.push_back(std::move(area));
    }
    return listing;
}

// None where no file is behind the area.
Result<UserCode::Original> UserCode::original_of(GuestVirt mm, GuestVirt mapping,
                                                 const event::Vma& area) {
    if (area.path == "[vdso]") {
        auto vdso = TRY(ProcessVdso::read(*kernel_, mm));
        return [vdso](GuestVirt at) mutable { return vdso.page_at(at); };
    }
    if (!mapping) return Original();
    return [this, mapping, &area](GuestVirt at) {
        return page_of_file(mapping, (area.offset_bytes + (at.value - area.begin)) / kPageSize);
    };
}

Result<void> UserCode::look_at(VirtualMemory& memory, const Original& original_of, CodeArea& area) {
    const GuestVirt begin{area.area.begin}, end{area.area.end};
    // What is in memory, from the page tables: an area may be large and empty.
    const CodeRanges present =
        TRY(executable_ranges(kernel_->physical(), memory.space(), begin, end));
    tables_read_ += present.tables;
    if (tables_read_ > limits::kMaxCodePageTables) {
        return fail(Code::limit, fmt::format("the code of processes takes more than {} page tables",
                                             limits::kMaxCodePageTables));
    }
    for (const CodeRange& range : present.ranges) {
        const GuestVirt first = std::max(range.begin, begin), last = std::min(range.end(), end);
        area.pages += (last - first) / kPageSize;
        if (!original_of) continue;
        for (GuestVirt at = first; at < last; at = at + kPageSize) {
            if (++looked_at_ > limits::kMaxCodePages) {
                return fail(Code::limit, fmt::format("processes have more than {} pages of code",
                                                     limits::kMaxCodePages));
            }
            const auto original = TRY(original_of(at));
            const auto own = memory.translate(at);
            if (!own.has_value()) continue;  // it has just gone
            if (original && *original == own->phys) continue;
            ++area.copies;
            if (!original) {
                ++area.unknown;
            } else {
                TRY(compare(memory, at, *original, area));
            }
        }
    }
    if (!original_of) {
        std::string head(kHeadBytes, '\0');
        if (memory.read(begin, std::as_writable_bytes(std::span(head))).has_value()) {
            area.head = std::move(head);
        }
    }
    return {};
}

Result<void> UserCode::compare(VirtualMemory& memory, GuestVirt at, GuestPhys original,
                               CodeArea& area) {
    std::array<std::byte, kPageSize> own, file;
    TRY(memory.read(at, own));
    TRY(kernel_->physical().read(original, file));
    const auto [mine, theirs] = std::ranges::mismatch(own, file);
    if (mine == own.end() || area.altered.size() >= kMaxAltered) return {};
    const auto first = static_cast<std::size_t>(mine - own.begin());
    AlteredPage page{.at = at + first};
    for (std::size_t i = first; i < own.size(); ++i) {
        page.only_breakpoints &= own[i] == file[i] || own[i] == kInt3;
    }
    const std::size_t bytes = std::min(kShownBytes, own.size() - first);
    page.before.assign(reinterpret_cast<const char*>(file.data()) + first, bytes);
    page.after.assign(reinterpret_cast<const char*>(own.data()) + first, bytes);
    area.altered.push_back(std::move(page));
    return {};
}

Result<std::optional<GuestPhys>> UserCode::page_of_file(GuestVirt mapping, std::uint64_t index) {
    if (known_.size() >= kMaxKnownPages) known_.clear();
    const auto [known, is_new] = known_.try_emplace({mapping, index});
    if (is_new) {
        auto page = cache_.page_of(mapping, index);
        if (!page.has_value()) {
            known_.erase(known);
            return page;
        }
        known->second = *page;
    }
    return known->second;
}

}  // namespace underseer::guest_linux
