#include "agent/function_calls.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "policy/policy.h"

namespace underseer::agent {

namespace {

using guest_linux::SyscallEntry;
using guest_linux::VirtualMemory;
using policy::glob_matches;

constexpr std::string_view kKernel = "kernel";
// In the order in which functions take them (System V ABI, AMD64 supplement, 3.2.3; the kernel's
// functions do the same).
constexpr std::array kRegisterNames{"rdi", "rsi", "rdx", "rcx", "r8", "r9"};
constexpr std::size_t kShortestString = 3;
constexpr std::size_t kMaxFound = 1000;  // by one pattern, in programs
constexpr std::size_t kToldNames = 8;    // of too many
constexpr std::size_t kMaxNamedCallers = 4096;
// They are looked through while the guest stands still.
constexpr std::size_t kMaxWaitedFor = 64;

// What is read as a text, if it is one: what a function takes is not known.
std::string string_at(VirtualMemory& memory, std::uint64_t at) {
    if (at < kPageSize) return "";
    const auto text = memory.read_cstring(GuestVirt{at}, limits::kMaxExactStringBytes);
    if (!text.has_value() || text->size() < kShortestString) return "";
    const bool is_text = std::ranges::all_of(*text, [](char one) {
        return (one >= ' ' && one <= '~') || one == '\n' || one == '\t' || one == '\r';
    });
    return is_text ? guest_linux::quoted(*text, text->size() == limits::kMaxExactStringBytes) : "";
}

void tell_unreturned(ExactCall& call, std::string why, std::vector<ExactCall>& told) {
    call.result = event::Observed<std::int64_t>::unavailable(std::move(why));
    told.push_back(std::move(call));
}

}  // namespace

Result<FunctionCalls> FunctionCalls::of(guest_linux::Guest* guest,
                                        guest_memory::GuestMemory* memory, GuestVirt task,
                                        std::uint32_t pid,
                                        const std::vector<std::string>& patterns) {
    FunctionCalls calls(guest, memory);
    const auto is_kernels = [](std::string_view pattern) {
        return pattern.starts_with(kKernel) && pattern.substr(kKernel.size()).starts_with(':');
    };
    // Threads of the kernel have no programs.
    if (!std::ranges::all_of(patterns, is_kernels)) {
        calls.programs_.look_at(TRY(guest->user_memory().process(task, pid)));
    }
    for (const std::string& pattern : patterns) {
        if (calls.find(pattern) > 0) continue;
        return fail(Code::not_found,
                    fmt::format("no function of what it has mapped is named '{}'{}{}", pattern,
                                calls.gaps_.empty() ? "" : "; not all could be read: ",
                                fmt::join(calls.gaps_.texts, "; ")));
    }
    if (calls.functions_.size() > kMaxFunctions) {
        auto names = calls.names();
        const std::size_t count = names.size();
        names.resize(std::min(count, kToldNames));
        return fail(
            Code::limit,
            fmt::format("{}{} functions are named so ({}{}), and a CPU has four breakpoints, "
                        "of which one waits for their return: name {} at most",
                        count >= kMaxFound ? "at least " : "", count, fmt::join(names, ", "),
                        count > names.size() ? ", .." : "", kMaxFunctions));
    }
    return calls;
}

std::size_t FunctionCalls::find(std::string_view pattern) {
    const std::size_t colon = pattern.find(':');
    const std::string_view file =
        colon == std::string_view::npos ? std::string_view("*") : pattern.substr(0, colon);
    const std::string_view name =
        colon == std::string_view::npos ? pattern : pattern.substr(colon + 1);
    if (file == kKernel) return find_in_kernel(name);
    const bool is_path = file.find('/') != std::string_view::npos;
    const auto is_file_wanted = [&](std::string_view path) {
        return glob_matches(file, is_path ? path : path.substr(path.rfind('/') + 1));
    };
    // A file may have millions of names that mean nothing.
    std::size_t left = kMaxFound;
    const auto is_wanted = [&](std::string_view one) {
        return left > 0 && glob_matches(name, one) && left-- > 0;
    };
    const auto found = programs_.functions(is_file_wanted, is_wanted, gaps_);
    for (const auto& function : found) functions_[function.at] = {function.file, function.name};
    return found.size();
}

std::size_t FunctionCalls::find_in_kernel(std::string_view name) {
    const auto& symbols = guest_->kernel().symbols();
    std::size_t found = 0;
    for (std::size_t i = 0; i < symbols.size(); ++i) {
        const auto symbol = symbols.at(i);
        if ((symbol.type != 't' && symbol.type != 'T') || !glob_matches(name, symbol.name)) {
            continue;
        }
        functions_[symbol.address] = {std::string(kKernel), std::string(symbol.name)};
        ++found;
    }
    return found;
}

std::vector<std::uint64_t> FunctionCalls::breakpoints() const {
    std::vector<std::uint64_t> all;
    for (const auto& [at, function] : functions_) all.push_back(at.value);
    return all;
}

std::vector<std::string> FunctionCalls::names() const {
    std::vector<std::string> all;
    for (const auto& [at, function] : functions_) {
        all.push_back(fmt::format("{} ({})", function.name, function.file));
    }
    return all;
}

void FunctionCalls::take(const BreakpointEvent& hit, const SyscallEntry::Caller& who,
                         VirtualMemory memory, std::uint64_t at_ns, BreakpointOrder& order,
                         std::vector<ExactCall>& told) {
    if (returns_.contains(hit.rip)) leave(hit, who.task, order, told);
    const auto function = functions_.find(GuestVirt{hit.rip});
    if (function != functions_.end()) {
        enter(function->second, hit, who, memory, at_ns, order, told);
    }
}

void FunctionCalls::enter(const Function& function, const BreakpointEvent& hit,
                          const SyscallEntry::Caller& who, VirtualMemory& memory,
                          std::uint64_t at_ns, BreakpointOrder& order,
                          std::vector<ExactCall>& told) {
    // CPUs that are stopped at the same time may be met at their breakpoint twice.
    const bool is_known = std::ranges::any_of(pending_, [&](const Pending& one) {
        return one.task == who.task && one.sp == hit.rsp && one.call.name == function.name;
    });
    if (is_known) return;
    Pending pending{.call = {.at_ns = at_ns, .pid = who.pid},
                    .task = who.task,
                    .sp = hit.rsp,
                    .at = Clock::now()};
    ExactCall& call = pending.call;
    call.name = function.name;
    call.file = function.file;
    for (std::size_t i = 0; i < std::min(kRegisterNames.size(), hit.arguments.size()); ++i) {
        call.arguments.push_back({.name = kRegisterNames[i],
                                  .value = hit.arguments[i],
                                  .text = string_at(memory, hit.arguments[i])});
    }
    const auto tell_now = [&](std::string why) { tell_unreturned(call, std::move(why), told); };
    const auto address = memory.read<std::uint64_t>(GuestVirt{hit.rsp});
    if (!address.has_value()) return tell_now("where it returns to: " + address.error().to_text());
    call.caller_address = *address;
    const auto has_room = [&] {
        return pending_.size() < kMaxWaitedFor &&
               (returns_.contains(*address) ||
                functions_.size() + returns_.size() < kMaxBreakpoints);
    };
    if (!has_room()) drop_gone(memory, order, told);
    if (!has_room()) return tell_now("other calls are waited for");
    if (!returns_.contains(*address)) order.insert.push_back(*address);
    ++returns_[*address];
    pending_.push_back(std::move(pending));
}

void FunctionCalls::leave(const BreakpointEvent& hit, GuestVirt task, BreakpointOrder& order,
                          std::vector<ExactCall>& told) {
    const auto found = std::ranges::find_if(pending_, [&](const Pending& one) {
        return one.task == task && one.call.caller_address == hit.rip &&
               one.sp + sizeof(std::uint64_t) == hit.rsp;
    });
    if (found == pending_.end()) return;  // another thread's, or a call within it
    Pending pending = std::move(*found);
    pending_.erase(found);
    pending.call.result = static_cast<std::int64_t>(hit.rax);
    pending.call.duration_ns =
        static_cast<std::uint64_t>(std::chrono::nanoseconds(Clock::now() - pending.at).count());
    release(pending.call.caller_address, order);
    told.push_back(std::move(pending.call));
}

void FunctionCalls::drop_gone(VirtualMemory& memory, BreakpointOrder& order,
                              std::vector<ExactCall>& told) {
    std::erase_if(pending_, [&](Pending& one) {
        const auto address = memory.read<std::uint64_t>(GuestVirt{one.sp});
        if (address.has_value() && *address == one.call.caller_address) return false;
        release(one.call.caller_address, order);
        tell_unreturned(one.call, "it did not return by the usual way", told);
        return true;
    });
}

void FunctionCalls::release(std::uint64_t address, BreakpointOrder& order) {
    const auto found = returns_.find(address);
    if (--found->second > 0) return;
    returns_.erase(found);
    order.remove.push_back(address);
}

void FunctionCalls::give_up(std::vector<ExactCall>& told) {
    for (Pending& one : pending_) {
        tell_unreturned(one.call, "the trace was over before it returned", told);
    }
    pending_.clear();
}

void FunctionCalls::name_callers(std::vector<ExactCall>& calls) {
    for (ExactCall& call : calls) {
        if (call.caller_address == 0) continue;
        const auto known = callers_.find(call.caller_address);
        if (known != callers_.end()) {
            call.caller = known->second;
            continue;
        }
        call.caller = caller_text(GuestVirt{call.caller_address});
        if (callers_.size() < kMaxNamedCallers) callers_[call.caller_address] = call.caller;
    }
}

std::string FunctionCalls::caller_text(GuestVirt at) {
    const auto place = programs_.place_of({.code = at, .is_caller = true});
    if (!place.file.empty()) {
        return place.symbol.empty() ? fmt::format("{}+{:#x}", place.file, place.offset_bytes)
                                    : fmt::format("{} ({})", place.symbol, place.file);
    }
    if (const auto symbol = guest_->kernel().symbols().nearest(at); symbol) {
        return fmt::format("{}+{:#x} ({})", symbol->name, at - symbol->address, kKernel);
    }
    return "";
}

}  // namespace underseer::agent
