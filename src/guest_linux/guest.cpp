#include "guest_linux/guest.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <unordered_set>

#include "guest_linux/kernel_log.h"
#include "guest_linux/modules.h"
#include "guest_linux/mounts.h"
#include "guest_linux/network.h"
#include "guest_linux/page_cache.h"

namespace underseer::guest_linux {

namespace {

constexpr unsigned kBpfAttempts = 3;

}  // namespace

Guest::Guest(std::unique_ptr<Kernel> kernel)
    : kernel_(std::move(kernel)),
      paths_(kernel_.get()),
      tasks_(kernel_.get(), &paths_),
      views_(kernel_.get()),
      scan_(kernel_.get()),
      files_(kernel_.get(), &paths_),
      maps_(kernel_.get(), &paths_, &tasks_),
      user_code_(kernel_.get(), &maps_, &tasks_),
      user_memory_(kernel_.get(), &maps_, &tasks_) {}

Result<std::unique_ptr<Guest>> Guest::attach(guest_memory::GuestMemory* memory, Known known,
                                             Lacking lacking) {
    auto kernel = TRY(Kernel::attach(memory, known, std::move(lacking)));
    return std::unique_ptr<Guest>(new Guest(std::move(kernel)));
}

namespace {

std::vector<GuestVirt> tasks_of(const std::vector<TaskViewResult>& views) {
    std::vector<GuestVirt> addresses;
    std::unordered_set<GuestVirt> seen;
    for (const TaskViewResult& view : views) {
        for (const GuestVirt task : view.tasks) {
            if (seen.insert(task).second) addresses.push_back(task);
        }
    }
    return addresses;
}

using Texts = event::Observed<std::vector<std::string>>;

std::size_t bytes_of(const Texts& texts) {
    std::size_t bytes = 0;
    for (const std::string& text : texts.value_or({})) bytes += text.size() + sizeof text;
    return bytes;
}

// A guest that forks a process with a long command line often enough must not take the memory that
// all the others are listed in.
void omit_texts(event::Task& task, TaskDetail wanted) {
    const auto why = Texts::unavailable(
        fmt::format("the processes before have more than {} MiB of command lines and environment; "
                    "ask for this one with --pid {}",
                    limits::kMaxTaskTextBytes >> 20, task.tgid));
    if (wanted.user_memory) task.argv = why;
    if (wanted.environment) task.environment = why;
}

// Of a guest with more, each list is read anew.
constexpr std::size_t kMaxRemembered = 4096;

}  // namespace

std::vector<GuestVirt> Guest::task_addresses() {
    return tasks_of(views_.walk_all());
}

TaskPlaces Guest::find_task_places(const std::vector<TaskViewResult>& views) {
    return scan_.search(tasks_of(views));
}

TaskViewResult Guest::ram_scan(const TaskPlaces& places, const std::vector<TaskViewResult>& views) {
    return {TaskView::ram_scan, scan_.live(places, tasks_of(views)), places.gap};
}

template <typename T>
std::vector<GuestVirt> Guest::task_addresses(Listing<T>& listing) {
    const std::vector<TaskViewResult> views = views_.walk_all();
    // These two are what lists processes and threads; the others compare.
    for (const TaskViewResult& view : views) {
        const bool lists = view.view == TaskView::task_list || view.view == TaskView::thread_list;
        if (!lists || !view.gap) continue;
        listing.note(
            {Code::unavailable, 0, fmt::format("{}: {}", to_string(view.view), *view.gap)});
    }
    return tasks_of(views);
}

Listing<event::Task> Guest::tasks(TaskDetail detail, std::optional<std::uint32_t> process) {
    Listing<event::Task> listing;
    std::size_t text_bytes = 0;
    for (const GuestVirt address : task_addresses(listing)) {
        if (process) {
            const auto tgid = tasks_.tgid(address);
            if (tgid.has_value() && *tgid != *process) continue;
        }
        const bool full = text_bytes > limits::kMaxTaskTextBytes;
        TaskDetail wanted = detail;
        if (full) wanted.user_memory = wanted.environment = false;
        auto task = tasks_.read(address, wanted);
        if (!task.has_value()) {
            listing.note(task.error());
            continue;
        }
        if (full) omit_texts(*task, detail);
        text_bytes += bytes_of(task->argv) + bytes_of(task->environment);
        listing.items.push_back(std::move(*task));
    }
    std::ranges::sort(listing.items, {}, &event::Task::pid);
    return listing;
}

Listing<event::Task> Guest::tasks_to_remember() {
    Listing<event::Task> listing = tasks();
    remembered_.clear();
    if (listing.items.size() > kMaxRemembered) return listing;
    for (const event::Task& task : listing.items) {
        const auto print = tasks_.fingerprint(GuestVirt{task.address});
        if (print.has_value()) remembered_[GuestVirt{task.address}] = {*print, task};
    }
    return listing;
}

Listing<event::Task> Guest::tasks_since(std::unordered_set<GuestVirt>& changed) {
    if (remembered_.empty()) {
        Listing<event::Task> listing = tasks();
        for (const event::Task& task : listing.items) changed.insert(GuestVirt{task.address});
        return listing;
    }
    Listing<event::Task> listing;
    for (const GuestVirt address : task_addresses(listing)) {
        const auto known = remembered_.find(address);
        const auto print = tasks_.fingerprint(address);
        if (known != remembered_.end() && print.has_value() &&
            *print == known->second.fingerprint) {
            listing.items.push_back(known->second.task);
            tasks_.refresh(listing.items.back());
            continue;
        }
        auto task = tasks_.read(address);
        if (!task.has_value()) {
            listing.note(task.error());
            continue;
        }
        changed.insert(address);
        listing.items.push_back(std::move(*task));
        // As in tasks(): a guest may not make this grow without end.
        if (changed.size() > kMaxRemembered) return tasks();
    }
    std::ranges::sort(listing.items, {}, &event::Task::pid);
    return listing;
}

template <typename T, typename List>
Listing<T> Guest::of_processes(std::optional<std::uint32_t> wanted, List&& list) {
    Listing<T> all;
    const TaskDetail brief{.user_memory = false, .environment = false, .paths = false};
    const Listing<event::Task> running = tasks(brief);
    all.unreadable = running.unreadable;
    all.first_error = running.first_error;
    for (const event::Task& task : running.items) {
        if (wanted ? task.pid != *wanted : !task.is_process()) continue;
        auto one = list(GuestVirt{task.address}, task.pid);
        if (!one.has_value()) {
            all.note(one.error());
            continue;
        }
        if (one->unreadable != 0 && all.unreadable == 0) all.first_error = one->first_error;
        all.unreadable += one->unreadable;
        const std::size_t room = limits::kMaxListedItems - all.items.size();
        const bool fits = one->items.size() <= room;
        if (!fits) one->items.resize(room);
        std::ranges::move(one->items, std::back_inserter(all.items));
        if (fits) continue;
        all.note({Code::limit, 0,
                  fmt::format("more than {} in all: not all of process {} are listed, and none of "
                              "those after it{}",
                              limits::kMaxListedItems, task.pid,
                              wanted ? "" : "; ask for one process with --pid")});
        break;
    }
    return all;
}

Result<Listing<event::OpenFile>> Guest::open_files(std::optional<std::uint32_t> pid) {
    TRY(kernel_->require_types());
    return of_processes<event::OpenFile>(
        pid, [&](GuestVirt task, std::uint32_t number) { return files_.list(task, number); });
}

Result<Listing<event::Vma>> Guest::memory_maps(std::optional<std::uint32_t> pid) {
    TRY(kernel_->require_types());
    return of_processes<event::Vma>(
        pid, [&](GuestVirt task, std::uint32_t number) { return maps_.list(task, number); });
}

Result<Listing<event::Module>> Guest::modules() {
    TRY(kernel_->require_types());
    return list_modules(*kernel_);
}

Result<void> Guest::know_built(BuiltKernel built) {
    const event::SystemInfo now = info();
    if (!now.build_id.available()) {
        return fail(Code::unavailable, "which kernel the guest runs: " + now.build_id.reason());
    }
    if (now.build_id.value() != built.build_id) {
        return fail(Code::invalid_argument,
                    fmt::format("the baseline is that of {} (build id {}), and the guest runs {} "
                                "(build id {})",
                                built.release, built.build_id, kernel_->image().release(),
                                now.build_id.value()));
    }
    built_code_.emplace(std::move(built));
    return {};
}

Result<std::optional<std::string>> Guest::cached_file(std::string_view path,
                                                      std::size_t limit_bytes) {
    PageCache cache(kernel_.get());
    const auto inode = TRY(cache.find(path).context(std::string(path)));
    if (!inode) return std::nullopt;
    return TRY(cache.read(*inode, limit_bytes).context(std::string(path)));
}

Result<Listing<event::Socket>> Guest::sockets(Gaps* waiting) {
    TRY(kernel_->require_types());
    Listing<event::Socket> listing;
    const std::vector<GuestVirt> tasks = task_addresses(listing);
    Gaps gaps;
    TRY(add_sockets(*kernel_, files_, tasks, listing, waiting == nullptr ? gaps : *waiting));
    return listing;
}

Result<BpfObjects> Guest::bpf() {
    TRY(kernel_->require_types());
    // Programs come and go while they are read.
    for (unsigned attempt = 1;; ++attempt) {
        // Those that the kernel lists: what a hidden task keeps is not worth seven views each time.
        const TaskViewResult processes = views_.walk(TaskView::task_list, {});
        const TaskViewResult threads = views_.walk(TaskView::thread_list, processes.tasks);
        auto objects = list_bpf(*kernel_, paths_, tasks_, tasks_of({processes, threads}));
        for (const TaskViewResult* view : {&processes, &threads}) {
            if (!objects.has_value() || !view->gap) continue;
            objects->gaps.add(to_string(view->view),
                              {view->broken ? Code::malformed : Code::unavailable, 0, *view->gap});
        }
        const bool is_whole = objects.has_value() && objects->gaps.broken.empty();
        if (is_whole || attempt == kBpfAttempts) return objects;
        kernel_->forget();
    }
}

template <typename T>
Result<Listing<T>> Guest::bpf_listing(std::vector<T> BpfObjects::* what) {
    BpfObjects objects = TRY(bpf());
    const Gaps of_owners = add_bpf_owners(objects);
    Listing<T> listing;
    listing.items = std::move(objects.*what);
    const auto note = [&](const Gaps& gaps) {
        for (const std::string& gap : gaps.texts) listing.note({Code::unavailable, 0, gap});
    };
    note(objects.gaps), note(of_owners);
    return listing;
}

template Result<Listing<event::BpfProgram>> Guest::bpf_listing(
    std::vector<event::BpfProgram> BpfObjects::*);
template Result<Listing<event::BpfMap>> Guest::bpf_listing(
    std::vector<event::BpfMap> BpfObjects::*);
template Result<Listing<event::BpfLink>> Guest::bpf_listing(
    std::vector<event::BpfLink> BpfObjects::*);

Result<Listing<event::Mount>> Guest::mounts() {
    TRY(kernel_->require_types());
    Listing<event::Mount> listing;
    const std::vector<GuestVirt> tasks = task_addresses(listing);
    TRY(add_mounts(*kernel_, paths_, tasks, listing));
    return listing;
}

Result<Listing<event::NetworkInterface>> Guest::interfaces() {
    TRY(kernel_->require_types());
    return list_interfaces(*kernel_);
}

Result<Listing<event::KernelLogLine>> Guest::kernel_log() {
    TRY(kernel_->require_types());
    return list_kernel_log(*kernel_);
}

}  // namespace underseer::guest_linux
