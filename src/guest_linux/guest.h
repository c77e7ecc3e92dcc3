// Guest: everything that can be asked about one Linux guest. The entry to this module.
#pragma once

#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "event/observation.h"
#include "guest_linux/bpf.h"
#include "guest_linux/built_code.h"
#include "guest_linux/code_baseline.h"
#include "guest_linux/code_integrity.h"
#include "guest_linux/code_map.h"
#include "guest_linux/cpu_protection.h"
#include "guest_linux/disassembly.h"
#include "guest_linux/dispatch.h"
#include "guest_linux/hooks.h"
#include "guest_linux/kernel.h"
#include "guest_linux/known_programs.h"
#include "guest_linux/memory_maps.h"
#include "guest_linux/modules.h"
#include "guest_linux/open_files.h"
#include "guest_linux/operations.h"
#include "guest_linux/paths.h"
#include "guest_linux/running_tasks.h"
#include "guest_linux/seen_code.h"
#include "guest_linux/syscall_arguments.h"
#include "guest_linux/syscall_entry.h"
#include "guest_linux/syscall_names.h"
#include "guest_linux/syscall_values.h"
#include "guest_linux/task_sampler.h"
#include "guest_linux/task_scan.h"
#include "guest_linux/task_views.h"
#include "guest_linux/tasks.h"
#include "guest_linux/telltales.h"
#include "guest_linux/user_code.h"
#include "guest_linux/user_memory.h"
#include "guest_linux/user_programs.h"
#include "guest_linux/watch_list.h"

namespace underseer::guest_linux {

class Guest {
  public:
    // `memory` must outlive the result. Code::not_linux when it holds no Linux kernel.
    // `lacking` is for tests (Kernel::attach).
    static Result<std::unique_ptr<Guest>> attach(guest_memory::GuestMemory* memory,
                                                 Known known = {}, Lacking lacking = {});

    Kernel& kernel() { return *kernel_; }

    event::SystemInfo info() { return kernel_->info(); }

    // task_struct addresses of every process and thread that any view shows.
    std::vector<GuestVirt> task_addresses();
    std::vector<TaskViewResult> task_views() { return views_.walk_all(); }
    // The view that trusts no list: where task_structs lie in RAM is searched once (seconds on a
    // large guest), which of them live is read anew each time. `views` are those of task_views().
    TaskPlaces find_task_places(const std::vector<TaskViewResult>& views);
    TaskViewResult ram_scan(const TaskPlaces& places, const std::vector<TaskViewResult>& views);
    // What the CPUs run, read past `memory`'s cache.
    Result<RunningTasks> running_tasks(guest_memory::GuestMemory* memory) {
        return RunningTasks::of(kernel_.get(), memory);
    }
    // What moves when somebody does something, read past `memory`'s cache.
    Telltales telltales(guest_memory::GuestMemory* memory) { return {kernel_.get(), memory}; }
    // What single tasks do, read past `memory`'s cache.
    Result<std::unique_ptr<TaskSampler>> task_sampler(guest_memory::GuestMemory* memory) {
        return TaskSampler::of(kernel_.get(), memory);
    }
    // Which programs and libraries a process executes, read past it too.
    UserPrograms user_programs(guest_memory::GuestMemory* memory) {
        return UserPrograms(kernel_.get(), memory);
    }
    Result<event::Task> task(GuestVirt address, TaskDetail detail = {}) {
        return tasks_.read(address, detail);
    }

    // Processes and threads; those of one process (tgid) where it is given.
    Listing<event::Task> tasks(TaskDetail detail = {},
                               std::optional<std::uint32_t> process = std::nullopt);
    // The same, all of them, kept for those_changed().
    Listing<event::Task> tasks_to_remember();
    // The same, but that those whose fingerprints are as they were when the list was kept are as
    // they were then, but for state and credentials; who is otherwise, or was not there, is
    // `changed`. A fifth of the cost.
    Listing<event::Task> tasks_since(std::unordered_set<GuestVirt>& changed);
    // Of all processes (threads share their leader's), or of one pid.
    Result<Listing<event::OpenFile>> open_files(std::optional<std::uint32_t> pid);
    // One of a task's; Code::not_found when it is not open.
    Result<event::OpenFile> open_file(GuestVirt task, std::uint32_t fd) {
        return files_.one(task, fd);
    }
    Result<Listing<event::Vma>> memory_maps(std::optional<std::uint32_t> pid);
    // What a process can execute, by its task_struct.
    Result<Listing<CodeArea>> user_code(GuestVirt task, std::uint32_t pid) {
        return user_code_.list(task, pid);
    }
    // What it has mapped, each with the struct address_space of its file (null: none is behind it).
    Result<Listing<MemoryMaps::WithFile>> mapped_files(GuestVirt task, std::uint32_t pid) {
        return maps_.list_with_files(task, pid);
    }
    // The programs that packages have, of which somebody else has told: null, or outlives this.
    void use(KnownPrograms* known) { known_programs_ = known; }
    KnownPrograms* known_programs() { return known_programs_; }
    // What of a process is in RAM.
    UserMemory& user_memory() { return user_memory_; }
    Result<Listing<event::Module>> modules();
    std::vector<ModuleViewResult> module_views() { return walk_module_views(*kernel_); }
    // By the address of its struct module, whatever its state.
    Result<event::Module> module(GuestVirt address) { return read_module(*kernel_, address); }
    // Where the kernel's own code and tables lead: see the headers of these types.
    Result<CodeMap> code_map() { return map_code(*kernel_); }
    Result<WaysOut> pointers_out_of_constants(const CodeMap& code) {
        return ways_out_.out_of_constants(*kernel_, code);
    }
    Result<WaysOut> ways_out_of_code(const CodeMap& code) {
        return ways_out_.out_of_code(*kernel_, code, *TRY(text()));
    }
    // Against what the first call has seen.
    Result<CodeComparison> compare_code(const CodeMap& code) {
        return code_baseline_.compare(*kernel_, code, *TRY(text()));
    }
    // Against how it was built, where that is known: to be told once. Code::invalid_argument when
    // `built` is another kernel than this one.
    Result<void> know_built(BuiltKernel built);
    // For that, in other guests: see seen_code.h.
    Result<BuiltKernel> see_code() { return guest_linux::see_code(*kernel_); }
    Result<std::string> code_variant() { return guest_linux::code_variant(*kernel_); }
    void forget_built() { built_code_.reset(); }
    bool knows_built() const { return built_code_.has_value(); }
    // REQUIRES: knows_built(), here and below. It was seen in a guest, this one or another.
    bool built_is_seen() const { return built_code_->is_seen(); }
    Result<CodeComparison> compare_built(const CodeMap& code) {
        return built_code_->compare(*kernel_, code);
    }
    // The same of bytes that somebody else has kept.
    CodeComparison compare_code(const CodeMap& code, GuestVirt at, Bytes before, Bytes now) {
        return guest_linux::compare_code(*kernel_, code, at, before, now);
    }
    WatchList watched() { return list_watched(*kernel_); }
    WatchList watched(std::span<const event::MemoryRegion> regions) {
        return list_regions(*kernel_, regions);
    }
    DispatchReport system_calls() { return inspect_syscalls(*kernel_); }
    DispatchReport interrupts() { return inspect_interrupts(*kernel_); }
    BindingList bindings() { return list_bindings(*kernel_); }
    Result<BpfObjects> bpf();
    // What of it each process holds open. What could not be read is told.
    Gaps add_bpf_owners(BpfObjects& objects) {
        return guest_linux::add_bpf_owners(*kernel_, files_, tasks_, task_addresses(), objects);
    }
    // The same as listings, with who holds them open.
    Result<Listing<event::BpfProgram>> bpf_programs() { return bpf_listing(&BpfObjects::programs); }
    Result<Listing<event::BpfMap>> bpf_maps() { return bpf_listing(&BpfObjects::maps); }
    Result<Listing<event::BpfLink>> bpf_links() { return bpf_listing(&BpfObjects::links); }
    HookList hooks() { return list_hooks(*kernel_); }

    // What the guest has in memory of a file; nothing when there is none of that path.
    Result<std::optional<std::string>> cached_file(std::string_view path, std::size_t limit_bytes);
    // `waiting`: which tables of sockets that wait for others are not whole (add_sockets()).
    Result<Listing<event::Socket>> sockets(Gaps* waiting = nullptr);
    Result<Listing<event::Mount>> mounts();
    Result<Listing<event::NetworkInterface>> interfaces();
    Result<Listing<event::KernelLogLine>> kernel_log();

    // Begins a new look: nothing remembered from the last one is used.
    void new_epoch() {
        kernel_->new_epoch(), paths_.new_epoch(), tasks_.new_epoch(), user_code_.new_epoch();
        text_.reset();
    }

  private:
    explicit Guest(std::unique_ptr<Kernel> kernel);
    // The kernel's code, in this look.
    Result<const PageHashes*> text() {
        if (!text_) text_ = TRY(hash_text(*kernel_));
        return &*text_;
    }
    // As above; notes what they may be incomplete for.
    template <typename T>
    std::vector<GuestVirt> task_addresses(Listing<T>& listing);
    template <typename T>
    Result<Listing<T>> bpf_listing(std::vector<T> BpfObjects::* what);
    template <typename T, typename List>
    Listing<T> of_processes(std::optional<std::uint32_t> pid, List&& list);

    std::unique_ptr<Kernel> kernel_;
    Paths paths_;
    Tasks tasks_;
    struct Remembered {
        std::uint64_t fingerprint = 0;
        event::Task task;
    };
    std::unordered_map<GuestVirt, Remembered> remembered_;
    TaskViews views_;
    TaskScan scan_;
    OpenFiles files_;
    MemoryMaps maps_;
    UserCode user_code_;
    std::optional<PageHashes> text_;
    UserMemory user_memory_;
    CodeBaseline code_baseline_;
    std::optional<BuiltCode> built_code_;
    WaysOutFinder ways_out_;
    KnownPrograms* known_programs_ = nullptr;
};

}  // namespace underseer::guest_linux
