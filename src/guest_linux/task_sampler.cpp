#include "guest_linux/task_sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "guest_linux/tasks.h"

namespace underseer::guest_linux {

namespace {

constexpr std::uint64_t kMaxSampledTaskBytes = 64u << 10;
constexpr std::uint64_t kUsualStackBytes = 16u << 10;
constexpr std::uint64_t kTsCompat = 2;  // TS_COMPAT, arch/x86/include/asm/thread_info.h

// include/linux/sched.h: bits of __state and exit_state, the same from 5.10 to 7.2.
struct StateLetter {
    std::uint64_t bit;
    char letter;
};
constexpr StateLetter kStateLetters[] = {
    {0x01, 'S'}, {0x02, 'D'}, {0x04, 'T'}, {0x08, 't'}, {0x40, 'P'}};
constexpr std::uint64_t kNoLoad = 0x400, kIdle = kNoLoad | 0x02;
constexpr std::uint64_t kZombie = 0x20;

char letter_of(std::uint64_t state, std::uint64_t exit_state) {
    if (exit_state != 0) return (exit_state & kZombie) != 0 ? 'Z' : 'X';
    if ((state & kIdle) == kIdle) return 'I';
    for (const StateLetter& one : kStateLetters) {
        if ((state & one.bit) != 0) return one.letter;
    }
    return state == 0 ? 'R' : 'D';
}

}  // namespace

TaskSampler::TaskSampler(Kernel* kernel, guest_memory::GuestMemory* memory)
    : kernel_(kernel), live_(memory, kernel->image().space) {
    const Kernel& k = *kernel;
    const auto of_task = [&](std::initializer_list<std::string_view> names) {
        return k.field("task_struct", names);
    };
    f_ = {.pid = of_task({"pid"}),
          .tgid = of_task({"tgid"}),
          .start = of_task({"start_boottime", "real_start_time"}),
          .state = of_task({"__state", "state"}),
          .exit_state = of_task({"exit_state"}),
          .flags = of_task({"flags"}),
          .on_cpu = of_task({"on_cpu"}),
          .on_rq = of_task({"on_rq"}),
          .delayed = of_task({"se.sched_delayed"}),
          .voluntary = of_task({"nvcsw"}),
          .involuntary = of_task({"nivcsw"}),
          .stack = of_task({"stack"}),
          .sp = of_task({"thread.sp"}),
          .user_time = of_task({"utime"}),
          .system_time = of_task({"stime"}),
          .comm = of_task({"comm"}),
          .thread_status = of_task({"thread_info.status"}),
          .signal = of_task({"signal"}),
          .thread_node = of_task({"thread_node"}),
          .mm = of_task({"mm"}),
          .thread_head = k.field("signal_struct", "thread_head"),
          .frame_bp = k.field("inactive_task_frame", "bp"),
          .frame_code = k.field("inactive_task_frame", "ret_addr")};
}

Result<std::unique_ptr<TaskSampler>> TaskSampler::of(Kernel* kernel,
                                                     guest_memory::GuestMemory* memory) {
    auto sampler = std::unique_ptr<TaskSampler>(new TaskSampler(kernel, memory));
    const auto& f = sampler->f_;
    TRY(kernel->require_types());
    TRY(kernel->require({f.pid,    f.tgid,        f.start,       f.state,       f.exit_state,
                         f.flags,  f.on_cpu,      f.on_rq,       f.voluntary,   f.involuntary,
                         f.stack,  f.sp,          f.user_time,   f.system_time, f.comm,
                         f.signal, f.thread_node, f.thread_head, f.frame_bp,    f.frame_code,
                         f.mm}));
    std::uint64_t bytes = 0;
    for (const Field& field :
         {f.pid, f.tgid, f.start, f.state, f.exit_state, f.flags, f.on_cpu, f.on_rq, f.delayed,
          f.voluntary, f.involuntary, f.stack, f.sp, f.user_time, f.system_time, f.comm, f.signal,
          f.thread_status, f.mm}) {
        if (field.known()) bytes = std::max(bytes, field.offset + field.size_bytes);
    }
    if (bytes > kMaxSampledTaskBytes) return fail(Code::malformed, "a task_struct is too long");
    sampler->bytes_.resize(bytes);
    const std::uint64_t stack_bytes = kernel->size_of("thread_union");
    sampler->stack_bytes_ = stack_bytes == 0 ? kUsualStackBytes : stack_bytes;
    if (sampler->stack_bytes_ > limits::kMaxKernelStackBytes) {
        return fail(Code::limit, fmt::format("kernel stacks of {} bytes", stack_bytes));
    }
    sampler->tables_.emplace(TRY(UnwindTables::of(kernel, &sampler->live_)));
    UnwindTables* tables = &*sampler->tables_;
    sampler->unwind_by_ = {.is_code = [tables](GuestVirt at) { return tables->is_code(at); },
                           .find = [tables](GuestVirt code) { return tables->find(code); }};
    return sampler;
}

void TaskSampler::forget() {
    live_.forget();
    kernel_->forget();
    tables_->load_modules();
}

// The members of one moment: a task_struct is copied at once.
Result<TaskMoment> TaskSampler::read_members(GuestVirt task) {
    TRY(live_.read(task, bytes_));
    const auto member = [&](const Field& field) {
        std::uint64_t value = 0;
        if (!field.known()) return value;
        std::memcpy(&value, bytes_.data() + field.offset,
                    std::min<std::size_t>(field.size_bytes, 8));
        return value;
    };
    TaskMoment moment;
    moment.pid = static_cast<std::uint32_t>(member(f_.pid));
    moment.tgid = static_cast<std::uint32_t>(member(f_.tgid));
    if (moment.pid > kPidMaxLimit || moment.tgid > kPidMaxLimit) {
        return fail(Code::unavailable, fmt::format("{:#x} holds no task", task.value));
    }
    moment.start_time = member(f_.start);
    moment.mm = GuestVirt{member(f_.mm)};
    moment.is_kernel_thread = (member(f_.flags) & kPfKthread) != 0;
    moment.state = letter_of(member(f_.state), member(f_.exit_state));
    // Since 6.12 one that waits may stay in its queue until its share of time has come.
    const bool is_queued = member(f_.on_rq) != 0 && member(f_.delayed) == 0;
    moment.activity = moment.state == 'Z' || moment.state == 'X' ? Activity::ended
                      : member(f_.on_cpu) != 0                   ? Activity::on_cpu
                      : is_queued                                ? Activity::ready
                                                                 : Activity::waiting;
    moment.switches = member(f_.voluntary) + member(f_.involuntary);
    moment.user_ns = member(f_.user_time);
    moment.system_ns = member(f_.system_time);
    const auto name = as_text(Bytes(bytes_).subspan(f_.comm.offset, f_.comm.size_bytes));
    moment.comm = name.substr(0, name.find('\0'));
    stack_ = GuestVirt{member(f_.stack)};
    signal_ = GuestVirt{member(f_.signal)};
    sp_ = member(f_.sp);
    compat_call_ = (member(f_.thread_status) & kTsCompat) != 0;
    return moment;
}

// A task that does not run stays as it is: it has not run meanwhile where it has been switched away
// from no more often, and is on no CPU before and after.
Result<TaskMoment> TaskSampler::sample(GuestVirt task, const TaskMoment* before) {
    TaskMoment moment = TRY(read_members(task));
    if (moment.activity == Activity::on_cpu || moment.activity == Activity::ended) return moment;
    const auto same = [](const TaskMoment& one, const TaskMoment& other) {
        return one.pid == other.pid && one.start_time == other.start_time &&
               one.switches == other.switches && one.activity == other.activity;
    };
    if (before != nullptr && !before->is_torn && same(*before, moment)) {
        moment.is_unchanged = true;
        return moment;
    }
    // Stacks are mapped anew for each task.
    live_.forget();
    const auto read = read_stack(moment);
    const std::uint64_t sp = sp_;
    const auto after = read_members(task);
    if (!after.has_value() || !same(moment, *after) || sp != sp_) {
        moment.user.reset();
        moment.stack = {};
        moment.is_torn = true;
    } else if (!read.has_value()) {
        moment.unknown = read.error().to_text();
    }
    return moment;
}

Result<void> TaskSampler::read_stack(TaskMoment& moment) {
    if (sp_ < stack_.value || sp_ - stack_.value >= stack_bytes_ || sp_ % 8 != 0 ||
        stack_.value > ~std::uint64_t{0} - stack_bytes_) {
        return fail(
            Code::malformed,
            fmt::format("its stack pointer {:#x} is not on its stack at {:#x}", sp_, stack_.value));
    }
    StackCopy copy{.begin = GuestVirt{sp_}, .bytes = {}};
    copy.bytes.resize(stack_bytes_ - (sp_ - stack_.value));
    TRY(live_.read(copy.begin, copy.bytes));
    // struct inactive_task_frame (arch/x86/include/asm/switch_to.h): what __switch_to_asm() pushes.
    const std::uint64_t code_at = sp_ + f_.frame_code.offset;
    StackStart start{.code = GuestVirt{TRY(copy.word(code_at))},
                     .sp = code_at + 8,
                     .bp = TRY(copy.word(sp_ + f_.frame_bp.offset))};
    const auto symbol = kernel_->symbols().nearest(start.code);
    start.is_new = symbol && symbol->address == start.code;
    moment.stack = walk_stack(copy, start, unwind_by_);
    if (moment.is_kernel_thread) return {};
    const auto user = read_user_registers(copy, compat_call_);
    // A thread that the kernel made for a process has the registers of nobody there; its stack
    // begins in the kernel.
    const bool begins_in_kernel = moment.stack.ended.empty() && !moment.stack.user_registers;
    if (user && !begins_in_kernel) moment.user = user;
    return {};
}

Result<std::vector<GuestVirt>> TaskSampler::threads_of(GuestVirt task, bool& all) {
    TRY(read_members(task));
    const GuestVirt head = signal_ + f_.thread_head.offset;
    std::vector<GuestVirt> threads;
    CircleGuard circle;
    all = false;
    for (GuestVirt node = TRY(live_.read<GuestVirt>(head)); node != head;
         node = TRY(live_.read<GuestVirt>(node))) {
        if (threads.size() == limits::kMaxTracedThreads || circle.closes_at(node)) return threads;
        threads.push_back(node - f_.thread_node.offset);
    }
    all = true;
    return threads;
}

}  // namespace underseer::guest_linux
