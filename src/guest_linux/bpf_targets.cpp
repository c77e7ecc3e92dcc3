#include "guest_linux/bpf_targets.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "guest_linux/hooks.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kMaxTargetText = 256;
constexpr std::uint32_t kBranchTarget = 0xfa1e0ff3;  // endbr64
constexpr std::uint64_t kMarkBytes = sizeof kBranchTarget;
constexpr std::string_view kSecurityHook = "bpf_lsm_";

std::uint64_t flag(const Kernel& kernel, std::string_view name) {
    return static_cast<std::uint64_t>(kernel.types().enumerator(name).value_or(0));
}

}  // namespace

std::string bpf_word(const Kernel& kernel, std::string_view enumeration, std::string_view prefix,
                     std::uint64_t value) {
    std::string_view name =
        kernel.types().enumerator_name(enumeration, static_cast<std::int64_t>(value));
    if (name.empty()) return fmt::format("type {}", value);
    if (name.starts_with(prefix)) name.remove_prefix(prefix.size());
    std::string word(name);
    std::ranges::transform(word, word.begin(), [](char c) {
        return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    });
    return word;
}

Result<std::string> BpfTargets::text(GuestVirt structure, const Field& pointer) {
    const GuestVirt at = TRY(kernel_.read_pointer(structure, pointer));
    if (!at) return std::string();
    return kernel_.memory().read_cstring(at, kMaxTargetText);
}

Result<std::string> BpfTargets::net_namespace(GuestVirt net) {
    const Field number = kernel_.field("net", "ns.inum");
    return fmt::format("net:[{}]", TRY(kernel_.read(net, number)));
}

Result<std::string> BpfTargets::interface(GuestVirt device) {
    const Field name = kernel_.field("net_device", "name"),
                owner = kernel_.field("net_device", {"nd_net.net", "nd_net"});
    std::string said = TRY(kernel_.read_text(device, name));
    const GuestVirt net = TRY(kernel_.read_pointer(device, owner));
    const auto first = kernel_.symbol("init_net");
    if (first.has_value() && net == *first) return said;
    return fmt::format("{} of {}", said, TRY(net_namespace(net)));
}

// Places have numbers of their own since 5.15 (include/linux/bpf-cgroup-defs.h); before they were
// those of all kinds of attachment. Those of security modules have no names of their own.
std::string BpfTargets::cgroup_slot(std::uint64_t slot) const {
    constexpr std::string_view kOwn = "cgroup_bpf_attach_type";
    const Btf& types = kernel_.types();
    if (types.enumerator_name(kOwn, 0).empty()) {
        return bpf_word(kernel_, "bpf_attach_type", "BPF_CGROUP_", slot);
    }
    const std::string_view name = types.enumerator_name(kOwn, static_cast<std::int64_t>(slot));
    if (name.empty() || name.starts_with("CGROUP_LSM")) return "lsm";
    return bpf_word(kernel_, kOwn, "CGROUP_", slot);
}

// NFPROTO_IPV4 and _IPV6, and the hooks of both (include/uapi/linux/netfilter.h).
std::string BpfTargets::netfilter_place(std::uint64_t family, std::uint64_t hook) {
    constexpr std::array<std::string_view, 5> kPlaces{"prerouting", "input", "forward", "output",
                                                      "postrouting"};
    const std::string_view name = family == 2 ? "IPv4" : family == 10 ? "IPv6" : "another family";
    return fmt::format("{} {}", name, hook < kPlaces.size() ? kPlaces[hook] : "elsewhere");
}

Result<BpfTarget> BpfTargets::function_of(GuestVirt program) {
    const Field aux = kernel_.field("bpf_prog", "aux"),
                function = kernel_.field("bpf_prog_aux", "attach_func_name"),
                expected = kernel_.field("bpf_prog", "expected_attach_type");
    const GuestVirt of = TRY(kernel_.read_pointer(program, aux));
    BpfTarget target;
    target.kind =
        bpf_word(kernel_, "bpf_attach_type", "BPF_", TRY(kernel_.read(program, expected)));
    if (target.kind.starts_with("trace_")) target.kind.erase(0, 6);
    if (target.kind == "lsm_mac") target.kind = "lsm";
    target.text = TRY(text(of, function));
    if (target.text.starts_with(kSecurityHook)) target.text.erase(0, kSecurityHook.size());
    return target;
}

Result<BpfTarget> BpfTargets::trace_event(GuestVirt call) {
    const Field flags = kernel_.field("trace_event_call", "flags"),
                name = kernel_.field("trace_event_call", "name"),
                tracepoint = kernel_.field("trace_event_call", "tp"),
                category = kernel_.field("trace_event_call", "class"),
                system = kernel_.field("trace_event_class", "system"),
                point_name = kernel_.field("tracepoint", "name"),
                event_call = kernel_.field("trace_probe_event", "call"),
                probes = kernel_.field("trace_probe_event", "probes"),
                node = kernel_.field("trace_probe", "list");
    if (!flags_) {
        flags_ = {flag(kernel_, "TRACE_EVENT_FL_KPROBE"), flag(kernel_, "TRACE_EVENT_FL_UPROBE"),
                  flag(kernel_, "TRACE_EVENT_FL_TRACEPOINT")};
    }
    const std::uint64_t set = TRY(kernel_.read(call, flags));
    BpfTarget target;
    if ((set & (flags_->kprobe | flags_->uprobe)) != 0) {
        TRY(kernel_.require({event_call, probes, node}));
        // Of several probes of one event the first names it.
        const GuestVirt first =
            TRY(kernel_.read_pointer(call - event_call.offset, probes)) - node.offset;
        target = (set & flags_->kprobe) != 0 ? TRY(kprobe(first)) : TRY(uprobe(first));
    } else {
        const bool is_point = (set & flags_->tracepoint) != 0;
        const GuestVirt named = is_point ? TRY(kernel_.read_pointer(call, tracepoint)) : call;
        const std::string said = TRY(text(named, is_point ? point_name : name));
        const GuestVirt group = TRY(kernel_.read_pointer(call, category));
        const std::string of = TRY(text(group, system));
        target = {"tracepoint", fmt::format("{}:{}", of, said), {}};
    }
    target.at = call;
    return target;
}

// A probe of a function's begin stands behind the instruction that marks it as a target of
// indirect jumps (arch/x86/kernel/kprobes/core.c, arch_adjust_kprobe_addr()).
std::string BpfTargets::function_text(GuestVirt address) {
    const auto mark = kernel_.memory().read<std::uint32_t>(address - kMarkBytes);
    const bool is_behind = mark.has_value() && *mark == kBranchTarget;
    return symbol_text(kernel_, is_behind ? address - kMarkBytes : address);
}

// struct trace_kprobe, kernel/trace/trace_kprobe.c
Result<BpfTarget> BpfTargets::kprobe(GuestVirt probe) {
    const Field part = kernel_.field("trace_kprobe", "tp"),
                place = kernel_.field("trace_kprobe", "rp.kp.addr"),
                leaving = kernel_.field("trace_kprobe", "rp.handler");
    TRY(kernel_.require({part, place, leaving}));
    const GuestVirt owner = probe - part.offset;
    const GuestVirt address = TRY(kernel_.read_pointer(owner, place));
    const bool returns = static_cast<bool>(TRY(kernel_.read_pointer(owner, leaving)));
    return BpfTarget{returns ? "kretprobe" : "kprobe", function_text(address), {}};
}

// struct trace_uprobe, kernel/trace/trace_uprobe.c
Result<BpfTarget> BpfTargets::uprobe(GuestVirt probe) {
    const Field part = kernel_.field("trace_uprobe", "tp"),
                file = kernel_.field("trace_uprobe", "filename"),
                offset = kernel_.field("trace_uprobe", "offset"),
                leaving = kernel_.field("trace_uprobe", "consumer.ret_handler");
    TRY(kernel_.require({part, file, offset, leaving}));
    const GuestVirt owner = probe - part.offset;
    const bool returns = static_cast<bool>(TRY(kernel_.read_pointer(owner, leaving)));
    const std::uint64_t place = TRY(kernel_.read(owner, offset));
    const std::string path = TRY(text(owner, file));
    return BpfTarget{returns ? "uretprobe" : "uprobe", fmt::format("{}+{:#x}", path, place), {}};
}

Result<BpfTarget> BpfTargets::perf_event(GuestVirt event) {
    const Field call = kernel_.field("perf_event", "tp_event"),
                // What it was asked for: the other one is its driver's since 6.6.
        type = kernel_.field("perf_event", {"orig_type", "attr.type"}),
                config = kernel_.field("perf_event", "attr.config");
    if (const GuestVirt traced = TRY(kernel_.read_pointer(event, call))) return trace_event(traced);
    const std::uint64_t what = TRY(kernel_.read(event, type)),
                        which = TRY(kernel_.read(event, config));
    const std::string word = bpf_word(kernel_, "perf_type_id", "PERF_TYPE_", what);
    return BpfTarget{"perf_event", fmt::format("{} {:#x}", word, which), event};
}

}  // namespace underseer::guest_linux
