#include "agent/exact_trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "agent/function_calls.h"
#include "event/wire.h"

namespace underseer::agent {

namespace {

using guest_linux::Guest;
using guest_linux::Pointee;
using guest_linux::SyscallArgument;
using guest_linux::SyscallEntry;
using guest_linux::UserRegisters;
using guest_linux::VirtualMemory;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kShownDataBytes = 32;  // of what is read and written, as strace does
constexpr unsigned kDwarfRax = 0;
constexpr std::size_t kCallsOfPart = 8;  // their strings may be long

std::uint64_t ns_since(Clock::time_point begin) {
    return static_cast<std::uint64_t>(std::chrono::nanoseconds(Clock::now() - begin).count());
}

class Tracer {
  public:
    static Result<Tracer> of(Guest& guest, guest_memory::GuestMemory* memory, std::uint32_t pid,
                             const std::vector<std::string>& functions, const TellExact& tell) {
        Tracer tracer(&guest, TRY(SyscallEntry::of(&guest.kernel(), memory)), pid, &tell);
        tracer.signs_ = TRY(guest_linux::read_vital_signs(guest.kernel()));
        tracer.f_ = {.signal = guest.kernel().field("task_struct", "signal"),
                     .mm = guest.kernel().field("task_struct", "mm"),
                     .exit_state = guest.kernel().field("task_struct", "exit_state")};
        for (const event::Task& task : guest.tasks(kNoDetail, pid).items) {
            if (!task.is_process()) continue;
            tracer.summary_.comm = task.comm;
            tracer.summary_.start_time = task.start_time.value_or(0);
            tracer.leader_ = GuestVirt{task.address};
            tracer.signal_ = TRY(guest.kernel().read_pointer(tracer.leader_, tracer.f_.signal));
        }
        if (!tracer.signal_) {
            return fail(Code::not_found, fmt::format("no process has the pid {}", pid));
        }
        if (!functions.empty()) {
            tracer.mm_ = TRY(guest.kernel().read_pointer(tracer.leader_, tracer.f_.mm));
            tracer.functions_ =
                TRY(FunctionCalls::of(&guest, memory, tracer.leader_, pid, functions));
            tracer.summary_.functions = tracer.functions_->names();
            tracer.summary_.gaps = tracer.functions_->gaps();
        }
        return tracer;
    }

    Result<void> run(jail::Channel& supervisor, std::uint32_t for_ms) {
        BreakpointOrder start{.for_ms = for_ms, .insert = {entry_.address().value}};
        if (functions_) start.insert = functions_->breakpoints();
        TRY(supervisor.send(event::encode(start)));
        begun_ = Clock::now();
        for (;;) {
            auto received = supervisor.receive();
            if (!received.has_value()) {
                return fail(Code::unavailable, "the supervisor of the breakpoints has ended");
            }
            const std::string frame = std::move(*received);
            const auto event = TRY(event::decode<BreakpointEvent>(as_bytes(frame)));
            if (event.kind == BreakpointEvent::Kind::ended) return finish(event.report);
            BreakpointOrder order;
            if (event.kind == BreakpointEvent::Kind::hit) {
                functions_ ? take_function(event, order) : take(event, order);
            } else {
                look_around(order);
            }
            if (order.end.empty()) order.end = std::exchange(over_, {});
            // One that is over does not listen any more, and has said why.
            (void)supervisor.send(event::encode(order));
            // The guest goes on meanwhile.
            if (!part_.calls.empty() || !has_told_begin_) {
                if (!std::exchange(has_told_begin_, true)) part_.summary = summary_;
                if (functions_) functions_->name_callers(part_.calls);
                if (auto told = (*tell_)(std::exchange(part_, {})); !told.has_value()) {
                    over_ = told.error().to_text();
                }
            }
        }
    }

  private:
    static constexpr guest_linux::TaskDetail kNoDetail{
        .user_memory = false, .environment = false, .paths = false};

    struct Pending {
        ExactCall call;
        Clock::time_point at;
        GuestVirt code;  // where the program will go on
        const std::vector<SyscallArgument>* shape = nullptr;
    };

    Tracer(Guest* guest, SyscallEntry entry, std::uint32_t pid, const TellExact* tell)
        : guest_(guest), entry_(std::move(entry)), tell_(tell) {
        summary_.pid = pid;
    }

    void add_gap(std::string text) {
        if (std::ranges::find(summary_.gaps, text) != summary_.gaps.end()) return;
        if (summary_.gaps.size() < limits::kMaxToldGaps) summary_.gaps.push_back(std::move(text));
    }

    // ---- hits

    void take(const BreakpointEvent& hit, BreakpointOrder& order) {
        entry_.forget();
        const bool enters = GuestVirt{hit.rip} == entry_.address();
        if (enters && !return_) {
            const auto address = entry_.return_address(hit.rsp);
            if (!address.has_value()) {
                order.end =
                    "where system calls return to could not be read: " + address.error().to_text();
                return;
            }
            return_ = *address;
            order.insert.push_back(return_->value);
        }
        if (!enters && (!return_ || GuestVirt{hit.rip} != *return_)) return;
        const auto caller = entry_.caller(hit.gs_base);
        if (!caller.has_value()) {
            add_gap("who makes a call: " + caller.error().to_text());
            return;
        }
        // Both: the structure of a process that has ended may be another's in no time.
        if (caller->signal != signal_ || caller->tgid != summary_.pid) {
            ++summary_.others;
            return;
        }
        const GuestVirt at =
            enters ? SyscallEntry::registers_at_entry(hit.rsp) : GuestVirt{hit.rsp};
        const auto user = entry_.registers(at);
        if (!user.has_value()) {
            add_gap("the registers of a call: " + user.error().to_text());
            return;
        }
        VirtualMemory memory = entry_.program(hit.cr3);
        if (enters) {
            enter(*caller, *user, memory);
        } else {
            leave(*caller, *user, memory);
        }
    }

    void take_function(const BreakpointEvent& hit, BreakpointOrder& order) {
        entry_.forget();
        // A program's code has a GS base of its own.
        const bool is_kernels = hit.rip >> 63 != 0;
        const auto caller = entry_.caller(is_kernels ? hit.gs_base : hit.kernel_gs_base);
        if (!caller.has_value()) return add_gap("who makes a call: " + caller.error().to_text());
        if (caller->signal != signal_ || caller->tgid != summary_.pid) {
            ++summary_.others;
            return;
        }
        const std::size_t before = part_.calls.size();
        functions_->take(hit, *caller, entry_.program(hit.cr3), ns_since(begun_), order,
                         part_.calls);
        count_told(part_.calls.size() - before);
    }

    void enter(const SyscallEntry::Caller& caller, const UserRegisters& user,
               VirtualMemory& memory) {
        if (const auto before = pending_.find(caller.task); before != pending_.end()) {
            // CPUs that are stopped at the same time may be met at their breakpoint twice.
            if (before->second.code == user.code && before->second.call.number == number_of(user)) {
                return;
            }
            tell_unreturned(before->second, "it did not return by the usual way");
            pending_.erase(before);
        }
        add_known(caller.task);
        Pending pending = begin_call(caller, user);
        describe(pending, memory, /*returned=*/false);
        if (pending.call.name == "exit" || pending.call.name == "exit_group") {
            tell_unreturned(pending, "it does not return");
            return;
        }
        if (pending_.size() == limits::kMaxPendingCalls) {
            add_gap(fmt::format("more than {} calls at a time", limits::kMaxPendingCalls));
            return;
        }
        pending_.emplace(caller.task, std::move(pending));
    }

    void leave(const SyscallEntry::Caller& caller, const UserRegisters& user,
               VirtualMemory& memory) {
        Pending pending;
        const auto found = pending_.find(caller.task);
        const bool was_seen = found != pending_.end();
        if (was_seen) {
            pending = std::move(found->second);
            pending_.erase(found);
        } else {
            // It began before the trace did, and its arguments are saved as they were; or it has
            // been told.
            if (user.system_call < 0 || !add_known(caller.task)) return;
            pending = begin_call(caller, user);
            pending.call.at_ns = 0;
        }
        ExactCall& call = pending.call;
        if (was_seen) call.duration_ns = ns_since(pending.at);
        const bool moves =
            call.name == "execve" || call.name == "execveat" || call.name == "rt_sigreturn";
        const auto result = static_cast<std::int64_t>(user.registers[kDwarfRax].value_or(0));
        if (was_seen && !moves && user.code != pending.code) {
            // What it returns then is in the frame of the signal, or it is made once more
            // (arch_do_signal_or_restart() in arch/x86/kernel/signal.c).
            call.result = event::Observed<std::int64_t>::unavailable(
                user.code + 2 == pending.code ? "a signal came, and it begins anew"
                                              : "a signal's handler runs first");
        } else {
            call.result = result;
            if (result < 0) call.error = guest_linux::error_name(-result);
        }
        describe(pending, memory, /*returned=*/true);
        tell(std::move(call));
    }

    // Whether it is seen for the first time.
    bool add_known(GuestVirt task) {
        return known_.size() < limits::kMaxPendingCalls && known_.insert(task).second;
    }

    static std::uint32_t number_of(const UserRegisters& user) {
        return static_cast<std::uint32_t>(user.system_call);
    }

    Pending begin_call(const SyscallEntry::Caller& caller, const UserRegisters& user) {
        // Of x32, which are numbered as the others (arch/x86/include/uapi/asm/unistd.h).
        constexpr std::uint32_t kX32 = 0x40000000;
        Pending pending;
        pending.at = Clock::now();
        pending.code = user.code;
        ExactCall& call = pending.call;
        call.at_ns = ns_since(begun_);
        call.pid = caller.pid;
        call.number = number_of(user);
        call.name = guest_linux::syscall_name(call.number & ~kX32);
        pending.shape = call.name.empty() ? nullptr : shape_of(call.number & ~kX32);
        const std::size_t count = pending.shape ? pending.shape->size() : user.arguments.size();
        for (std::size_t i = 0; i < count; ++i) {
            call.arguments.push_back({.name = pending.shape ? (*pending.shape)[i].name : "",
                                      .value = user.arguments[i]});
        }
        return pending;
    }

    const std::vector<SyscallArgument>* shape_of(std::uint32_t number) {
        const auto [place, is_new] = shapes_.try_emplace(number);
        if (is_new) {
            auto shape = guest_linux::syscall_arguments(guest_->kernel(), number);
            if (shape.has_value()) place->second = std::move(*shape);
        }
        return place->second ? &*place->second : nullptr;
    }

    // ---- arguments

    // What they mean, as far as that is not known yet: a page that the program has not touched
    // before is there when the call has returned.
    void describe(Pending& pending, VirtualMemory& memory, bool returned) {
        ExactCall& call = pending.call;
        if (pending.shape == nullptr) return;
        for (std::size_t i = 0; i < call.arguments.size(); ++i) {
            ExactArgument& argument = call.arguments[i];
            if (!argument.text.empty()) continue;
            const SyscallArgument& shape = (*pending.shape)[i];
            argument.text = guest_linux::value_text(call.name, shape, argument.value);
            if (!argument.text.empty() || argument.value == 0) continue;
            const Pointee pointee = guest_linux::pointee_of(call.name, shape, i);
            auto text = read_pointee(call, pointee, argument.value, memory, returned);
            if (text.has_value()) {
                argument.text = std::move(*text);
            } else if (returned) {
                add_gap(fmt::format("what {} of {} points to: {}", shape.name, call.name,
                                    text.error().to_text()));
            }
        }
    }

    Result<std::string> read_pointee(const ExactCall& call, Pointee pointee, std::uint64_t at,
                                     VirtualMemory& memory, bool returned) {
        using Kind = Pointee::Kind;
        const GuestVirt from{at};
        const auto length = [&] {
            return pointee.length < call.arguments.size() ? call.arguments[pointee.length].value
                                                          : 0;
        };
        switch (pointee.kind) {
            case Kind::nothing_known:
                return std::string();
            case Kind::string:
                return read_string(memory, from);
            case Kind::strings:
                return read_strings(memory, from);
            case Kind::bytes:
                return read_bytes(memory, from, length());
            case Kind::result_bytes: {
                const std::int64_t result = call.result.value_or(-1);
                if (!returned || result < 0) return std::string();
                return read_bytes(memory, from, std::min(length(), std::uint64_t(result)));
            }
            case Kind::time: {
                std::array<std::byte, 16> bytes;
                TRY(memory.read(from, bytes));
                return guest_linux::time_text(bytes);
            }
            case Kind::socket_address: {
                constexpr std::uint64_t kLongestAddress = 128;  // struct sockaddr_storage
                std::vector<std::byte> bytes(std::min(length(), kLongestAddress));
                TRY(memory.read(from, bytes));
                return guest_linux::socket_address_text(bytes);
            }
        }
        return std::string();
    }

    static Result<std::string> read_string(VirtualMemory& memory, GuestVirt from) {
        const std::string text = TRY(memory.read_cstring(from, limits::kMaxExactStringBytes));
        return guest_linux::quoted(text, text.size() == limits::kMaxExactStringBytes);
    }

    static Result<std::string> read_strings(VirtualMemory& memory, GuestVirt from) {
        std::string all = "[";
        for (std::size_t i = 0;; ++i) {
            const auto at = TRY(memory.read<GuestVirt>(from + i * 8));
            if (!at) break;
            if (i > 0) all += ", ";
            if (i == limits::kMaxExactStrings) {
                all += "..";
                break;
            }
            all += TRY(read_string(memory, at));
        }
        return all + "]";
    }

    static Result<std::string> read_bytes(VirtualMemory& memory, GuestVirt from,
                                          std::uint64_t length) {
        std::vector<std::byte> bytes(std::min<std::uint64_t>(length, kShownDataBytes));
        TRY(memory.read(from, bytes));
        return guest_linux::quoted(as_text(bytes), length > bytes.size());
    }

    // ---- telling

    void tell_unreturned(Pending& pending, std::string why) {
        pending.call.result = event::Observed<std::int64_t>::unavailable(std::move(why));
        tell(std::move(pending.call));
    }

    void tell(ExactCall call) {
        part_.calls.push_back(std::move(call));
        count_told(1);
    }

    void count_told(std::size_t calls) {
        summary_.calls += calls;
        if (summary_.calls >= limits::kMaxExactCalls) {
            over_ = fmt::format("{} calls were told", summary_.calls);
        }
    }

    // Whether there is still somebody to be traced.
    void look_around(BreakpointOrder& order) {
        guest_->new_epoch();
        entry_.forget();
        const auto signs = guest_linux::read_vital_signs(guest_->kernel());
        if (!signs.has_value() || !guest_linux::check_same_life(signs_, *signs).has_value()) {
            order.end = "the guest has booted anew, or is about to";
            return;
        }
        signs_ = *signs;
        // Quickly, and only else by all lists of tasks.
        const auto signal = guest_->kernel().read_pointer(leader_, f_.signal);
        const auto exit_state = guest_->kernel().read(leader_, f_.exit_state);
        if (signal.has_value() && *signal == signal_ && exit_state.has_value() &&
            *exit_state == 0) {
            const auto mm = guest_->kernel().read_pointer(leader_, f_.mm);
            if (functions_ && mm.has_value() && *mm && *mm != mm_) {
                order.end = "the process executes another program, whose functions lie elsewhere";
            }
            return;
        }
        for (const event::Task& task : guest_->tasks(kNoDetail, summary_.pid).items) {
            if (task.is_process() && task.start_time.value_or(0) == summary_.start_time &&
                !task.state.starts_with('Z') && !task.state.starts_with('X')) {
                return;
            }
        }
        summary_.process_ended = true;
        order.end = "the process has ended";
    }

    Result<void> finish(const SupervisorReport& report) {
        if (!report.begun) return fail(Code::unavailable, report.ended);
        for (auto& [task, pending] : pending_) {
            tell_unreturned(pending, "the trace was over before it returned");
            if (part_.calls.size() == kCallsOfPart) TRY((*tell_)(std::exchange(part_, {})));
        }
        if (functions_) {
            const std::size_t before = part_.calls.size();
            functions_->give_up(part_.calls);
            functions_->name_callers(part_.calls);
            count_told(part_.calls.size() - before);
        }
        summary_.duration_ns = ns_since(begun_);
        summary_.stops = report.stops;
        summary_.frozen_ns = report.frozen_ns;
        summary_.longest_freeze_ns = report.longest_freeze_ns;
        summary_.over_ceiling = report.over_ceiling;
        summary_.ended = report.ended;
        summary_.trouble = report.trouble;
        part_.finished = true;
        part_.summary = summary_;
        return (*tell_)(part_);
    }

    Guest* guest_;
    SyscallEntry entry_;
    const TellExact* tell_;
    GuestVirt leader_, signal_, mm_;
    struct {
        guest_linux::Field signal, mm, exit_state;
    } f_;
    std::optional<FunctionCalls> functions_;  // nothing: all system calls
    guest_linux::VitalSigns signs_;
    Clock::time_point begun_{};
    bool has_told_begin_ = false;
    std::optional<GuestVirt> return_;
    std::unordered_map<GuestVirt, Pending> pending_;  // by task
    std::unordered_set<GuestVirt> known_;             // tasks that have made a call
    std::map<std::uint32_t, std::optional<std::vector<SyscallArgument>>> shapes_;
    ExactPart part_;
    ExactSummary summary_;
    std::string over_;
};

}  // namespace

Result<void> trace_exactly(Guest& guest, guest_memory::GuestMemory* memory,
                           jail::Channel& supervisor, std::uint32_t pid, const TraceOrder& order,
                           const TellExact& tell) {
    auto tracer = Tracer::of(guest, memory, pid, order.functions, tell);
    if (!tracer.has_value()) {
        (void)supervisor.send(event::encode(BreakpointOrder{.end = tracer.error().to_text()}));
        return Unexpected(std::move(tracer).error());
    }
    return tracer->run(supervisor, order.for_ms);
}

}  // namespace underseer::agent
