#include "agent/process_trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <unordered_map>

#include "agent/pace.h"

namespace underseer::agent {

namespace {

using guest_linux::Activity;
using guest_linux::Guest;
using guest_linux::SyscallArgument;
using guest_linux::TaskMoment;
using guest_linux::TaskSampler;
using guest_linux::UserPrograms;
using guest_linux::UserStack;
using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto kTraceStep = 1s;
// The period is longer where samples cost more than this of a core.
constexpr double kTraceShare = 0.1;
constexpr std::size_t kTracePartBytes = 128u << 10;
constexpr std::size_t kMaxFileTextBytes = 512;

std::uint64_t ns_of(Clock::duration time) {
    return static_cast<std::uint64_t>(std::chrono::nanoseconds(time).count());
}

// What makes two samples the same: all that is told of them.
class MomentKey {
  public:
    MomentKey(const TaskMoment& moment, const UserStack& user_stack) {
        add(static_cast<std::uint64_t>(state_of(moment)));
        if (moment.is_torn || moment.activity == Activity::on_cpu) return;
        add(moment.is_kernel_thread);
        if (const auto& user = moment.user) {
            add(static_cast<std::uint64_t>(user->system_call));
            add(user->is_compat);
            if (user->system_call >= 0) {
                for (const std::uint64_t argument : user->arguments) add(argument);
            }
        }
        for (const auto& frame : moment.stack.frames) add(frame.code.value), add(frame.is_guess);
        text_ += moment.stack.ended + moment.unknown;
        for (const auto& frame : user_stack.frames) add(frame.code.value);
        text_ += user_stack.ended;
    }
    std::string take() { return std::move(text_); }

    static ThreadState state_of(const TaskMoment& moment) {
        return moment.is_torn || moment.activity == Activity::on_cpu ? ThreadState::on_cpu
               : moment.activity == Activity::ready                  ? ThreadState::ready
                                                                     : ThreadState::waiting;
    }

  private:
    void add(std::uint64_t value) {
        text_.append(reinterpret_cast<const char*>(&value), sizeof value);
    }

    std::string text_;
};

ThreadMode mode_of(const TaskMoment& moment) {
    if (moment.is_torn || moment.activity == Activity::on_cpu) return ThreadMode::unknown;
    if (moment.is_kernel_thread) return ThreadMode::kernel;
    if (!moment.user) return moment.unknown.empty() ? ThreadMode::kernel : ThreadMode::unknown;
    if (moment.user->system_call >= 0) return ThreadMode::system_call;
    // What interrupts a program and makes it wait for a CPU only is a timer, or another's wakeup.
    return moment.activity == Activity::ready ? ThreadMode::user : ThreadMode::exception;
}

}  // namespace

std::string_view to_string(ThreadState state) {
    switch (state) {
        case ThreadState::on_cpu:
            return "on_cpu";
        case ThreadState::ready:
            return "ready";
        case ThreadState::waiting:
            return "waiting";
    }
    return "?";
}

std::string_view to_string(ThreadMode mode) {
    switch (mode) {
        case ThreadMode::unknown:
            return "unknown";
        case ThreadMode::user:
            return "user";
        case ThreadMode::system_call:
            return "system_call";
        case ThreadMode::exception:
            return "exception";
        case ThreadMode::kernel:
            return "kernel";
    }
    return "?";
}

class ProcessTrace::Look {
  public:
    static Result<std::unique_ptr<Look>> of(Guest& guest, guest_memory::GuestMemory* memory,
                                            const TraceOrder& order, std::uint32_t pid) {
        auto sampler = TRY(guest.task_sampler(memory));
        auto look = std::unique_ptr<Look>(
            new Look(std::move(sampler), guest.user_programs(memory), order, memory->live(), pid));
        const auto tasks = guest.tasks(kBrief, pid);
        if (tasks.unreadable != 0) look->add_gap("the list of tasks: " + tasks.first_error);
        for (const event::Task& task : tasks.items) {
            if (task.tgid != pid) continue;
            if (!task.is_process()) {
                look->listed_.push_back(GuestVirt{task.address});
                continue;
            }
            const auto moment = TRY(look->sampler_->sample(GuestVirt{task.address}));
            look->leader_ = GuestVirt{task.address};
            look->start_time_ = moment.start_time;
            look->summary_.comm = task.comm;
            look->summary_.start_time = task.start_time.value_or(0);
        }
        if (!look->leader_) return fail(Code::not_found, no_such(guest, pid));
        return look;
    }

    Listing<TracePart> go_on(Guest& guest) {
        const auto begun = Clock::now();
        looks_left_ = kLooksOfStep;
        memory_.reset();
        sampler_->forget();
        while (summary_.ended.empty() && Clock::now() - begun < kTraceStep) {
            round(guest);
            if (!summary_.ended.empty()) break;
            if (!live_) {
                summary_.ended = "an image is one moment";
            } else if (Clock::now() + period_ > end_) {
                pace_.sleep(std::max(end_ - Clock::now(), Clock::duration(0)));
                summary_.ended = "the time is over";
            } else {
                pace_.wait();
            }
        }
        summary_.duration_ns = live_ ? ns_of(Clock::now() - begun_) : 0;
        if (summary_.samples != 0) summary_.period_ns = summary_.duration_ns / summary_.samples;
        if (summary_.ended.empty()) return {{TracePart{.summary = summary_}}, 0, {}};
        return {tell(), 0, {}};
    }

    bool finished() const { return !summary_.ended.empty(); }

  private:
    static constexpr guest_linux::TaskDetail kBrief{
        .user_memory = false, .environment = false, .paths = false};

    struct Thread {
        GuestVirt task;
        TraceThread told;
        std::optional<TaskMoment> first, last;
        std::map<std::string, std::size_t> index;  // of told.moments, by their keys
        std::optional<std::size_t> now;            // of told.moments
        Clock::time_point at;
        std::uint64_t run_ns = 0;  // that it has been in it without a break
    };

    Look(std::unique_ptr<TaskSampler> sampler, UserPrograms programs, const TraceOrder& order,
         bool live, std::uint32_t pid)
        : sampler_(std::move(sampler)),
          programs_(std::move(programs)),
          live_(live),
          pid_(pid),
          period_(std::chrono::microseconds(order.period_us)),
          pace_(period_, kTraceShare),
          begun_(Clock::now()),
          end_(begun_ + std::chrono::milliseconds(order.for_ms)) {
        summary_.pid = pid;
    }

    static std::string no_such(Guest& guest, std::uint32_t pid) {
        for (const event::Task& task : guest.tasks(kBrief).items) {
            if (task.pid != pid) continue;
            return fmt::format("{} is a thread of process {} ({}): trace that", pid, task.tgid,
                               task.comm);
        }
        return fmt::format("no process has the pid {}", pid);
    }

    void add_gap(std::string text) {
        if (std::ranges::find(summary_.gaps, text) != summary_.gaps.end()) return;
        if (summary_.gaps.size() < limits::kMaxToldGaps) summary_.gaps.push_back(std::move(text));
    }

    void round(Guest& guest) {
        const auto now = Clock::now();
        if (last_round_) {
            summary_.longest_pause_ns =
                std::max(summary_.longest_pause_ns, ns_of(now - *last_round_));
        }
        last_round_ = now;
        if (!still_there(guest)) return;
        ++summary_.samples;
        std::vector<GuestVirt> tasks = listed_;
        bool all = false;
        if (const auto threads = sampler_->threads_of(leader_, all); threads.has_value()) {
            tasks.insert(tasks.end(), threads->begin(), threads->end());
            // A list in motion is read again in the next round.
            broken_lists_ = all ? 0 : broken_lists_ + 1;
        } else {
            ++broken_lists_;
        }
        if (broken_lists_ == kBrokenListIsBroken) {
            add_gap("its list of threads could not be read to its end");
        }
        tasks.push_back(leader_);
        std::ranges::sort(tasks);
        const auto [rest, end] = std::ranges::unique(tasks);
        tasks.erase(rest, end);
        for (const GuestVirt task : tasks) look_at(guest, task);
    }

    bool is_leader(const Result<TaskMoment>& moment) const {
        return moment.has_value() && moment->pid == pid_ && moment->tgid == pid_ &&
               moment->start_time == start_time_;
    }

    // The same process, by its start. Another thread of it becomes its first when it executes a
    // program: its address is another then.
    bool still_there(Guest& guest) {
        if (is_alive(sampler_->sample(leader_))) return true;
        // What is left of a task that is gone says nothing of who has its number now.
        guest.new_epoch();
        sampler_->forget();
        std::string name;
        for (const event::Task& task : guest.tasks(kBrief, pid_).items) {
            if (!task.is_process()) continue;
            leader_ = GuestVirt{task.address};
            name = task.comm;
        }
        const auto leader = sampler_->sample(leader_);
        if (is_alive(leader)) return true;
        if (!leader.has_value() && !name.empty()) {
            summary_.ended = "the process could not be read: " + leader.error().to_text();
            add_gap(summary_.ended);
            return false;
        }
        const bool is_another = !name.empty() && !is_leader(leader);
        return process_ended(is_another
                                 ? "the process has ended, and another has its pid now: " + name
                                 : "the process has ended");
    }

    // Its first thread may end before the others.
    bool is_alive(const Result<TaskMoment>& leader) {
        if (!is_leader(leader)) return false;
        if (leader->activity != Activity::ended) return true;
        bool all = false;
        const auto threads = sampler_->threads_of(leader_, all);
        return threads.has_value() && all && threads->size() > 1;
    }

    bool process_ended(std::string why) {
        summary_.process_ended = true;
        summary_.ended = std::move(why);
        return false;
    }

    void look_at(Guest& guest, GuestVirt task) {
        // What it was before, when it is the same task.
        Thread* known = nullptr;
        if (const auto found = by_task_.find(task); found != by_task_.end()) {
            known = &threads_.at(found->second);
        }
        const TaskMoment* before = known != nullptr && known->last ? &*known->last : nullptr;
        auto moment = sampler_->sample(task, before);
        const auto now = Clock::now();
        if (!moment.has_value()) {
            if (known != nullptr) leave(*known, now);
            return;
        }
        const bool is_same = known != nullptr && moment->pid == known->told.pid &&
                             moment->start_time == known->first->start_time;
        if (known != nullptr && !is_same) leave(*known, now);
        if (moment->tgid != pid_) return;
        if (!is_same) {
            known = open(task, *moment);
            if (known == nullptr) return;
        }
        if (moment->activity == Activity::ended) return leave(*known, now);
        UserStack user_stack;
        if (moment->user && !moment->is_unchanged) user_stack = user_stack_of(guest, task, *moment);
        take(guest, *known, std::move(*moment), std::move(user_stack), now);
    }

    UserStack user_stack_of(Guest& guest, GuestVirt task, TaskMoment& moment) {
        const bool is_known = memory_ == moment.mm;
        if (!is_known) look_at_memory(guest, task, moment.mm);
        UserStack stack = programs_.stack_of(*moment.user);
        // A library may have been loaded since.
        if (!stack.ended.empty() && is_known && looks_left_ != 0) {
            --looks_left_;
            look_at_memory(guest, task, moment.mm);
            stack = programs_.stack_of(*moment.user);
        }
        if (const auto after = sampler_->sample(task, &moment);
            !after.has_value() || !after->is_unchanged) {
            moment.user.reset();
            moment.stack = {};
            moment.is_torn = true;
            return {};
        }
        return stack;
    }

    void look_at_memory(Guest& guest, GuestVirt task, GuestVirt mm) {
        const auto begun = Clock::now();
        guest.new_epoch();
        memory_.reset();
        programs_.look_at(std::nullopt);
        auto process = guest.user_memory().process(task, pid_);
        // What is mapped may be in motion: stacks that end for that say so. An image stands still.
        const auto broken = [&](const std::string& why) {
            if (!live_ || ++broken_looks_ == kBrokenListIsBroken) add_gap("its mappings: " + why);
        };
        if (!process.has_value()) return broken(process.error().to_text());
        if (!*process) return;  // it is ending
        const auto& areas = (*process)->areas;
        if (areas.unreadable != 0) {
            broken(areas.first_error);
        } else {
            broken_looks_ = 0;
        }
        memory_ = mm;
        programs_.look_at(std::move(**process));
        if (Clock::now() - begun > kLongLook) looks_left_ = 0;
    }

    Thread* open(GuestVirt task, const TaskMoment& moment) {
        if (!threads_.contains(moment.pid) && threads_.size() == limits::kMaxTracedThreads) {
            add_gap(fmt::format("more than {} threads", limits::kMaxTracedThreads));
            return nullptr;
        }
        Thread& thread = threads_[moment.pid];
        thread.task = task;
        thread.told.pid = moment.pid;
        thread.told.ended = false;
        thread.first = moment;
        thread.last.reset();
        thread.now.reset();
        by_task_[task] = moment.pid;
        return &thread;
    }

    // What it has done until now is over.
    void leave(Thread& thread, Clock::time_point now) {
        credit(thread, now);
        thread.now.reset();
        thread.last.reset();
        thread.told.ended = true;
        by_task_.erase(thread.task);
    }

    void credit(Thread& thread, Clock::time_point now) {
        if (!thread.now) return;
        const std::uint64_t passed = ns_of(now - thread.at);
        TraceMoment& moment = thread.told.moments[*thread.now];
        moment.seen_ns += passed;
        thread.run_ns += passed;
        moment.longest_ns = std::max(moment.longest_ns, thread.run_ns);
    }

    void take(Guest& guest, Thread& thread, TaskMoment moment, UserStack user_stack,
              Clock::time_point now) {
        credit(thread, now);
        thread.at = now;
        TraceThread& told = thread.told;
        ++told.samples;
        told.comm = moment.comm;
        account(thread, moment);
        if (moment.is_torn) ++summary_.torn;
        const bool goes_on = moment.is_unchanged;
        if (!goes_on) thread.now = index_of(guest, thread, moment, user_stack);
        if (thread.now) {
            ++told.moments[*thread.now].samples;
        } else {
            ++summary_.omitted;
        }
        if (goes_on) {
            // Its stack is that of before.
            moment.user = thread.last->user;
            moment.stack = std::move(thread.last->stack);
            moment.unknown = std::move(thread.last->unknown);
            moment.is_unchanged = false;
        }
        thread.last = std::move(moment);
    }

    static void account(Thread& thread, const TaskMoment& moment) {
        const auto since = [](std::uint64_t now, std::uint64_t then) {
            return now > then ? now - then : 0;
        };
        thread.told.user_ns = since(moment.user_ns, thread.first->user_ns);
        thread.told.system_ns = since(moment.system_ns, thread.first->system_ns);
        thread.told.switches = since(moment.switches, thread.first->switches);
    }

    std::optional<std::size_t> index_of(Guest& guest, Thread& thread, const TaskMoment& moment,
                                        const UserStack& user_stack) {
        std::string key = MomentKey(moment, user_stack).take();
        const auto known = thread.index.find(key);
        if (known != thread.index.end()) {
            // It may have left its CPU and come back: then this is another stay. While it is on one
            // nobody can tell.
            const bool stays = known->second == thread.now && moment.activity == Activity::on_cpu &&
                               thread.last && thread.last->switches == moment.switches;
            if (!stays) thread.run_ns = 0;
            return known->second;
        }
        thread.run_ns = 0;
        if (moments_ == limits::kMaxTracedMoments || moment_bytes_ > limits::kMaxToldMomentBytes) {
            return std::nullopt;
        }
        ++moments_;
        thread.told.moments.push_back(describe(guest, thread.task, moment, user_stack));
        moment_bytes_ += event::encode(thread.told.moments.back()).size();
        thread.index.emplace(std::move(key), thread.told.moments.size() - 1);
        return thread.told.moments.size() - 1;
    }

    TraceMoment describe(Guest& guest, GuestVirt task, const TaskMoment& moment,
                         const UserStack& user_stack) {
        TraceMoment told{.state = MomentKey::state_of(moment), .mode = mode_of(moment)};
        const auto none = [&](std::string why) {
            told.call = event::Observed<TraceCall>::unavailable(why);
            told.user_stack_ended = std::move(why);
        };
        if (told.mode == ThreadMode::unknown && moment.unknown.empty()) {
            none("it was on a CPU, which alone knows where");
            return told;
        }
        guest.new_epoch();
        for (const auto& frame : moment.stack.frames) {
            auto place = sampler_->tables().place_of(frame.code);
            told.stack.push_back({.address = frame.code.value,
                                  .symbol = std::move(place.symbol),
                                  .module = std::move(place.module),
                                  .is_guess = frame.is_guess});
        }
        if (told.mode == ThreadMode::user && std::ranges::any_of(told.stack, is_of_fault)) {
            told.mode = ThreadMode::exception;
        }
        told.stack_ended = moment.unknown.empty() ? moment.stack.ended : moment.unknown;
        if (!moment.user) {
            none(told.mode == ThreadMode::kernel
                     ? "it has no place in user space"
                     : "no registers of user space are saved: " + told.stack_ended);
            return told;
        }
        for (const auto& frame : user_stack.frames) told.user_stack.push_back(tell_frame(frame));
        told.user_stack_ended = user_stack.ended;
        if (programs_.is_cut()) add_gap("its programs have more symbols than are kept");
        if (moment.user->system_call < 0) {
            told.call = event::Observed<TraceCall>::unavailable("it was in no system call");
        } else {
            told.call = call_of(guest, task, *moment.user);
        }
        return told;
    }

    // It has waited for a page, and is to go on.
    static bool is_of_fault(const TraceFrame& frame) {
        return frame.symbol.starts_with("exc_page_fault") ||
               frame.symbol.starts_with("do_user_addr_fault") ||
               frame.symbol.starts_with("handle_mm_fault");
    }

    TraceCall call_of(Guest& guest, GuestVirt task, const guest_linux::UserRegisters& user) {
        // Of x32, which are numbered as the others (arch/x86/include/uapi/asm/unistd.h).
        constexpr std::uint32_t kX32Bit = 0x40000000;
        TraceCall call{.number = static_cast<std::uint32_t>(user.system_call),
                       .is_compat = user.is_compat};
        const std::uint32_t number = call.number & ~kX32Bit;
        if (!call.is_compat) call.name = guest_linux::syscall_name(number);
        const std::vector<SyscallArgument>* shape = nullptr;
        if (!call.is_compat && !call.name.empty()) shape = shape_of(guest, number);
        const std::size_t count = shape == nullptr ? user.arguments.size() : shape->size();
        for (std::size_t i = 0; i < count; ++i) {
            TraceArgument argument{.value = user.arguments[i]};
            if (shape != nullptr) {
                argument.name = (*shape)[i].name;
                if ((*shape)[i].is_file_descriptor()) {
                    argument.file = file_of(guest, task, argument.value);
                }
            }
            call.arguments.push_back(std::move(argument));
        }
        return call;
    }

    const std::vector<SyscallArgument>* shape_of(Guest& guest, std::uint32_t number) {
        const auto [place, is_new] = shapes_.try_emplace(number);
        if (is_new) {
            auto shape = guest_linux::syscall_arguments(guest.kernel(), number);
            if (shape.has_value()) place->second = std::move(*shape);
        }
        return place->second ? &*place->second : nullptr;
    }

    static std::string file_of(Guest& guest, GuestVirt task, std::uint64_t value) {
        const auto fd = static_cast<std::int32_t>(value);
        if (fd < 0) return {};
        auto file = guest.open_file(task, static_cast<std::uint32_t>(fd));
        return file.has_value() ? file->path.substr(0, kMaxFileTextBytes) : "";
    }

    TraceUserFrame tell_frame(const guest_linux::UserFrame& frame) {
        auto place = programs_.place_of(frame);
        return {.address = frame.code.value,
                .symbol = std::move(place.symbol),
                .file = place.file.substr(0, kMaxFileTextBytes),
                .offset_bytes = place.offset_bytes,
                .by_frame_pointer = frame.by_frame_pointer};
    }

    // In parts of which each is a frame; a thread with many moments goes on in the next.
    std::vector<TracePart> tell() {
        const auto now = Clock::now();
        std::vector<TracePart> parts{{.finished = true, .summary = summary_}};
        std::size_t bytes = 0;
        for (auto& [pid, thread] : threads_) {
            credit(thread, now);
            std::ranges::stable_sort(thread.told.moments, std::greater{}, &TraceMoment::samples);
            auto moments = std::exchange(thread.told.moments, {});
            parts.back().threads.push_back(thread.told);
            for (TraceMoment& moment : moments) {
                bytes += event::encode(moment).size();
                if (bytes > kTracePartBytes) {
                    parts.push_back({.finished = true, .summary = summary_});
                    parts.back().threads.push_back(thread.told);
                    bytes = 0;
                }
                parts.back().threads.back().moments.push_back(std::move(moment));
            }
        }
        return parts;
    }

    // Lists that end in nothing for so many rounds do not do so because they change.
    static constexpr unsigned kBrokenListIsBroken = 8;

    // Further looks at what is mapped, because a stack ended early: some always do.
    static constexpr unsigned kLooksOfStep = 4;
    static constexpr auto kLongLook = 20ms;

    std::unique_ptr<TaskSampler> sampler_;
    UserPrograms programs_;
    bool live_;
    std::uint32_t pid_;
    std::uint64_t start_time_ = 0;
    GuestVirt leader_;
    std::vector<GuestVirt> listed_;  // threads that any of the kernel's lists showed at the begin
    Clock::duration period_;
    Pace pace_;
    Clock::time_point begun_, end_;
    std::optional<Clock::time_point> last_round_;
    unsigned broken_lists_ = 0, broken_looks_ = 0;
    std::map<std::uint32_t, Thread> threads_;
    std::unordered_map<GuestVirt, std::uint32_t> by_task_;
    std::size_t moments_ = 0, moment_bytes_ = 0;
    std::map<std::uint32_t, std::optional<std::vector<SyscallArgument>>> shapes_;
    std::optional<GuestVirt> memory_;  // that was looked at in this step
    unsigned looks_left_ = 0;          // again, in this step
    TraceSummary summary_;
};

ProcessTrace::ProcessTrace() = default;
ProcessTrace::~ProcessTrace() = default;

Result<ProcessTrace::Listing<TracePart>> ProcessTrace::begin(Guest& guest,
                                                             guest_memory::GuestMemory* memory,
                                                             const TraceOrder& order,
                                                             std::optional<std::uint32_t> pid) {
    if (!pid || order.for_ms < kMinTraceMs || order.for_ms > kMaxTraceMs ||
        order.period_us < kMinTracePeriodUs || order.period_us > kMaxTracePeriodUs) {
        return fail(Code::invalid_argument, "this is no way to trace");
    }
    look_.reset();
    look_ = TRY(Look::of(guest, memory, order, *pid));
    return go_on(guest);
}

Result<ProcessTrace::Listing<TracePart>> ProcessTrace::go_on(Guest& guest) {
    if (!look_) {
        return fail(Code::unavailable,
                    "no trace has been begun, or the guest has booted anew since");
    }
    auto parts = look_->go_on(guest);
    if (look_->finished()) look_.reset();
    return parts;
}

void ProcessTrace::leave_guest() {
    look_.reset();
}

}  // namespace underseer::agent
