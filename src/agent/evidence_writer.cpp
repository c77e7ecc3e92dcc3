#include "agent/evidence_writer.h"

#include <elf.h>
#include <fmt/format.h>
#include <sys/procfs.h>
#include <sys/user.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "agent/exact_trace.h"
#include "agent/introspection.h"
#include "agent/process_trace.h"
#include "base/counted.h"
#include "crypto/hash.h"
#include "event/json_form.h"
#include "guest_memory/elf_writer.h"
#include "jail/policy.h"

namespace underseer::agent {

namespace {

using guest_linux::Guest;
using guest_linux::Listing;
using guest_linux::PageRun;
using guest_linux::UserMemory;
using guest_memory::CoreRun;
using guest_memory::ElfDump;
using guest_memory::GuestMemory;

constexpr std::uint64_t kPagesAtOnce = 4096;
// An ELF core has 16 bits for them (e_phnum).
constexpr std::size_t kMaxStretches = 60'000;
// Of a core besides its pages: headers, notes, and what rounding up takes.
constexpr std::uint64_t kCoreOverheadBytes = 8u << 20;
constexpr std::size_t kMaxMappedNamesBytes = 1u << 20;
constexpr std::uint32_t kTracePeriodUs = 10'000;
constexpr std::size_t kMaxToldPathBytes = 256;
// What a report of calls has besides them; and what each takes more there than alone, for its
// place: at most four spaces for each of some sixty lines, and as many for each argument.
constexpr std::uint64_t kSummaryBytes = 64u << 10, kIndentOfCall = 512;

Result<void> write_at(int fd, Bytes bytes, std::uint64_t offset) {
    while (!bytes.empty()) {
        const std::size_t size = std::min<std::size_t>(bytes.size(), jail::kMaxOutputPiece);
        const ssize_t written = ::pwrite(fd, bytes.data(), size, static_cast<off_t>(offset));
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return fail(os_error("writing evidence"));
        bytes = bytes.subspan(static_cast<std::size_t>(written));
        offset += static_cast<std::uint64_t>(written);
    }
    return {};
}

template <typename T>
std::string json_of(const T& value) {
    std::string text;
    json::Writer writer(&text, json::Style::pretty);
    event::JsonForm(&writer).put(value);
    return text + '\n';
}

// A process as it is now: the number may have been another's a moment ago.
struct Process {
    event::Task task;
    UserMemory::Process memory;
};

// The content of a core's PT_NOTE.
class CoreNotes {
  public:
    void add(std::uint32_t type, const void* from, std::size_t size) {
        const Elf64_Nhdr header{
            .n_namesz = 5, .n_descsz = static_cast<Elf64_Word>(size), .n_type = type};
        put(&header, sizeof header);
        put("CORE", 5);
        put(from, size);
    }
    std::vector<std::byte> take() { return std::move(bytes_); }

  private:
    void put(const void* from, std::size_t size) {
        const auto* bytes = static_cast<const std::byte*>(from);
        bytes_.insert(bytes_.end(), bytes, bytes + size);
        bytes_.resize((bytes_.size() + 3) & ~std::size_t{3});
    }

    std::vector<std::byte> bytes_;
};

class Writer {
  public:
    Writer(Guest* guest, GuestMemory& ram, const EvidenceOutput& output,
           const EvidenceSubject& subject)
        : guest_(guest), ram_(ram), output_(output), subject_(subject) {}

    KeptFile keep(const Error& why_no_guest) {
        kept_.kind = output_.form.kind;
        const bool needs_guest = kept_.kind != EvidenceKind::machine_memory;
        Result<void> written;
        if (needs_guest && guest_ == nullptr) {
            written = fail(why_no_guest);
        } else {
            if (guest_ != nullptr) guest_->new_epoch();
            written = write(kept_.kind);
        }
        if (written.has_value()) written = seal();
        if (!written.has_value()) {
            kept_.why_not = written.error().to_text();
            kept_.gaps.clear();
            (void)!::ftruncate(fd(), 0);  // it is removed anyway
        }
        return std::move(kept_);
    }

  private:
    int fd() const { return output_.file.get(); }
    std::uint64_t most_bytes() const { return output_.form.most_bytes; }

    Result<void> write(EvidenceKind kind) {
        switch (kind) {
            case EvidenceKind::process_memory:
                return process_memory();
            case EvidenceKind::process_maps:
                TRY(task());
                return listing(guest_->memory_maps(subject_.pid));
            case EvidenceKind::process_files:
                TRY(task());
                return listing(guest_->open_files(subject_.pid));
            case EvidenceKind::process_program:
                return process_program();
            case EvidenceKind::process_calls:
                return process_calls();
            case EvidenceKind::process_trace:
                return process_trace();
            case EvidenceKind::module_memory:
                return module_memory();
            case EvidenceKind::processes:
                return listing<event::Task>(guest_->tasks({.environment = subject_.environment}));
            case EvidenceKind::sockets:
                return listing(guest_->sockets());
            case EvidenceKind::modules:
                return listing(guest_->modules());
            case EvidenceKind::mounts:
                return listing(guest_->mounts());
            case EvidenceKind::interfaces:
                return listing(guest_->interfaces());
            case EvidenceKind::kernel_log:
                return listing(guest_->kernel_log());
            case EvidenceKind::system:
                return text(json_of(guest_->info()));
            case EvidenceKind::machine_memory:
                return machine_memory();
        }
        return fail(Code::invalid_argument, "there is no such evidence");
    }

    // What is on the disk is what the hash is of.
    Result<void> seal() {
        if (::fsync(fd()) != 0) return fail(os_error("syncing evidence"));
        kept_.sha256 = crypto::to_hex(TRY(crypto::sha256_of_fd(fd(), most_bytes())));
        return {};
    }

    void add_gap(std::string text) {
        if (kept_.gaps.size() < limits::kMaxToldGaps) kept_.gaps.push_back(std::move(text));
    }

    // ---- lists

    Result<void> text(const std::string& text) {
        if (text.size() > most_bytes()) {
            return fail(Code::limit, fmt::format("its {} bytes are more than the {} that one file "
                                                 "of evidence may have",
                                                 text.size(), most_bytes()));
        }
        return write_at(fd(), as_bytes(text), 0);
    }

    template <typename T>
    Result<void> listing(Result<Listing<T>> listing) {
        if (!listing.has_value()) return fail(std::move(listing).error());
        if (listing->unreadable != 0) {
            add_gap(fmt::format("{} could not be read, the first: {}",
                                counted(listing->unreadable, "entry", "entries"),
                                listing->first_error));
        }
        return text(json_of(listing->items));
    }

    Result<void> process_calls() {
        const std::string& why_not = subject_.order.why_not_exact;
        if (!why_not.empty()) return fail(Code::unavailable, why_not);
        if (subject_.supervisor == nullptr) {
            return fail(Code::invalid_argument, "there is no supervisor of an exact trace");
        }
        ExactReport report;
        std::uint64_t bytes = 0, omitted = 0;
        const auto keep = [&](const ExactPart& part) -> Result<void> {
            for (const ExactCall& call : part.calls) {
                if (bytes < most_bytes()) bytes += json_of(call).size() + kIndentOfCall;
                if (bytes < most_bytes()) {
                    report.calls.push_back(call);
                } else {
                    ++omitted;
                }
            }
            if (part.finished) report.summary = part.summary;
            return {};
        };
        bytes = kSummaryBytes;
        TRY(trace_exactly(*guest_, &ram_, *subject_.supervisor, TRY(pid()),
                          {.begin = true, .for_ms = subject_.order.trace_ms}, keep));
        kept_.gaps = report.summary.gaps;
        if (omitted > 0) {
            add_gap(fmt::format("{} more: there was no room for them", counted(omitted, "call")));
        }
        if (report.summary.over_ceiling) add_gap("what came later: " + report.summary.ended);
        return text(json_of(report));
    }

    Result<void> process_trace() {
        ProcessTrace trace;
        auto parts = TRY(trace.begin(
            *guest_, &ram_,
            {.begin = true, .for_ms = subject_.order.trace_ms, .period_us = kTracePeriodUs},
            TRY(pid())));
        while (!parts.items.empty() && !parts.items.front().finished) {
            guest_->new_epoch();
            parts = TRY(trace.go_on(*guest_));
        }
        TraceReport report;
        for (TracePart& part : parts.items) report.add(std::move(part));
        kept_.gaps = report.summary.gaps;
        return text(json_of(report));
    }

    // ---- memory

    Result<std::uint32_t> pid() const {
        if (subject_.pid) return *subject_.pid;
        return fail(Code::invalid_argument, "no process was named");
    }

    Result<event::Task> task() {
        const std::uint32_t pid = TRY(this->pid());
        for (event::Task& task : guest_->tasks({.environment = false}, pid).items) {
            if (task.is_process()) return std::move(task);
        }
        return fail(Code::not_found, fmt::format("no process has the pid {}", pid));
    }

    Result<Process> process() {
        event::Task task = TRY(this->task());
        auto memory = TRY(guest_->user_memory().process(GuestVirt{task.address}, task.pid));
        if (memory) return Process{std::move(task), std::move(*memory)};
        return fail(Code::not_found,
                    fmt::format("{} (pid {}) has no memory of its own", task.comm, task.pid));
    }

    // As gcore(1) would write it; what is not in RAM is left out.
    Result<void> process_memory() {
        const Process process = TRY(this->process());
        const auto& areas = process.memory.areas;
        if (areas.unreadable != 0) {
            add_gap(fmt::format("{} of its mappings: {}", areas.unreadable, areas.first_error));
        }
        std::vector<CoreRun> runs;
        for (const UserMemory::Area& area : areas.items) {
            std::uint32_t rights = 0;
            for (const char right : area.vma.permissions) {
                rights |= right == 'r' ? PF_R : right == 'w' ? PF_W : right == 'x' ? PF_X : 0u;
            }
            if (!add_area(process.memory.space, area.vma, rights, runs)) break;
        }
        return core(runs, notes_of(process));
    }

    // False when there is room for nothing more.
    bool add_area(guest_linux::AddressSpace space, const event::Vma& area, std::uint32_t rights,
                  std::vector<CoreRun>& runs) {
        const std::string where = fmt::format("{:#x} to {:#x}", area.begin, area.end);
        std::uint64_t swapped = 0, unreadable = 0;
        bool room = true;
        for (GuestVirt at{area.begin}; room && at.value < area.end;) {
            const auto pages =
                guest_linux::present_pages(ram_, space, at, GuestVirt{area.end}, kPagesAtOnce);
            if (!pages.has_value()) {
                add_gap(fmt::format("{}: {}", where, pages.error().to_text()));
                break;
            }
            for (const PageRun& run : pages->runs) room = room && add_run(run, rights, runs);
            swapped += pages->swapped;
            unreadable += pages->unreadable;
            if (pages->next <= at) break;
            at = pages->next;
        }
        if (swapped != 0)
            add_gap(fmt::format("{}: {} swapped out", where, counted(swapped, "page")));
        if (unreadable != 0) {
            add_gap(fmt::format("{}: {} unreadable", where, counted(unreadable, "page table")));
        }
        if (!room) add_gap("what lies above " + where + ": it is more than may be kept");
        return room;
    }

    bool add_run(const PageRun& run, std::uint32_t rights, std::vector<CoreRun>& runs) {
        const CoreRun next{run.begin.value, run.phys, run.size_bytes, rights};
        if (runs.empty() || !next.follows(runs.back())) ++stretches_;
        core_bytes_ += run.size_bytes;
        if (stretches_ > kMaxStretches || core_bytes_ + kCoreOverheadBytes > most_bytes()) {
            return false;
        }
        runs.push_back(next);
        return true;
    }

    Result<void> core(const std::vector<CoreRun>& runs, Bytes notes) {
        const auto dump = TRY(guest_memory::write_elf_core(
            ram_, runs, notes, fd(), [](std::uint64_t, std::uint64_t) { return true; }));
        tell_missing(dump);
        return {};
    }

    void tell_missing(const ElfDump& dump) {
        if (dump.absent_pages != 0) {
            add_gap(counted(dump.absent_pages, "page") + " that the VMM does not hold: zeros");
        }
        if (dump.failed_pages != 0) {
            add_gap(fmt::format("{} could not be read: zeros; the first: {}",
                                counted(dump.failed_pages, "page"), dump.why));
        }
    }

    // As the kernel writes them (fs/binfmt_elf.c): NT_PRSTATUS of each thread, NT_PRPSINFO, and
    // NT_FILE by which debuggers find the files.
    std::vector<std::byte> notes_of(const Process& process) {
        const auto threads = thread_states(process.task);
        CoreNotes notes;
        if (!threads.empty()) notes.add(NT_PRSTATUS, &threads.front(), sizeof threads.front());
        const elf_prpsinfo info = process_info(process.task);
        notes.add(NT_PRPSINFO, &info, sizeof info);
        const std::string files = mapped_files(process);
        notes.add(NT_FILE, files.data(), files.size());
        for (std::size_t i = 1; i < threads.size(); ++i) {
            notes.add(NT_PRSTATUS, &threads[i], sizeof threads[i]);
        }
        return notes.take();
    }

    // Of those that are on no CPU, the first thread's first.
    std::vector<elf_prstatus> thread_states(const event::Task& process) {
        std::vector<elf_prstatus> states;
        const auto sampler = guest_->task_sampler(&ram_);
        if (!sampler.has_value()) {
            add_gap("the registers of its threads: " + sampler.error().to_text());
            return states;
        }
        bool all = false;
        std::vector<GuestVirt> tasks{GuestVirt{process.address}};
        const auto others = (*sampler)->threads_of(tasks.front(), all);
        if (!all) add_gap("the registers of its threads: not all threads could be listed");
        for (const GuestVirt task : others.value_or(std::vector<GuestVirt>{})) {
            if (task != tasks.front()) tasks.push_back(task);
        }
        for (const GuestVirt task : tasks) {
            const auto moment = (*sampler)->sample(task);
            if (!moment.has_value() || moment->tgid != process.pid) continue;
            if (moment->user) {
                states.push_back(thread_state(*moment));
            } else {
                add_gap(fmt::format("the registers of thread {}: {}", moment->pid,
                                    moment->activity == guest_linux::Activity::on_cpu
                                        ? "it was on a CPU, which alone has them"
                                        : moment->unknown));
            }
        }
        return states;
    }

    static elf_prstatus thread_state(const guest_linux::TaskMoment& moment) {
        constexpr std::uint64_t kUserCode = 0x33, kUserData = 0x2b;  // asm/segment.h
        // Numbers of registers in DWARF (System V ABI for x86-64, figure 3.36).
        enum : unsigned { kRax, kRdx, kRcx, kRbx, kRsi, kRdi };
        const guest_linux::UserRegisters& user = *moment.user;
        const auto of = [&](unsigned which) { return user.registers[which].value_or(0); };
        user_regs_struct registers{};
        registers.rax = of(kRax), registers.rbx = of(kRbx), registers.rcx = of(kRcx);
        registers.rdx = of(kRdx), registers.rsi = of(kRsi), registers.rdi = of(kRdi);
        registers.rbp = of(guest_linux::kDwarfRbp), registers.rsp = of(guest_linux::kDwarfRsp);
        registers.r8 = of(8), registers.r9 = of(9), registers.r10 = of(10), registers.r11 = of(11);
        registers.r12 = of(12), registers.r13 = of(13), registers.r14 = of(14);
        registers.r15 = of(15), registers.rip = user.code.value;
        registers.orig_rax = static_cast<std::uint64_t>(user.system_call);
        registers.cs = kUserCode, registers.ss = kUserData;
        elf_prstatus state{};
        state.pr_pid = static_cast<int>(moment.pid);
        static_assert(sizeof state.pr_reg == sizeof registers);
        std::memcpy(&state.pr_reg, &registers, sizeof registers);
        return state;
    }

    static elf_prpsinfo process_info(const event::Task& task) {
        elf_prpsinfo info{};
        info.pr_pid = static_cast<int>(task.pid);
        info.pr_ppid = static_cast<int>(task.ppid.value_or(0));
        std::memcpy(info.pr_fname, task.comm.data(),
                    std::min(task.comm.size(), sizeof info.pr_fname - 1));
        std::string words;
        for (const std::string& word : task.argv.value_or({})) words += word + ' ';
        std::memcpy(info.pr_psargs, words.data(),
                    std::min(words.size(), sizeof info.pr_psargs - 1));
        return info;
    }

    static std::string mapped_files(const Process& process) {
        std::vector<std::uint64_t> numbers{0, kPageSize};
        std::string names;
        for (const UserMemory::Area& area : process.memory.areas.items) {
            const event::Vma& vma = area.vma;
            if (!vma.path.starts_with('/') || names.size() > kMaxMappedNamesBytes) continue;
            numbers.insert(numbers.end(), {vma.begin, vma.end, vma.offset_bytes / kPageSize});
            names += vma.path.substr(0, vma.path.find('\0')) + '\0';
            ++numbers[0];
        }
        return std::string(reinterpret_cast<const char*>(numbers.data()), 8 * numbers.size()) +
               names;
    }

    // Pages of it that were never read are not in memory: zeros.
    Result<void> process_program() {
        const Process process = TRY(this->process());
        const std::string path = TRY(program_of(process.task));
        const auto& areas = process.memory.areas.items;
        const auto area = std::ranges::find_if(
            areas, [&](const UserMemory::Area& one) { return one.file && one.vma.path == path; });
        if (area == areas.end()) {
            return fail(Code::not_found, path.substr(0, kMaxToldPathBytes) +
                                             ": it does not map the program that it runs");
        }
        const std::uint64_t size = TRY(guest_->user_memory().file_bytes(area->file));
        if (size > most_bytes()) {
            return fail(Code::limit, fmt::format("{} bytes are more than may be kept", size));
        }
        const auto pages = TRY(guest_->user_memory().file_pages(area->file));
        std::uint64_t there = 0;
        std::vector<std::byte> page(kPageSize);
        for (const auto& [index, phys, count] : pages.runs) {
            for (std::uint64_t i = 0; i < count; ++i) {
                const std::uint64_t at = (index + i) * kPageSize;
                if (at >= size) break;
                if (!ram_.read(phys + i * kPageSize, page).has_value()) continue;
                TRY(write_at(fd(), Bytes(page).first(std::min(kPageSize, size - at)), at));
                ++there;
            }
        }
        if (::ftruncate(fd(), static_cast<off_t>(size)) != 0) {
            return fail(os_error("giving the program its length"));
        }
        const std::uint64_t all = (size + kPageSize - 1) / kPageSize;
        if (there < all) {
            add_gap(fmt::format("{} of its {} are not in the guest's memory: zeros", all - there,
                                counted(all, "page")));
        }
        return {};
    }

    static Result<std::string> program_of(const event::Task& task) {
        if (!task.exe.available()) return fail(Code::unavailable, task.exe.reason());
        if (task.exe.value().empty()) return fail(Code::not_found, "it runs no program");
        return task.exe.value();
    }

    Result<void> module_memory() {
        const std::string& name = subject_.order.module;
        const auto code = TRY(guest_->code_map());
        std::vector<CoreRun> runs;
        bool found = false, room = true;
        code.memory.for_each(
            [&](std::uint64_t begin, std::uint64_t end, const guest_linux::CodeOwner& owner) {
                if (owner.module != name || !room) return;
                found = true;
                room = add_kernel_pages(begin, end, runs);
            });
        if (!found) {
            return fail(Code::not_found,
                        "nothing in the kernel's records says where the module " + name + " lies");
        }
        if (!room) add_gap("it has more than may be kept");
        return core(runs, {});
    }

    bool add_kernel_pages(std::uint64_t begin, std::uint64_t end, std::vector<CoreRun>& runs) {
        for (std::uint64_t at = begin & kPageMask; at < end; at += kPageSize) {
            const auto place = guest_->kernel().memory().translate(GuestVirt{at});
            if (!place.has_value()) {
                add_gap(fmt::format("{:#x}: {}", at, place.error().to_text()));
            } else if (!add_run({GuestVirt{at}, place->phys, kPageSize}, PF_R | PF_W | PF_X,
                                runs)) {
                return false;
            }
        }
        return true;
    }

    Result<void> machine_memory() {
        if (ram_.ram_bytes() + kCoreOverheadBytes > most_bytes()) {
            return fail(Code::limit, fmt::format("its {} MiB are more than may be kept",
                                                 ram_.ram_bytes() >> 20));
        }
        const auto dump = TRY(guest_memory::write_elf_core(
            ram_, fd(), [](std::uint64_t, std::uint64_t) { return true; }));
        tell_missing(dump);
        return {};
    }

    Guest* guest_;
    GuestMemory& ram_;
    const EvidenceOutput& output_;
    const EvidenceSubject& subject_;
    KeptFile kept_;
    std::uint64_t core_bytes_ = 0, stretches_ = 0;
};

}  // namespace

std::string_view to_string(EvidenceKind kind) {
    switch (kind) {
        case EvidenceKind::process_memory:
            return "process_memory";
        case EvidenceKind::process_maps:
            return "process_maps";
        case EvidenceKind::process_files:
            return "process_files";
        case EvidenceKind::process_program:
            return "process_program";
        case EvidenceKind::process_calls:
            return "process_calls";
        case EvidenceKind::process_trace:
            return "process_trace";
        case EvidenceKind::module_memory:
            return "module_memory";
        case EvidenceKind::processes:
            return "processes";
        case EvidenceKind::sockets:
            return "sockets";
        case EvidenceKind::modules:
            return "modules";
        case EvidenceKind::mounts:
            return "mounts";
        case EvidenceKind::interfaces:
            return "interfaces";
        case EvidenceKind::kernel_log:
            return "kernel_log";
        case EvidenceKind::system:
            return "system";
        case EvidenceKind::machine_memory:
            return "machine_memory";
    }
    return "unknown";
}

KeptFile write_evidence(Guest* guest, const Error& why, GuestMemory& ram,
                        const EvidenceOutput& output, const EvidenceSubject& subject) {
    return Writer(guest, ram, output, subject).keep(why);
}

}  // namespace underseer::agent
