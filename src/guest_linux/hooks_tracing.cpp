// ftrace, kprobes and tracepoints.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "guest_linux/hook_collector.h"

namespace underseer::guest_linux {

namespace {

// FTRACE_OPS_FL_IPMODIFY (include/linux/ftrace.h, 5.10 to 7.2): an enumerator
// that not every kernel's types have.
constexpr std::uint64_t kIpModify = 1u << 12;
constexpr unsigned kMaxHashBits = 20;
constexpr std::size_t kKprobeBuckets = 64;  // KPROBE_TABLE_SIZE, kernel/kprobes.c
constexpr std::size_t kMaxProbes = 1024;    // of one tracepoint

class TracingHooks {
  public:
    explicit TracingHooks(HookCollector& collector) : to_(collector), kernel_(collector.kernel) {}

    // ftrace_ops_list ends at ftrace_list_end (kernel/trace/ftrace.c).
    Result<void> ftrace() {
        const Field next = kernel_.field("ftrace_ops", "next"),
                    function = kernel_.field("ftrace_ops", "func"),
                    flags = kernel_.field("ftrace_ops", "flags"),
                    filter = kernel_.field("ftrace_ops", "func_hash"),
                    functions = kernel_.field("ftrace_ops_hash", "filter_hash");
        TRY(kernel_.require({next, function, flags, filter, functions}));
        const GuestVirt last = TRY(kernel_.symbol("ftrace_list_end"));
        auto ops = TRY(kernel_.memory().read<GuestVirt>(TRY(kernel_.symbol("ftrace_ops_list"))));
        CircleGuard circle;
        for (std::size_t i = 0; ops && ops != last; ++i) {
            if (i > limits::kMaxListSteps || circle.closes_at(ops)) {
                return fail(Code::limit, "its chain does not come to its end");
            }
            Hook hook{.kind = HookKind::ftrace,
                      .target = TRY(kernel_.read_pointer(ops, function)),
                      .record = ops,
                      .redirects = (TRY(kernel_.read(ops, flags)) & kIpModify) != 0};
            const GuestVirt hash = TRY(kernel_.read_pointer(ops, filter));
            if (hash) {
                TRY(each_of_hash(
                    TRY(kernel_.read_pointer(hash, functions)),
                    [&](GuestVirt at, GuestVirt) { hook.functions.push_back(function_at(at)); }));
            }
            hook.point = text_of(hook.functions);
            to_.add(std::move(hook));
            ops = TRY(kernel_.read_pointer(ops, next));
        }
        return {};
    }

    // Functions that go straight to a trampoline instead (kernel/trace/ftrace.c, direct_functions).
    Result<void> direct() {
        const auto all = kernel_.symbol("direct_functions");
        if (!all.has_value()) return {};  // CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=n
        const auto hash = TRY(kernel_.memory().read<GuestVirt>(*all));
        return each_of_hash(hash, [&](GuestVirt at, GuestVirt target) {
            to_.add({HookKind::ftrace, function_at(at), target, hash, {function_at(at)}, true});
        });
    }

    Result<void> kprobes() {
        const Field node = kernel_.field("kprobe", "hlist");
        const GuestVirt table = TRY(kernel_.symbol("kprobe_table"));
        for (std::size_t i = 0; i < kKprobeBuckets; ++i) {
            const auto first = TRY(kernel_.memory().read<GuestVirt>(table + 8 * i));
            TRY(to_.each_hashed(first, node, [&](GuestVirt probe) { return kprobe(probe); }));
        }
        return {};
    }

    // Their addresses are 32 bits, each relative to where it stands (PREL32,
    // include/linux/tracepoint.h).
    Result<void> tracepoints() {
        TRY(kernel_.require({name_, probes_, probe_}));
        const GuestVirt begin = TRY(kernel_.symbol("__start___tracepoints_ptrs")),
                        end = TRY(kernel_.symbol("__stop___tracepoints_ptrs"));
        if (end < begin || end - begin > (1u << 20)) {
            return fail(Code::malformed, "the table of tracepoints has no end");
        }
        std::vector<std::int32_t> table((end - begin) / 4);
        TRY(kernel_.memory().read(begin, std::as_writable_bytes(std::span(table))));
        for (std::size_t i = 0; i < table.size(); ++i) {
            TRY(tracepoint(begin + 4 * i + static_cast<std::uint64_t>(std::int64_t{table[i]})));
        }
        return module_tracepoints();
    }

  private:
    // struct ftrace_hash: buckets of struct ftrace_func_entry, every one of which is read.
    template <typename Use>
    Result<void> each_of_hash(GuestVirt hash, Use&& use) {
        if (!hash) return {};
        const Field bits = kernel_.field("ftrace_hash", "size_bits"),
                    buckets = kernel_.field("ftrace_hash", "buckets"),
                    node = kernel_.field("ftrace_func_entry", "hlist"),
                    address = kernel_.field("ftrace_func_entry", "ip"),
                    direct = kernel_.field("ftrace_func_entry", "direct");
        TRY(kernel_.require({bits, buckets, node, address}));
        const std::uint64_t size_bits = TRY(kernel_.read(hash, bits));
        if (size_bits > kMaxHashBits) return fail(Code::limit, "a hash of functions is too large");
        std::size_t count = 0;
        const GuestVirt array = TRY(kernel_.read_pointer(hash, buckets));
        return to_.each_pointer(
            array, std::size_t{1} << size_bits, [&](GuestVirt first, std::size_t) {
                return to_.each_hashed(first, node, [&](GuestVirt entry) -> Result<void> {
                    if (++count > limits::kMaxHookedFunctions) {
                        to_.gap("ftrace", {Code::limit, 0,
                                           fmt::format("more than {} functions of one hook",
                                                       limits::kMaxHookedFunctions)});
                        return {};
                    }
                    use(TRY(kernel_.read_pointer(entry, address)),
                        direct.known() ? TRY(kernel_.read_pointer(entry, direct)) : GuestVirt{});
                    return {};
                });
            });
    }

    Result<void> kprobe(GuestVirt probe) {
        const Field address = kernel_.field("kprobe", "addr"),
                    before = kernel_.field("kprobe", "pre_handler"),
                    after = kernel_.field("kprobe", "post_handler"),
                    siblings = kernel_.field("kprobe", "list");
        TRY(kernel_.require({address, before, after, siblings}));
        const GuestVirt handler = TRY(kernel_.read_pointer(probe, before));
        // Several probes of one place are behind one that calls them all.
        if (const auto all = kernel_.symbol("aggr_pre_handler");
            all.has_value() && handler == *all) {
            return to_.each(probe + siblings.offset, siblings,
                            [&](GuestVirt one) { return kprobe(one); });
        }
        const GuestVirt place = TRY(kernel_.read_pointer(probe, address));
        const std::string function = function_at(place);
        const auto add = [&](GuestVirt target) {
            to_.add({HookKind::kprobe, function, target, probe, {function}, false, place});
        };
        add(TRY(kernel_.read_pointer(probe, after)));
        const auto returning = kernel_.symbol("pre_handler_kretprobe");
        if (!returning.has_value() || handler != *returning) {
            add(handler);
            return {};
        }
        const Field outer = kernel_.field("kretprobe", "kp"),
                    leaving = kernel_.field("kretprobe", "handler"),
                    entering = kernel_.field("kretprobe", "entry_handler");
        TRY(kernel_.require({outer, leaving, entering}));
        const GuestVirt owner = probe - outer.offset;
        add(TRY(kernel_.read_pointer(owner, leaving)));
        add(TRY(kernel_.read_pointer(owner, entering)));
        return {};
    }

    Result<void> tracepoint(GuestVirt at) {
        const GuestVirt array = TRY(kernel_.read_pointer(at, probes_));
        if (!array) {
            to_.add({.kind = HookKind::tracepoint});
            return {};
        }
        const std::string called =
            TRY(kernel_.memory().read_cstring(TRY(kernel_.read_pointer(at, name_)), 128));
        for (std::size_t i = 0;; ++i) {
            const GuestVirt record = array + i * probe_bytes_;
            const GuestVirt target = TRY(kernel_.read_pointer(record, probe_));
            if (!target) return {};
            if (i > kMaxProbes) return fail(Code::limit, "a tracepoint has no last probe");
            to_.add({HookKind::tracepoint, called, target, record, {}, false});
        }
    }

    Result<void> module_tracepoints() {
        const Field node = kernel_.field("tp_module", "list"),
                    module = kernel_.field("tp_module", "mod"),
                    count = kernel_.field("module", "num_tracepoints"),
                    table = kernel_.field("module", "tracepoints_ptrs");
        const auto modules = kernel_.symbol("tracepoint_module_list");
        if (!modules.has_value() || !node.known()) return {};
        TRY(kernel_.require({module, count, table}));
        return to_.each(*modules, node, [&](GuestVirt at) -> Result<void> {
            const GuestVirt owner = TRY(kernel_.read_pointer(at, module));
            const std::uint64_t many = TRY(kernel_.read(owner, count));
            if (many > (1u << 16)) return fail(Code::limit, "a module has too many tracepoints");
            const GuestVirt begin = TRY(kernel_.read_pointer(owner, table));
            std::vector<std::int32_t> offsets(many);
            TRY(kernel_.memory().read(begin, std::as_writable_bytes(std::span(offsets))));
            for (std::size_t i = 0; i < many; ++i) {
                TRY(tracepoint(begin + 4 * i +
                               static_cast<std::uint64_t>(std::int64_t{offsets[i]})));
            }
            return {};
        });
    }

    // The function that an address is in, by its name alone where it is the kernel's.
    std::string function_at(GuestVirt address) const {
        const std::string text = symbol_text(kernel_, address);
        return text.substr(0, text.find('+'));
    }

    static std::string text_of(const std::vector<std::string>& functions) {
        if (functions.empty()) return "every function";
        if (functions.size() == 1) return functions[0];
        return fmt::format("{} and {} more", functions[0], functions.size() - 1);
    }

    HookCollector& to_;
    Kernel& kernel_;
    Field name_ = kernel_.field("tracepoint", "name"),
          probes_ = kernel_.field("tracepoint", "funcs"),
          probe_ = kernel_.field("tracepoint_func", "func");
    std::uint64_t probe_bytes_ = kernel_.size_of("tracepoint_func");
};

}  // namespace

void collect_kprobes(HookCollector& collector) {
    const bool has_none = !collector.has("kprobe_table") && !collector.has("register_kprobe");
    if (has_none) return;  // CONFIG_KPROBES=n
    TracingHooks hooks(collector);
    collector.part("kprobes", [&] { return hooks.kprobes(); });
}

void collect_tracing_hooks(HookCollector& collector) {
    TracingHooks hooks(collector);
    collector.part("ftrace", [&] { return hooks.ftrace(); });
    collector.part("ftrace's direct calls", [&] { return hooks.direct(); });
    collector.part("kprobes", [&] { return hooks.kprobes(); });
    collector.part("tracepoints", [&] { return hooks.tracepoints(); });
}

}  // namespace underseer::guest_linux
