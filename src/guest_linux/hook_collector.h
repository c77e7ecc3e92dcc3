// What the readers of hooks share. Each covers one part of the kernel (list_hooks()).
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "guest_linux/hooks.h"

namespace underseer::guest_linux {

// A list of those that want to know when something happens.
struct NotifierChain {
    std::string_view symbol;
    std::string_view structure;
};
// Those that the kernel has without a module; what a kernel lacks, its configuration leaves out.
std::span<const NotifierChain> notifier_chains();

class HookCollector {
  public:
    HookCollector(Kernel& of, HookList& list) : kernel(of), list_(list) {}

    // Runs `read`, again where torn memory has misled it; what it cannot read is a gap of `what`.
    void part(std::string_view what, const std::function<Result<void>()>& read);
    // A null target is no hook, but a place that was looked at.
    void add(Hook hook);
    void gap(std::string_view what, const Error& why) { list_.gaps.add(what, why); }

    // Every function that a table of operations points to.
    Result<void> add_operations(HookKind kind, const std::string& point, std::string_view structure,
                                GuestVirt operations);
    // Calls `use` for each object of a list, null-terminated (hlist) or not.
    Result<void> each(GuestVirt head, const Field& node,
                      const std::function<Result<void>(GuestVirt)>& use);
    Result<void> each_hashed(GuestVirt first, const Field& node,
                             const std::function<Result<void>(GuestVirt)>& use);
    // Calls `use` for each pointer of an array that is not null.
    Result<void> each_pointer(GuestVirt array, std::size_t count,
                              const std::function<Result<void>(GuestVirt, std::size_t)>& use);
    // How many elements a per-CPU array has; 1 when it is none.
    std::size_t per_cpu_count(std::string_view variable) const;
    bool has(std::string_view symbol) const { return kernel.symbol(symbol).has_value(); }

    Kernel& kernel;

  private:
    HookList& list_;
};

void collect_kprobes(HookCollector& collector);
void collect_tracing_hooks(HookCollector& collector);
void collect_security_hooks(HookCollector& collector);
void collect_network_hooks(HookCollector& collector);
void collect_event_hooks(HookCollector& collector);
void collect_timer_hooks(HookCollector& collector);

}  // namespace underseer::guest_linux
