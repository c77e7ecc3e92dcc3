#include "guest_linux/user_memory.h"

#include <algorithm>

namespace underseer::guest_linux {

namespace {

// What is left of a run of pages when those are taken out that are a file's own. Both ascend:
// `next` is the first run of the file that may concern the rest.
void subtract(const PageRun& run, std::uint64_t index, const std::vector<FileRun>& file,
              std::size_t& next, std::vector<PageRun>& left) {
    const std::uint64_t end = index + run.size_bytes / kPageSize;
    const auto keep = [&](std::uint64_t from, std::uint64_t to) {
        if (from >= to) return;
        const std::uint64_t bytes = (from - index) * kPageSize;
        left.push_back({run.begin + bytes, run.phys + bytes, (to - from) * kPageSize});
    };
    std::uint64_t at = index;
    while (at < end) {
        while (next < file.size() && file[next].index + file[next].pages <= at) ++next;
        if (next == file.size() || file[next].index >= end) break;
        const FileRun& one = file[next];
        const std::uint64_t from = std::max(at, one.index),
                            to = std::min(end, one.index + one.pages);
        const bool same =
            one.phys + (from - one.index) * kPageSize == run.phys + (from - index) * kPageSize;
        keep(at, same ? from : to);
        at = to;
    }
    keep(at, end);
}

}  // namespace

UserMemory::UserMemory(Kernel* kernel, MemoryMaps* maps, Tasks* tasks)
    : kernel_(kernel), maps_(maps), tasks_(tasks), cache_(kernel) {}

Result<std::optional<UserMemory::Process>> UserMemory::process(GuestVirt task, std::uint32_t pid) {
    const GuestVirt mm = TRY(tasks_->mm(task));
    if (!mm) return std::optional<Process>();
    Process process{.mm = mm, .space = TRY(tasks_->user_memory(task)).space()};
    auto areas = TRY(maps_->list_with_files(task, pid));
    process.areas.unreadable = areas.unreadable;
    process.areas.first_error = std::move(areas.first_error);
    for (auto& [vma, file] : areas.items) process.areas.items.push_back({std::move(vma), file});
    return std::optional(std::move(process));
}

Result<PresentPages> UserMemory::own_pages(AddressSpace space, const Area& area, GuestVirt from,
                                           std::uint64_t max_pages) {
    auto pages =
        TRY(present_pages(kernel_->physical(), space, from, GuestVirt{area.vma.end}, max_pages));
    if (!area.file || pages.runs.empty()) return pages;
    const auto index_of = [&](GuestVirt at) {
        return (area.vma.offset_bytes + (at.value - area.vma.begin)) / kPageSize;
    };
    const auto file = TRY(cache_.pages_of(area.file, index_of(pages.runs.front().begin),
                                          index_of(pages.runs.back().end())));
    std::vector<PageRun> own;
    std::size_t next = 0;
    for (const PageRun& run : pages.runs) {
        subtract(run, index_of(run.begin), file.runs, next, own);
    }
    pages.runs = std::move(own);
    return pages;
}

Result<FilePages> UserMemory::file_pages(GuestVirt file) {
    const std::uint64_t bytes = TRY(cache_.size_of(file));
    return cache_.pages_of(file, 0, bytes / kPageSize + (bytes % kPageSize != 0 ? 1 : 0));
}

}  // namespace underseer::guest_linux
