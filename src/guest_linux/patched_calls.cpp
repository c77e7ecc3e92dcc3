#include "guest_linux/patched_calls.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "guest_linux/hooks.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kMaxSites = 1u << 20;
constexpr std::size_t kMostCounterBytes = 64;
// Two flags stand in the low bits of a place's key (STATIC_CALL_SITE_FLAGS).
constexpr std::uint64_t kSiteFlags = 3;
// The trampoline of the call `name` is __SCT__name, and its key is __SCK__name.
constexpr std::string_view kTrampoline = "__SCT__";

// Both addresses are relative to where they stand.
struct Site {
    std::int32_t place, key;
};

std::uint64_t relative(GuestVirt at, std::int32_t distance) {
    return at.value + static_cast<std::uint64_t>(std::int64_t{distance});
}

}  // namespace

Result<StaticCalls> StaticCalls::read(Kernel& kernel) {
    StaticCalls calls(kernel);
    const auto begin = kernel.symbol("__start_static_call_sites"),
               end = kernel.symbol("__stop_static_call_sites");
    if (!begin.has_value() || !end.has_value()) return calls;  // built without them
    if (*end < *begin) return fail(Code::malformed, "the table of static calls has no end");
    TRY(calls.add(*begin, (*end - *begin) / sizeof(Site)));
    return calls;
}

Result<void> StaticCalls::add(GuestVirt table, std::uint64_t entries) {
    if (entries > kMaxSites) return fail(Code::malformed, "the table of static calls has no end");
    std::vector<Site> sites(entries);
    TRY(kernel_->memory()
            .read(table, std::as_writable_bytes(std::span(sites)))
            .context("reading the table of static calls"));
    TRY(kernel_->require({function_}));
    for (std::size_t i = 0; i < sites.size(); ++i) {
        const GuestVirt at = table + i * sizeof(Site);
        const std::uint64_t key = relative(at + 4, sites[i].key) & ~kSiteFlags;
        const auto [known, is_new] = called_.try_emplace(key);
        if (is_new) known->second = TRY(kernel_->read_pointer(GuestVirt{key}, function_));
        targets_[relative(at, sites[i].place)] = known->second;
    }
    return {};
}

std::optional<GuestVirt> StaticCalls::target_at(GuestVirt at) const {
    if (const auto site = targets_.find(at.value); site != targets_.end()) return site->second;
    const auto symbol = kernel_->symbols().nearest(at);
    if (!symbol || symbol->address != at || !symbol->name.starts_with(kTrampoline)) {
        return std::nullopt;
    }
    const auto key =
        kernel_->symbol(fmt::format("__SCK__{}", symbol->name.substr(kTrampoline.size())));
    if (!key.has_value()) return std::nullopt;
    const auto target = kernel_->read_pointer(*key, function_);
    return target.has_value() ? std::optional(*target) : std::nullopt;
}

bool StaticCalls::may_call(GuestVirt target) const {
    return std::ranges::any_of(called_, [&](const auto& one) { return one.second == target; });
}

std::size_t call_counter_bytes(const Kernel& kernel) {
    const auto begin = kernel.symbol("skl_call_thunk_template"),
               end = kernel.symbol("skl_call_thunk_tail");
    if (!begin.has_value() || !end.has_value() || *end - *begin > kMostCounterBytes) return 0;
    return *end - *begin;
}

FtraceCalls::FtraceCalls(Kernel& kernel) : kernel_(&kernel) {
    for (const std::string_view name : {"ftrace_call", "ftrace_regs_call", "ftrace_graph_call"}) {
        if (const auto at = kernel.symbol(name); at.has_value()) places_.push_back(*at);
    }
}

bool FtraceCalls::is_entry(const Kernel& kernel, GuestVirt target) {
    return kernel.symbols().any_at(target, [](std::string_view name) {
        return name == "ftrace_caller" || name == "ftrace_regs_caller" ||
               name == "ftrace_graph_caller";
    });
}

bool FtraceCalls::is_at(GuestVirt place) const {
    return std::ranges::find(places_, place) != places_.end();
}

bool FtraceCalls::may_call(GuestVirt target) {
    const auto symbol = kernel_->symbols().nearest(target);
    const bool is_ftraces =
        symbol && symbol->address == target &&
        (symbol->name.starts_with("ftrace_") || symbol->name == "arch_ftrace_ops_list_func");
    if (is_ftraces) return true;
    if (!hooks_) {
        hooks_.emplace();
        for (const Hook& hook : list_hooks(*kernel_).hooks) {
            if (hook.kind == HookKind::ftrace) hooks_->push_back(hook.target);
        }
    }
    return std::ranges::find(*hooks_, target) != hooks_->end();
}

}  // namespace underseer::guest_linux
