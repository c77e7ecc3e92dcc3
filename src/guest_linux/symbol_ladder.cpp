#include "guest_linux/symbol_ladder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <span>

#include "guest_linux/code_operands.h"
#include "guest_linux/kernel.h"
#include "guest_linux/ksymtab.h"

namespace underseer::guest_linux {

namespace {

// The functions named below are some hundred bytes long; what follows their variable is not needed.
constexpr std::size_t kMaxCodeBytes = 4096;
constexpr std::size_t kMaxCheckedList = 1u << 16;
constexpr unsigned kCssSetHashBits = 7;       // CSS_SET_HASH_BITS, kernel/cgroup/cgroup.c
constexpr std::uint32_t kMaxSubsystems = 64;  // CGROUP_SUBSYS_COUNT is 14 in Linux 6.18
// Numbers of namespaces: from here on, and those of the first ones just below
// (PROC_DYNAMIC_FIRST, include/linux/proc_ns.h; include/uapi/linux/nsfs.h, 6.18).
constexpr std::uint64_t kFirstNamespaceNumber = 0xefffff00;
constexpr std::uint64_t kFirstYear = 946'684'800, kLastYear = 4'102'444'800;  // 2000 and 2100

// Whether an address can be that variable: what must be true of it, and of hardly anything else.
class Invariants {
  public:
    explicit Invariants(Kernel& kernel) : kernel_(kernel) {}

    bool init_task(GuestVirt at) {
        const auto pid = kernel_.read(at, field("task_struct", "pid"));
        const auto comm = kernel_.read_text(at, field("task_struct", "comm"));
        return pid.has_value() && *pid == 0 && comm.has_value() && comm->starts_with("swapper");
    }

    // The first task's pid is a number of the first namespace.
    bool init_pid_ns(GuestVirt at) {
        const auto init = kernel_.symbol("init_task");
        if (!init.has_value()) return false;
        const auto pid = kernel_.read_pointer(*init, field("task_struct", "thread_pid"));
        const Field numbers = field("pid", "numbers");
        if (!pid.has_value() || !numbers.known()) return false;
        const auto ns = kernel_.read_pointer(*pid + numbers.offset, field("upid", "ns"));
        return ns.has_value() && *ns == at;
    }

    bool init_uts_ns(GuestVirt at) {
        const auto name = kernel_.read_text(at, field("uts_namespace", "name.sysname"));
        return name.has_value() && *name == "Linux";
    }

    bool jiffies_64(GuestVirt at) { return word(at) != 0; }
    bool system_state(GuestVirt at) {
        const auto state = kernel_.memory().read<std::uint32_t>(at);
        return state.has_value() && *state < 16;
    }

    // Offsets of CPUs that are not possible are those of the linked image, and small or equal.
    bool per_cpu_offset(GuestVirt at) { return word(at) >= 0x1000; }
    bool possible_mask(GuestVirt at) { return (word(at) & 1) != 0; }

    bool runqueues(GuestVirt at) {
        const auto cpus = kernel_.possible_cpus();
        const Field cpu_field = field("rq", "cpu"), idle_field = field("rq", "idle");
        if (!cpus.has_value() || cpus->empty()) return false;
        return std::ranges::all_of(*cpus, [&](unsigned cpu) {
            const auto rq = kernel_.per_cpu(at, cpu);
            if (!rq.has_value()) return false;
            const auto number = kernel_.read(*rq, cpu_field);
            const auto idle = kernel_.read_pointer(*rq, idle_field);
            return number.has_value() && *number == cpu && idle.has_value() && *idle &&
                   init_task(*idle);
        });
    }

    // A CPU's clocks lead back to it; hrtimers_prepare_cpu() sets that, so those of a CPU that was
    // never up still lead nowhere (kernel/time/hrtimer.c).
    bool hrtimer_bases(GuestVirt at) {
        const Field clocks = field("hrtimer_cpu_base", "clock_base");
        const Field back = field("hrtimer_clock_base", "cpu_base");
        const auto cpus = kernel_.possible_cpus();
        if (!clocks.known() || !back.known() || !cpus.has_value()) return false;
        std::size_t up = 0;
        for (const unsigned cpu : *cpus) {
            const auto own = kernel_.per_cpu(at, cpu);
            if (!own.has_value()) return false;
            const auto leads_to = kernel_.read_pointer(*own + clocks.offset, back);
            if (!leads_to.has_value() || (*leads_to && *leads_to != *own)) return false;
            if (*leads_to) ++up;
        }
        return up > 0;
    }

    bool prb(GuestVirt at) {
        const auto ring = kernel_.memory().read<GuestVirt>(at);
        if (!ring.has_value()) return false;
        const auto count = kernel_.read(*ring, field("printk_ringbuffer", "desc_ring.count_bits"));
        const auto size =
            kernel_.read(*ring, field("printk_ringbuffer", "text_data_ring.size_bits"));
        const auto text =
            kernel_.read_pointer(*ring, field("printk_ringbuffer", "text_data_ring.data"));
        return count.has_value() && *count >= 4 && *count <= 22 && size.has_value() &&
               *size >= 10 && *size <= 30 && text.has_value() &&
               kernel_.memory().translate(*text).has_value();
    }

    bool net_namespace_list(GuestVirt at) {
        const Field list = field("net", "list"), number = field("net", "ns.inum");
        if (!list.known()) return false;
        return ring(at, [&](GuestVirt node) {
            return kernel_.read(node - list.offset, number).value_or(0) >= kFirstNamespaceNumber;
        });
    }

    // struct module holds itself: mkobj.mod (kernel/module/sysfs.c, mod_sysfs_init).
    bool modules(GuestVirt at) {
        const Field list = field("module", "list"), self = field("module", "mkobj.mod");
        if (!list.known()) return false;
        return ring(at, [&](GuestVirt node) {
            const GuestVirt module = node - list.offset;
            const auto own = kernel_.read_pointer(module, self);
            return own.has_value() && *own == module;
        });
    }

    // The first task's css_set hangs in the bucket that its hash says (kernel/cgroup/cgroup.c,
    // css_set_hash(); include/linux/hash.h, hash_64()).
    bool css_set_table(GuestVirt at) {
        const auto init = kernel_.symbol("init_task");
        const Field node_field = field("css_set", "hlist"), states = field("css_set", "subsys");
        if (!init.has_value() || !node_field.known() || states.size_bytes > 8 * kMaxSubsystems) {
            return false;
        }
        const auto set = kernel_.read_pointer(*init, field("task_struct", "cgroups"));
        if (!set.has_value()) return false;
        std::uint64_t key = 0;
        for (std::uint32_t i = 0; i < states.size_bytes / 8; ++i) {
            key += word(*set + states.offset + 8ull * i);
        }
        key = ((key ^ key >> 16) * 0x61c8864680b583eb) >> (64 - kCssSetHashBits);
        GuestVirt node = *set + node_field.offset;
        for (std::size_t step = 0; step < kMaxCheckedList; ++step) {
            // struct hlist_node {next, pprev}: pprev is &previous->next, and next comes first
            const auto back = kernel_.memory().read<GuestVirt>(node + 8);
            if (!back.has_value()) return false;
            if (*back == at + 8 * key) return true;
            node = *back;
        }
        return false;
    }

    // The clock that drives it has a name and a function (struct clocksource).
    bool timekeeper(GuestVirt core) {
        const GuestVirt tk = core + kernel_.timekeeper_offset();
        const auto seconds = kernel_.read(tk, field("timekeeper", "xtime_sec"));
        if (!seconds.has_value() || *seconds < kFirstYear || *seconds > kLastYear) return false;
        const auto clock = kernel_.read_pointer(tk, field("timekeeper", "tkr_mono.clock"));
        if (!clock.has_value()) return false;
        const auto function = kernel_.read_pointer(*clock, field("clocksource", "read"));
        return function.has_value() && kernel_.image().executable(*function);
    }

    bool tcp_hashinfo(GuestVirt at) {
        const auto mask = kernel_.read(at, field("inet_hashinfo", "ehash_mask"));
        const auto table = kernel_.read_pointer(at, field("inet_hashinfo", "ehash"));
        return mask.has_value() && *mask != 0 && (*mask & (*mask + 1)) == 0 && table.has_value() &&
               kernel_.memory().translate(*table).has_value();
    }

    bool special_mapping_vmops(GuestVirt at) {
        // The name tells it from legacy_special_mapping_vmops.
        return is_function(at, "fault", "special_mapping_fault") &&
               is_function(at, "name", "special_mapping_name");
    }

    bool vsyscall_mode(GuestVirt at) {
        const auto mode = kernel_.memory().read<std::uint32_t>(at);
        return mode.has_value() && *mode <= 2 && at.value % 4 == 0;
    }

  private:
    Field field(std::string_view structure, std::string_view path) const {
        return kernel_.field(structure, path);
    }
    std::uint64_t word(GuestVirt at) {
        return kernel_.memory().read<std::uint64_t>(at).value_or(0);
    }

    bool is_function(GuestVirt operations, std::string_view member, std::string_view function) {
        const auto set = kernel_.read_pointer(operations, field("vm_operations_struct", member));
        const auto own = kernel_.symbol(function);
        return set.has_value() && own.has_value() && *set == *own;
    }

    // A list that is not empty, comes back to its head, and all of whose nodes are `good`.
    template <typename Good>
    bool ring(GuestVirt head, Good&& good) {
        std::size_t nodes = 0;
        bool all = true;
        const auto walked = kernel_.walk_list(
            head, [&](GuestVirt node) { return ++nodes, all = good(node); }, kMaxCheckedList);
        return walked.has_value() && all && nodes > 0;
    }

    Kernel& kernel_;
};

struct Row {
    std::string_view name;
    std::string_view formerly;  // another name that kallsyms may have it under
    bool (Invariants::*holds)(GuestVirt);
    // Functions whose code refers to it, with the source that says so.
    std::vector<std::string_view> functions;
    // How far into the variable they refer.
    std::uint64_t (*into)(Kernel&) = nullptr;
    // An invariant that much else fulfils too: so many of the functions must refer to it.
    unsigned agreeing = 1;
};

// In an order in which each invariant finds what it needs. Functions as in Linux 5.10 to 7.2.
const std::vector<Row>& rows() {
    using I = Invariants;
    static const std::vector<Row> kRows{
        // arch/x86/kernel/setup_percpu.c and kernel/cpu.c: exported
        {"__per_cpu_offset", "", &I::per_cpu_offset, {}},
        {"__cpu_possible_mask", "", &I::possible_mask, {}},
        // init/init_task.c: exported. kernel/sched/debug.c, kernel/fork.c: for_each_process()
        {"init_task",
         "",
         &I::init_task,
         {"normalize_rt_tasks", "show_state_filter", "clear_tasks_mm_cpumask"}},
        // kernel/pid.c: exported
        {"init_pid_ns", "", &I::init_pid_ns, {"find_ge_pid", "pid_nr", "alloc_pid"}},
        // init/version.c: exported, and in VMCOREINFO
        {"init_uts_ns", "", &I::init_uts_ns, {"free_uts_ns", "copy_utsname"}},
        // kernel/time/timer.c and init/main.c: exported
        {"jiffies_64", "", &I::jiffies_64, {}},
        {"system_state", "", &I::system_state, {}},
        // kernel/sched/core.c, cpu_rq(): idle_task(), task_curr(), idle_cpu()
        {"runqueues",
         "",
         &I::runqueues,
         {"idle_task", "idle_cpu", "task_curr", "available_idle_cpu", "nr_iowait_cpu",
          "scheduler_tick", "sched_tick"}},
        // kernel/time/hrtimer.c: this_cpu_ptr() and per_cpu() of it
        {"hrtimer_bases",
         "",
         &I::hrtimer_bases,
         {"hrtimer_interrupt", "hrtimer_run_queues", "hrtimers_prepare_cpu",
          "hrtimer_get_next_event", "hrtimer_setup", "__hrtimer_init"}},
        // kernel/printk/printk.c: in VMCOREINFO
        {"prb",
         "",
         &I::prb,
         {"vprintk_store", "devkmsg_read", "kmsg_dump_get_line", "devkmsg_poll"}},
        // net/core/net_namespace.c: exported
        {"net_namespace_list",
         "",
         &I::net_namespace_list,
         {"rtnl_link_unregister", "register_pernet_operations"}},
        // kernel/module/main.c, print_modules() and find_module_all()
        {"modules",
         "",
         &I::modules,
         {"print_modules", "find_module_all", "module_kallsyms_lookup_name", "m_start"}},
        // kernel/cgroup/cgroup.c, find_css_set(): hash_for_each_possible(), hash_add()
        {"css_set_table",
         "",
         &I::css_set_table,
         {"find_css_set", "find_existing_css_set", "put_css_set_locked"}},
        // kernel/time/timekeeping.c: both return or copy xtime_sec
        {"tk_core",
         "timekeeper_data",
         &I::timekeeper,
         {"ktime_get_real_seconds", "ktime_get_coarse_real_ts64", "ktime_get_seconds"},
         [](Kernel& kernel) -> std::uint64_t {
             return kernel.timekeeper_offset() + kernel.field("timekeeper", "xtime_sec").offset;
         }},
        // net/ipv4/tcp_ipv4.c: exported until 6.11; tcp_sk_init() makes it that of a namespace
        {"tcp_hashinfo",
         "",
         &I::tcp_hashinfo,
         {"tcp_sk_init", "tcp_set_hashinfo", "tcp_sk_exit_batch", "tcp_v4_rcv"}},
        // mm/mmap.c, vma_is_special_mapping(), and __install_special_mapping()
        {"special_mapping_vmops",
         "",
         &I::special_mapping_vmops,
         {"vma_is_special_mapping", "_install_special_mapping", "__install_special_mapping"}},
        // arch/x86/entry/vsyscall/vsyscall_64.c
        {"vsyscall_mode",
         "",
         &I::vsyscall_mode,
         {"get_gate_vma", "emulate_vsyscall", "emulate_vsyscall_pf", "__emulate_vsyscall",
          "emulate_vsyscall_gp"},
         nullptr,
         2},
    };
    return kRows;
}

class Ladder {
  public:
    Ladder(Kernel& kernel, Bytes rodata, GuestVirt at) : kernel_(kernel), invariants_(kernel) {
        std::vector<std::string_view> names;
        for (const Row& row : rows()) {
            if (!known(row)) names.push_back(row.name);
        }
        if (!names.empty()) exports_ = find_exports(rodata, at, names);
    }

    void climb() {
        for (const Row& row : rows()) {
            if (!known(row)) find(row);
        }
    }

  private:
    bool known(const Row& row) const {
        return kernel_.symbol(row.name).has_value() ||
               (!row.formerly.empty() && kernel_.symbol(row.formerly).has_value());
    }

    bool holds(const Row& row, GuestVirt at) { return (invariants_.*row.holds)(at); }

    void find(const Row& row) {
        if (const auto found = exports_.find(row.name); found != exports_.end()) {
            // Where the types are not known the name must do, as in kallsyms.
            if (kernel_.types().type_count() == 0 || holds(row, found->second)) {
                return kernel_.adopt_symbol(row.name, found->second, "ksymtab");
            }
        }
        if (const auto& info = kernel_.vmcoreinfo()) {
            const auto said = info->symbol(row.name);
            if (said && holds(row, *said)) {
                return kernel_.adopt_symbol(row.name, *said, "VMCOREINFO");
            }
        }
        find_operand(row);
    }

    void find_operand(const Row& row) {
        const std::uint64_t into = row.into ? row.into(kernel_) : 0;
        std::map<std::uint64_t, unsigned> seen;
        for (const std::string_view function : row.functions) {
            for (const std::uint64_t value : operands_of(function)) {
                if (++seen[value] < row.agreeing) continue;
                const GuestVirt at = GuestVirt{value} - into;
                if (!holds(row, at)) continue;
                return kernel_.adopt_symbol(row.name, at, fmt::format("operand of {}", function));
            }
        }
    }

    // A compiler may have left only a changed copy of a function.
    std::vector<std::uint64_t> operands_of(std::string_view function) {
        for (const std::string_view suffix : {"", ".isra.0", ".constprop.0", ".part.0"}) {
            const auto at = kernel_.symbols().address(fmt::format("{}{}", function, suffix));
            if (!at || !kernel_.image().executable(*at)) continue;
            const auto next = kernel_.symbols().after(*at);
            const std::size_t size =
                next ? std::min<std::uint64_t>(*next - *at, kMaxCodeBytes) : kMaxCodeBytes;
            std::vector<std::byte> code(size);
            if (kernel_.memory().read(*at, code).has_value()) return code_operands(code, *at);
        }
        return {};
    }

    Kernel& kernel_;
    Invariants invariants_;
    std::map<std::string, GuestVirt, std::less<>> exports_;
};

}  // namespace

void find_missing_symbols(Kernel& kernel, Bytes rodata, GuestVirt at) {
    Ladder(kernel, rodata, at).climb();
}

}  // namespace underseer::guest_linux
