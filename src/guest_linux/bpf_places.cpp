#include "guest_linux/bpf_places.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <unordered_set>

namespace underseer::guest_linux {

namespace {

constexpr std::uint64_t kCssOnline = 1u << 1;         // CSS_ONLINE, include/linux/cgroup-defs.h
constexpr std::size_t kTrampolineBuckets = 1024;      // TRAMPOLINE_TABLE_SIZE, trampoline.c
constexpr std::size_t kMaxSlots = 256;                // places in one cgroup; kernels have some 40
constexpr std::size_t kMaxArrayItems = 4096;          // programs at one place: a cgroup takes 64
constexpr std::size_t kMaxRawEvents = 1u << 16;       // tracepoints of the kernel, or of a module
constexpr std::uint64_t kMaxNetfilterEntries = 1024;  // MAX_HOOK_COUNT, net/netfilter/core.c
constexpr std::size_t kMaxFilters = 1u << 16;         // of tc, at one side of an interface
constexpr std::size_t kMprogItems = 64;               // BPF_MPROG_MAX, include/linux/bpf_mprog.h
// struct cls_bpf_head {plist} and struct cls_bpf_prog {filter, link, ..}, net/sched/cls_bpf.c of
// 5.10 to 7.2: the types of a module, which are not among the kernel's.
constexpr std::uint64_t kFilterList = 0, kFilterProgram = 0, kFilterNode = 8;

class PlaceReader {
  public:
    PlaceReader(Kernel& kernel, BpfTargets& targets, Gaps& gaps)
        : kernel_(kernel), targets_(targets), gaps_(gaps) {
        // What an array has in place of a program that could not be taken out of it.
        if (const auto dummy = kernel.symbol("dummy_bpf_prog"); dummy.has_value()) dummy_ = *dummy;
        if (const auto shim = kernel.symbol("bpf_shim_tramp_link_lops"); shim.has_value()) {
            shim_operations_ = *shim;
        }
    }

    std::vector<BpfPlace> read(std::span<const GuestVirt> tasks) {
        part("BPF programs of cgroups", cgroups());
        part("BPF trampolines", trampolines());
        part("BPF programs at raw tracepoints", raw_tracepoints());
        part("BPF programs of trace events", trace_events());
        part("BPF programs of perf events", perf_events(tasks));
        part("BPF programs of network namespaces", net_namespaces());
        return std::move(places_);
    }

  private:
    void part(std::string_view what, const Result<void>& done) {
        if (!done.has_value()) gaps_.add(what, done.error());
    }

    // Whether the kernel has a part at all. One that has its functions and not its tables cannot be
    // read; without both there is nothing to be read.
    bool has(std::string_view function) const { return kernel_.symbol(function).has_value(); }

    Result<void> add(BpfPlace place) {
        if (!place.program || place.program == dummy_) return {};
        if (places_.size() >= limits::kMaxBpfObjects) {
            return fail(Code::limit, fmt::format("more than {}", limits::kMaxBpfObjects));
        }
        places_.push_back(std::move(place));
        return {};
    }
    // At a place that names its link.
    Result<void> add_link(GuestVirt link, BpfTarget target) {
        const GuestVirt program = TRY(kernel_.read_pointer(link, link_program_));
        return add({program, link, std::move(target), true, false});
    }

    // struct bpf_prog_array: programs up to a null pointer.
    template <typename Use>
    Result<void> each_of_array(GuestVirt array, Use&& use) {
        const Field items = kernel_.field("bpf_prog_array", "items"),
                    program = kernel_.field("bpf_prog_array_item", "prog");
        const std::uint64_t step = TRY(kernel_.require_size_of("bpf_prog_array_item"));
        TRY(kernel_.require({items, program}));
        for (std::size_t i = 0;; ++i) {
            if (i > kMaxArrayItems) return fail(Code::limit, "an array of programs has no end");
            const GuestVirt item = array + items.offset + i * step;
            const GuestVirt at = TRY(kernel_.read_pointer(item, program));
            if (!at) return {};
            TRY(use(at));
        }
    }

    // ---- cgroups: kernel/bpf/cgroup.c --------------------------------------------------------

    Result<void> cgroups() {
        if (kernel_.size_of("cgroup_bpf") == 0) return {};
        const Field first = kernel_.field("cgroup_root", "cgrp"),
                    children = kernel_.field("cgroup", "self.children"),
                    sibling = kernel_.field("cgroup", "self.sibling");
        TRY(kernel_.require(
            {first, children, sibling, effective_at_, lists_, group_flags_, entry_node_}));
        std::vector<GuestVirt> stack{TRY(kernel_.symbol("cgrp_dfl_root")) + first.offset};
        std::unordered_set<GuestVirt> seen;
        while (!stack.empty()) {
            const GuestVirt group = stack.back();
            stack.pop_back();
            if (!seen.insert(group).second || seen.size() > limits::kMaxListSteps) {
                return fail(Code::limit, "the tree of cgroups is too large, or leads into itself");
            }
            TRY(cgroup(group));
            TRY(kernel_.walk_list(group + children.offset, [&](GuestVirt node) {
                stack.push_back(node - sibling.offset);
                return stack.size() <= limits::kMaxListSteps;
            }));
        }
        // What runs is in arrays that are made of all lists up to the root.
        for (const auto& [array, group, slot] : effective_) {
            TRY(each_of_array(array, [&](GuestVirt program) -> Result<void> {
                if (of_cgroups_.contains(program)) return {};
                return add({program, {}, TRY(cgroup_target(group, slot)), false, false});
            }));
        }
        return {};
    }

    Result<BpfTarget> cgroup_target(GuestVirt group, std::size_t slot) {
        const std::string path = TRY(targets_.cgroup(group));
        return BpfTarget{"cgroup", fmt::format("{} ({})", path, targets_.cgroup_slot(slot)),
                         group + slot};
    }

    Result<void> cgroup(GuestVirt group) {
        const std::size_t slots = effective_at_.size_bytes / 8;
        if (slots == 0 || slots > kMaxSlots || lists_.size_bytes % slots != 0) {
            return fail(Code::malformed, "a cgroup's lists of programs have no known form");
        }
        // Doubly linked until 6.0.
        const std::size_t head_bytes = lists_.size_bytes / slots;
        const bool is_ring = head_bytes == 16;
        if (!is_ring && head_bytes != 8) {
            return fail(Code::malformed, "a cgroup's lists of programs have no known form");
        }
        std::vector<GuestVirt> heads(lists_.size_bytes / 8), arrays(slots);
        const GuestVirt at = group + lists_.offset;
        TRY(kernel_.memory().read(at, std::as_writable_bytes(std::span(heads))));
        TRY(kernel_.memory().read(group + effective_at_.offset,
                                  std::as_writable_bytes(std::span(arrays))));
        // The arrays of one that is removed are freed while it waits for its last user.
        const bool is_online = (TRY(kernel_.read(group, group_flags_)) & kCssOnline) != 0;
        for (std::size_t slot = 0; slot < slots; ++slot) {
            if (is_online && arrays[slot] && arrays_seen_.insert(arrays[slot]).second) {
                effective_.push_back({arrays[slot], group, slot});
            }
            const GuestVirt head = at + slot * head_bytes;
            const GuestVirt first = heads[slot * head_bytes / 8];
            // One that was never made ready is all zeros.
            if (!first || first == head) continue;
            const auto use = [&](GuestVirt entry) {
                return cgroup_entry(entry - entry_node_.offset, group, slot);
            };
            if (!is_ring) {
                TRY(kernel_.walk_hlist(first, use));
                continue;
            }
            Result<void> inside;
            TRY(kernel_.walk_list(head, [&](GuestVirt entry) {
                inside = use(entry);
                return inside.has_value();
            }));
            TRY(std::move(inside));
        }
        return {};
    }

    Result<void> cgroup_entry(GuestVirt entry, GuestVirt group, std::size_t slot) {
        const Field program = kernel_.field("bpf_prog_list", "prog"),
                    link = kernel_.field("bpf_prog_list", "link"),
                    part = kernel_.field("bpf_cgroup_link", "link");
        TRY(kernel_.require({part}));
        BpfTarget target = TRY(cgroup_target(group, slot));
        if (const GuestVirt by = TRY(kernel_.read_pointer(entry, link))) {
            of_cgroups_.insert(TRY(kernel_.read_pointer(by + part.offset, link_program_)));
            return add_link(by + part.offset, std::move(target));
        }
        const GuestVirt at = TRY(kernel_.read_pointer(entry, program));
        of_cgroups_.insert(at);
        return add({at, {}, std::move(target), false, false});
    }

    // ---- functions: kernel/bpf/trampoline.c --------------------------------------------------

    Result<void> trampolines() {
        if (!has("bpf_trampoline_get")) return {};  // CONFIG_BPF_JIT=n
        const Field node = kernel_.field("bpf_trampoline", {"hlist_key", "hlist"}),
                    programs = kernel_.field("bpf_trampoline", "progs_hlist"),
                    replacing = kernel_.field("bpf_trampoline", "extension_prog");
        TRY(kernel_.require({node, programs, replacing}));
        const GuestVirt table = TRY(kernel_.symbol({"trampoline_key_table", "trampoline_table"}));
        std::array<GuestVirt, kTrampolineBuckets> buckets;
        TRY(kernel_.memory().read(table, std::as_writable_bytes(std::span(buckets))));
        for (const GuestVirt bucket : buckets) {
            TRY(kernel_.walk_hlist(bucket, [&](GuestVirt at) -> Result<void> {
                const GuestVirt trampoline = at - node.offset;
                for (std::uint32_t i = 0; i < programs.size_bytes / 8; ++i) {
                    const auto first = TRY(kernel_.memory().read<GuestVirt>(
                        trampoline + programs.offset + std::uint64_t{8} * i));
                    TRY(trampoline_list(trampoline, first));
                }
                const GuestVirt program = TRY(kernel_.read_pointer(trampoline, replacing));
                return add_at_trampoline(program, {}, trampoline);
            }));
        }
        return {};
    }

    Result<void> add_at_trampoline(GuestVirt program, GuestVirt link, GuestVirt trampoline) {
        if (!program) return {};
        BpfTarget target = TRY(targets_.function_of(program));
        target.at = trampoline;
        return add({program, link, std::move(target), true, false});
    }

    // Of programs themselves until 6.0, of links since, of nodes of links since 7.2.
    Result<void> trampoline_list(GuestVirt trampoline, GuestVirt first) {
        const Field of_program = kernel_.field("bpf_prog_aux", "tramp_hlist"),
                    of_link = kernel_.field("bpf_tramp_link", "tramp_hlist"),
                    of_node = kernel_.field("bpf_tramp_node", "tramp_hlist"),
                    link = kernel_.field("bpf_tramp_node", "link"),
                    part = kernel_.field("bpf_tramp_link", "link"),
                    program = kernel_.field("bpf_prog_aux", "prog"),
                    operations = kernel_.field("bpf_link", "ops");
        return kernel_.walk_hlist(first, [&](GuestVirt at) -> Result<void> {
            GuestVirt by;
            if (of_node.known()) {
                by = TRY(kernel_.read_pointer(at - of_node.offset, link));
            } else if (of_link.known()) {
                TRY(kernel_.require({part}));
                by = at - of_link.offset + part.offset;
            } else {
                TRY(kernel_.require({of_program}));
                const GuestVirt user = TRY(kernel_.read_pointer(at - of_program.offset, program));
                return add_at_trampoline(user, {}, trampoline);
            }
            // What calls the programs of cgroups for a security module is the kernel's own.
            const GuestVirt by_whom = TRY(kernel_.read_pointer(by, operations));
            if (shim_operations_ && by_whom == shim_operations_) return {};
            return add_at_trampoline(TRY(kernel_.read_pointer(by, link_program_)), by, trampoline);
        });
    }

    // ---- tracepoints: kernel/trace/bpf_trace.c -----------------------------------------------

    Result<void> raw_tracepoints() {
        if (!has("bpf_probe_register")) return {};  // CONFIG_BPF_EVENTS=n
        const Field node = kernel_.field("module", "list"),
                    count = kernel_.field("module", "num_bpf_raw_events"),
                    events = kernel_.field("module", "bpf_raw_events");
        const std::uint64_t step = TRY(kernel_.require_size_of("bpf_raw_event_map"));
        const GuestVirt begin = TRY(kernel_.symbol("__start__bpf_raw_tp")),
                        end = TRY(kernel_.symbol("__stop__bpf_raw_tp"));
        if (end < begin) return fail(Code::malformed, "the table of raw tracepoints has no end");
        TRY(raw_events(begin, (end - begin) / step, step));
        TRY(kernel_.require({node, count, events}));
        Result<void> inside;
        TRY(kernel_.walk_list(TRY(kernel_.symbol("modules")), [&](GuestVirt at) {
            inside = [&]() -> Result<void> {
                const GuestVirt module = at - node.offset;
                const std::uint64_t many = TRY(kernel_.read(module, count));
                if (many == 0) return {};
                return raw_events(TRY(kernel_.read_pointer(module, events)), many, step);
            }();
            return inside.has_value();
        }));
        return inside;
    }

    Result<void> raw_events(GuestVirt table, std::uint64_t count, std::uint64_t step) {
        const Field point = kernel_.field("bpf_raw_event_map", "tp"),
                    caller = kernel_.field("bpf_raw_event_map", "bpf_func"),
                    probes = kernel_.field("tracepoint", "funcs");
        if (count > kMaxRawEvents) return fail(Code::limit, "a table of tracepoints is too long");
        TRY(kernel_.require({point, caller, probes}));
        for (std::uint64_t i = 0; i < count; ++i) {
            const GuestVirt event = table + i * step;
            const GuestVirt at = TRY(kernel_.read_pointer(event, point));
            const GuestVirt first = TRY(kernel_.read_pointer(at, probes));
            if (!first) continue;
            TRY(tracepoint(at, first, TRY(kernel_.read_pointer(event, caller))));
        }
        return {};
    }

    // The data of a probe that calls BPF is its program, or its link since that has a cookie
    // (6.10).
    Result<void> tracepoint(GuestVirt point, GuestVirt first, GuestVirt caller) {
        const Field function = kernel_.field("tracepoint_func", "func"),
                    data = kernel_.field("tracepoint_func", "data"),
                    name = kernel_.field("tracepoint", "name"),
                    cookie = kernel_.field("bpf_raw_tp_link", "cookie"),
                    part = kernel_.field("bpf_raw_tp_link", "link");
        const std::uint64_t step = TRY(kernel_.require_size_of("tracepoint_func"));
        for (std::size_t i = 0;; ++i) {
            if (i > kMaxArrayItems) return fail(Code::limit, "a tracepoint has no last probe");
            const GuestVirt probe = first + i * step;
            const GuestVirt called = TRY(kernel_.read_pointer(probe, function));
            if (!called) return {};
            if (called != caller) continue;
            const GuestVirt what = TRY(kernel_.read_pointer(probe, data));
            std::string text = TRY(targets_.text(point, name));
            BpfTarget target{"raw_tracepoint", std::move(text), point};
            if (cookie.known()) {
                TRY(kernel_.require({part}));
                TRY(add_link(what + part.offset, std::move(target)));
            } else {
                TRY(add({what, {}, std::move(target), true, false}));
            }
        }
    }

    // ---- perf and trace events: kernel/trace/trace_events.c, kernel/events/core.c ------------

    Result<void> trace_events() {
        if (!has("perf_event_attach_bpf_prog")) return {};  // CONFIG_BPF_EVENTS=n
        const Field node = kernel_.field("trace_event_call", "list"),
                    programs = kernel_.field("trace_event_call", "prog_array");
        TRY(kernel_.require({node, programs}));
        Result<void> inside;
        TRY(kernel_.walk_list(TRY(kernel_.symbol("ftrace_events")), [&](GuestVirt at) {
            inside = trace_event(at - node.offset, programs);
            return inside.has_value();
        }));
        return inside;
    }

    Result<void> trace_event(GuestVirt call, const Field& programs) {
        const GuestVirt array = TRY(kernel_.read_pointer(call, programs));
        if (!array || !calls_seen_.insert(call).second) return {};
        return each_of_array(array, [&](GuestVirt program) -> Result<void> {
            return add({program, {}, TRY(targets_.trace_event(call)), false, false});
        });
    }

    // Those that tasks have made and keep.
    Result<void> perf_events(std::span<const GuestVirt> tasks) {
        if (!has("perf_event_set_bpf_prog") && kernel_.size_of("perf_event") == 0) return {};
        const Field events = kernel_.field("task_struct", "perf_event_list"),
                    node = kernel_.field("perf_event", "owner_entry"),
                    program = kernel_.field("perf_event", "prog"),
                    call = kernel_.field("perf_event", "tp_event"),
                    programs = kernel_.field("trace_event_call", "prog_array");
        TRY(kernel_.require({events, node, program, call, programs}));
        for (const GuestVirt task : tasks) {
            Result<void> inside;
            TRY(kernel_.walk_list(task + events.offset, [&](GuestVirt at) {
                inside = [&]() -> Result<void> {
                    const GuestVirt event = at - node.offset;
                    if (const GuestVirt traced = TRY(kernel_.read_pointer(event, call))) {
                        return trace_event(traced, programs);
                    }
                    const GuestVirt user = TRY(kernel_.read_pointer(event, program));
                    if (!user) return {};
                    return add({user, {}, TRY(targets_.perf_event(event)), false, false});
                }();
                return inside.has_value();
            }));
            TRY(std::move(inside));
        }
        return {};
    }

    // ---- the network -------------------------------------------------------------------------

    Result<void> net_namespaces() {
        const Field node = kernel_.field("net", "list"),
                    devices = kernel_.field("net", "dev_base_head"),
                    device = kernel_.field("net_device", "dev_list");
        TRY(kernel_.require({node, devices, device}));
        Result<void> inside;
        TRY(kernel_.walk_list(TRY(kernel_.symbol("net_namespace_list")), [&](GuestVirt at) {
            inside = [&]() -> Result<void> {
                const GuestVirt net = at - node.offset;
                TRY(net_namespace(net));
                TRY(netfilter(net));
                Result<void> of_device;
                TRY(kernel_.walk_list(net + devices.offset, [&](GuestVirt one) {
                    of_device = interface(one - device.offset);
                    return of_device.has_value();
                }));
                return of_device;
            }();
            return inside.has_value();
        }));
        return inside;
    }

    // Flow dissector and socket lookup: kernel/bpf/net_namespace.c.
    Result<void> net_namespace(GuestVirt net) {
        if (kernel_.size_of("netns_bpf") == 0) return {};
        const Field arrays = kernel_.field("net", "bpf.run_array"),
                    links = kernel_.field("net", "bpf.links"),
                    node = kernel_.field("bpf_netns_link", "node"),
                    part = kernel_.field("bpf_netns_link", "link");
        TRY(kernel_.require({arrays, links, node, part}));
        std::unordered_set<GuestVirt> linked;
        for (std::uint32_t i = 0; i < std::min<std::size_t>(arrays.size_bytes / 8, kMaxSlots);
             ++i) {
            const auto array =
                TRY(kernel_.memory().read<GuestVirt>(net + arrays.offset + std::uint64_t{8} * i));
            if (!array) continue;
            const std::string place = bpf_word(kernel_, "netns_bpf_attach_type", "NETNS_BPF_", i);
            const std::string name = TRY(targets_.net_namespace(net));
            const BpfTarget target{"netns", fmt::format("{} of {}", place, name), net};
            Result<void> inside;
            TRY(kernel_.walk_list(net + links.offset + std::uint64_t{16} * i, [&](GuestVirt at) {
                inside = [&]() -> Result<void> {
                    const GuestVirt link = at - node.offset + part.offset;
                    linked.insert(TRY(kernel_.read_pointer(link, link_program_)));
                    return add_link(link, target);
                }();
                return inside.has_value();
            }));
            TRY(std::move(inside));
            TRY(each_of_array(array, [&](GuestVirt program) -> Result<void> {
                if (linked.contains(program)) return {};
                return add({program, {}, target, false, false});
            }));
        }
        return {};
    }

    // struct nf_hook_entries: the hooks, then a pointer to what registered each; since 6.4 that may
    // be a link (net/netfilter/nf_bpf_link.c).
    Result<void> netfilter(GuestVirt net) {
        const auto runner = kernel_.symbol("nf_hook_run_bpf");
        if (!runner.has_value()) return {};  // CONFIG_NETFILTER_BPF_LINK=n
        const Field count = kernel_.field("nf_hook_entries", "num_hook_entries"),
                    function = kernel_.field("nf_hook_entry", "hook"),
                    operations = kernel_.field("bpf_nf_link", "hook_ops"),
                    part = kernel_.field("bpf_nf_link", "link");
        const std::uint64_t head = TRY(kernel_.require_size_of("nf_hook_entries")),
                            step = TRY(kernel_.require_size_of("nf_hook_entry"));
        TRY(kernel_.require({count, function, operations, part}));
        for (const auto& [member, family] :
             {std::pair{"nf.hooks_ipv4", 2}, {"nf.hooks_ipv6", 10}}) {
            const Field chains = kernel_.field("net", member);
            TRY(kernel_.require({chains}));
            for (std::uint32_t i = 0; i < std::min(chains.size_bytes / 8, 16u); ++i) {
                const auto chain = TRY(
                    kernel_.memory().read<GuestVirt>(net + chains.offset + std::uint64_t{8} * i));
                if (!chain) continue;
                const std::uint64_t many = TRY(kernel_.read(chain, count));
                if (many > kMaxNetfilterEntries) {
                    return fail(Code::limit, "a chain of netfilter is too long");
                }
                for (std::uint64_t entry = 0; entry < many; ++entry) {
                    const GuestVirt hook = chain + head + entry * step;
                    if (TRY(kernel_.read_pointer(hook, function)) != *runner) continue;
                    const auto own = TRY(
                        kernel_.memory().read<GuestVirt>(chain + head + many * step + 8 * entry));
                    const std::string name = TRY(targets_.net_namespace(net));
                    TRY(add_link(own - operations.offset + part.offset,
                                 {"netfilter",
                                  fmt::format("{} of {}",
                                              BpfTargets::netfilter_place(
                                                  static_cast<std::uint64_t>(family), i),
                                              name),
                                  net}));
                }
            }
        }
        return {};
    }

    Result<void> interface(GuestVirt device) {
        TRY(xdp(device));
        if (!has_tcx_ && !has_traffic_control_) return {};  // CONFIG_NET_CLS_ACT=n
        for (const auto& [side, at] : {std::pair<std::string_view, const Field&>{"ingress", in_},
                                       std::pair<std::string_view, const Field&>{"egress", out_}}) {
            const GuestVirt filters = TRY(kernel_.read_pointer(device, at));
            if (!filters) continue;
            TRY(has_tcx_ ? tcx(device, side, filters) : traffic_control(device, side, filters));
        }
        return {};
    }

    Result<BpfTarget> interface_target(std::string_view kind, GuestVirt device,
                                       std::string_view how) {
        const std::string name = TRY(targets_.interface(device));
        return BpfTarget{std::string(kind), fmt::format("{} ({})", name, how), device};
    }

    Result<void> xdp(GuestVirt device) {
        constexpr std::array<std::string_view, 3> kModes{"generic", "native", "offloaded"};
        const std::uint64_t step = TRY(kernel_.require_size_of("bpf_xdp_entity"));
        TRY(kernel_.require({xdp_modes_, xdp_part_}));
        for (std::size_t i = 0; i < kModes.size() && i * step < xdp_modes_.size_bytes; ++i) {
            const GuestVirt mode = device + xdp_modes_.offset + i * step;
            const GuestVirt by = TRY(kernel_.read_pointer(mode, xdp_link_)),
                            what = TRY(kernel_.read_pointer(mode, xdp_program_));
            if (!by && !what) continue;
            BpfTarget target = TRY(interface_target("xdp", device, kModes[i]));
            if (by) {
                TRY(add_link(by + xdp_part_.offset, std::move(target)));
            } else {
                TRY(add({what, {}, std::move(target), false, false}));
            }
        }
        return {};
    }

    // struct tcx_entry {miniq, bundle {a, b, cp_items}}: the interface points to a or b, whose
    // programs have their links in cp_items (include/net/tcx.h, include/linux/bpf_mprog.h).
    Result<void> tcx(GuestVirt device, std::string_view side, GuestVirt entry) {
        const Field parent = kernel_.field("bpf_mprog_entry", "parent"),
                    programs = kernel_.field("bpf_mprog_entry", "fp_items"),
                    links = kernel_.field("bpf_mprog_bundle", "cp_items"),
                    bundle = kernel_.field("tcx_entry", "bundle"),
                    queue = kernel_.field("tcx_entry", "miniq");
        TRY(kernel_.require({parent, programs, links, bundle, queue}));
        const GuestVirt of = TRY(kernel_.read_pointer(entry, parent));
        std::array<GuestVirt, kMprogItems> what, by;
        TRY(kernel_.memory().read(entry + programs.offset,
                                  std::as_writable_bytes(std::span(what))));
        TRY(kernel_.memory().read(of + links.offset, std::as_writable_bytes(std::span(by))));
        for (std::size_t i = 0; i < kMprogItems && what[i]; ++i) {
            BpfTarget target = TRY(interface_target("tcx", device, side));
            TRY(add({what[i], by[i], std::move(target), static_cast<bool>(by[i]), false}));
        }
        const GuestVirt filters = TRY(kernel_.read_pointer(of - bundle.offset, queue));
        if (!filters) return {};
        return traffic_control(device, side, filters);
    }

    // The filters of clsact and ingress: net/sched/cls_bpf.c.
    Result<void> traffic_control(GuestVirt device, std::string_view side, GuestVirt queue) {
        const Field first = kernel_.field("mini_Qdisc", "filter_list"),
                    next = kernel_.field("tcf_proto", "next"),
                    root = kernel_.field("tcf_proto", "root"),
                    operations = kernel_.field("tcf_proto", "ops"),
                    kind = kernel_.field("tcf_proto_ops", "kind");
        TRY(kernel_.require({first, next, root, operations, kind}));
        GuestVirt filter = TRY(kernel_.read_pointer(queue, first));
        for (std::size_t i = 0; filter; ++i) {
            if (i > kMaxFilters) return fail(Code::limit, "the filters of tc have no end");
            const GuestVirt type = TRY(kernel_.read_pointer(filter, operations));
            const GuestVirt all = TRY(kernel_.read_pointer(filter, root));
            if (all && TRY(kernel_.read_text(type, kind)) == "bpf") {
                Result<void> inside;
                TRY(kernel_.walk_list(all + kFilterList, [&](GuestVirt node) {
                    inside = [&]() -> Result<void> {
                        const auto program = TRY(
                            kernel_.memory().read<GuestVirt>(node - kFilterNode + kFilterProgram));
                        BpfTarget target = TRY(interface_target("tc", device, side));
                        return add({program, {}, std::move(target), false, true});
                    }();
                    return inside.has_value();
                }));
                TRY(std::move(inside));
            }
            filter = TRY(kernel_.read_pointer(filter, next));
        }
        return {};
    }

    Kernel& kernel_;
    BpfTargets& targets_;
    Gaps& gaps_;
    std::vector<BpfPlace> places_;
    GuestVirt dummy_, shim_operations_;
    struct EffectiveArray {
        GuestVirt array, group;
        std::size_t slot;
    };
    std::vector<EffectiveArray> effective_;
    std::unordered_set<GuestVirt> arrays_seen_, of_cgroups_, calls_seen_;
    // What is read of every cgroup and interface.
    Field link_program_ = kernel_.field("bpf_link", "prog"),
          effective_at_ = kernel_.field("cgroup", "bpf.effective"),
          lists_ = kernel_.field("cgroup", "bpf.progs"),
          group_flags_ = kernel_.field("cgroup", "self.flags"),
          entry_node_ = kernel_.field("bpf_prog_list", "node"),
          xdp_modes_ = kernel_.field("net_device", "xdp_state"),
          xdp_program_ = kernel_.field("bpf_xdp_entity", "prog"),
          xdp_link_ = kernel_.field("bpf_xdp_entity", "link"),
          xdp_part_ = kernel_.field("bpf_xdp_link", "link");
    // The filters of both sides stand at the interface until 6.6, and behind tcx since.
    bool has_tcx_ = kernel_.size_of("tcx_entry") != 0,
         has_traffic_control_ = kernel_.size_of("mini_Qdisc") != 0;
    Field in_ = kernel_.field("net_device", has_tcx_ ? "tcx_ingress" : "miniq_ingress"),
          out_ = kernel_.field("net_device", has_tcx_ ? "tcx_egress" : "miniq_egress");
};

}  // namespace

std::vector<BpfPlace> list_bpf_places(Kernel& kernel, BpfTargets& targets,
                                      std::span<const GuestVirt> tasks, Gaps& gaps) {
    return PlaceReader(kernel, targets, gaps).read(tasks);
}

}  // namespace underseer::guest_linux
