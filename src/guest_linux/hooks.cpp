#include "guest_linux/hooks.h"

#include <fmt/format.h>

#include <algorithm>

#include "guest_linux/hook_collector.h"

namespace underseer::guest_linux {

namespace {

constexpr unsigned kMaxNesting = 8;
constexpr unsigned kAttempts = 3;

void add_function_members(const Btf& types, std::uint32_t structure, std::uint64_t offset,
                          unsigned depth, std::vector<FunctionMember>& found) {
    const Btf::Type& type = types.type(structure);
    for (std::uint32_t i = 0; i < type.count; ++i) {
        const Btf::RawMember member = types.member(type, i);
        if (member.bitfield_bits != 0) continue;
        const std::uint32_t id = types.strip(member.type);
        const Btf::Type& what = types.type(id);
        const std::uint64_t at = offset + member.offset_bits / 8;
        if (what.kind == BtfKind::pointer) {
            const Btf::Type& pointed = types.type(types.strip(what.size_or_type));
            if (pointed.kind == BtfKind::function_prototype) {
                found.push_back({std::string(types.string_at(member.name)), at});
            }
        } else if ((what.kind == BtfKind::structure || what.kind == BtfKind::union_) &&
                   depth < kMaxNesting) {
            add_function_members(types, id, at, depth + 1, found);
        }
    }
}

}  // namespace

std::string_view to_string(HookKind kind) {
    switch (kind) {
        case HookKind::ftrace:
            return "ftrace";
        case HookKind::kprobe:
            return "kprobe";
        case HookKind::tracepoint:
            return "tracepoint";
        case HookKind::security:
            return "security module";
        case HookKind::netfilter:
            return "netfilter";
        case HookKind::packet:
            return "packet";
        case HookKind::protocol:
            return "protocol";
        case HookKind::notifier:
            return "notifier";
        case HookKind::line_discipline:
            return "line discipline";
        case HookKind::terminal:
            return "terminal";
        case HookKind::program_format:
            return "program format";
        case HookKind::timer:
            return "timer";
        case HookKind::work:
            return "work";
    }
    return "?";
}

std::string symbol_text(const Kernel& kernel, GuestVirt address) {
    const KernelImage& image = kernel.image();
    if (address < image.begin() || address >= image.end()) {
        return fmt::format("{:#x}", address.value);
    }
    const auto symbol = kernel.symbols().nearest(address);
    if (!symbol) return fmt::format("{:#x}", address.value);
    const std::uint64_t beyond = address - symbol->address;
    return beyond == 0 ? std::string(symbol->name) : fmt::format("{}+{:#x}", symbol->name, beyond);
}

std::vector<FunctionMember> function_members(const Btf& types, std::string_view structure) {
    std::vector<FunctionMember> found;
    if (const auto id = types.find_struct(structure)) add_function_members(types, *id, 0, 0, found);
    return found;
}

void HookCollector::part(std::string_view what, const std::function<Result<void>()>& read) {
    const std::size_t before = list_.hooks.size();
    for (unsigned attempt = 1;; ++attempt) {
        auto done = read();
        if (done.has_value()) return;
        if (attempt == kAttempts) return gap(what, done.error());
        list_.hooks.resize(before);
        kernel.forget();
    }
}

void HookCollector::add(Hook hook) {
    ++list_.places;
    if (!hook.target) return;
    if (list_.hooks.size() < limits::kMaxHooks) {
        list_.hooks.push_back(std::move(hook));
    } else {
        gap("hooks", {Code::limit, 0, fmt::format("more than {}", limits::kMaxHooks)});
    }
}

Result<void> HookCollector::add_operations(HookKind kind, const std::string& point,
                                           std::string_view structure, GuestVirt operations) {
    const auto members = function_members(kernel.types(), structure);
    if (members.empty()) {
        return fail(Code::unavailable, fmt::format("the type of {} is not known", structure));
    }
    for (const FunctionMember& member : members) {
        const GuestVirt record = operations + member.offset;
        const GuestVirt target = TRY(kernel.memory().read<GuestVirt>(record));
        add({kind, fmt::format("{}.{}", point, member.name), target, record, {}, false});
    }
    return {};
}

Result<void> HookCollector::each(GuestVirt head, const Field& node,
                                 const std::function<Result<void>(GuestVirt)>& use) {
    TRY(kernel.require({node}));
    Result<void> inside;
    TRY(kernel.walk_list(head, [&](GuestVirt at) {
        inside = use(at - node.offset);
        return inside.has_value();
    }));
    return inside;
}

Result<void> HookCollector::each_hashed(GuestVirt first, const Field& node,
                                        const std::function<Result<void>(GuestVirt)>& use) {
    TRY(kernel.require({node}));
    return kernel.walk_hlist(first, [&](GuestVirt at) { return use(at - node.offset); });
}

Result<void> HookCollector::each_pointer(
    GuestVirt array, std::size_t count,
    const std::function<Result<void>(GuestVirt, std::size_t)>& use) {
    std::vector<GuestVirt> pointers(count);
    TRY(kernel.memory().read(array, std::as_writable_bytes(std::span(pointers))));
    for (std::size_t i = 0; i < count; ++i) {
        if (pointers[i]) TRY(use(pointers[i], i));
    }
    return {};
}

std::size_t HookCollector::per_cpu_count(std::string_view variable) const {
    const Btf& types = kernel.types();
    for (std::uint32_t id = 0; id < types.type_count(); ++id) {
        const Btf::Type& type = types.type(id);
        if (type.kind != BtfKind::variable || types.name(type) != variable) continue;
        const auto array = types.array(types.strip(type.size_or_type));
        return array ? std::min<std::size_t>(array->count, 64) : 1;
    }
    return 1;
}

namespace {

HookList collect(Kernel& kernel, std::initializer_list<void (*)(HookCollector&)> parts) {
    HookList list;
    HookCollector collector(kernel, list);
    if (auto types = kernel.require_types(); !types.has_value()) {
        collector.gap("types", types.error());
        return list;
    }
    for (auto* const part : parts) part(collector);
    return list;
}

}  // namespace

HookList list_kprobes(Kernel& kernel) {
    return collect(kernel, {collect_kprobes});
}

HookList list_hooks(Kernel& kernel) {
    return collect(kernel, {collect_tracing_hooks, collect_security_hooks, collect_network_hooks,
                            collect_event_hooks, collect_timer_hooks});
}

}  // namespace underseer::guest_linux
