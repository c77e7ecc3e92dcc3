#include "guest_linux/tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>

#include "guest_linux/fingerprint.h"

namespace underseer::guest_linux {

namespace {

// include/linux/sched.h: bits of task->__state and exit_state, the same from 5.10 to 7.2.
constexpr std::uint64_t kTaskUninterruptible = 0x02, kTaskReport = 0x7f, kTaskNoload = 0x400,
                        kTaskRtlockWait = 0x1000, kTaskFrozen = 0x8000;

// Kernels have some fifteen controllers, each in one hierarchy, and few name more without any.
constexpr std::size_t kMaxHierarchies = 64;

// Of text in which every word ends with NUL.
std::vector<std::string> words_of(std::string_view text) {
    std::vector<std::string> words;
    if (text.empty()) return words;
    if (text.ends_with('\0')) text.remove_suffix(1);
    for (;;) {
        const std::size_t nul = text.find('\0');
        words.emplace_back(text.substr(0, nul));
        if (nul == std::string_view::npos) return words;
        text.remove_prefix(nul + 1);
    }
}

// signal_struct.pids[PIDTYPE_TGID] (include/linux/pid_types.h, since 4.19).
Field tgid_pid(const Kernel& kernel) {
    Field field = kernel.field("signal_struct", "pids");
    if (!field.known()) return field;
    field.offset += sizeof(std::uint64_t);
    field.size_bytes = sizeof(std::uint64_t);
    return field;
}

bool is_hex_id(std::string_view text) {
    return text.size() == 64 && std::ranges::all_of(text, [](char c) {
               return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
           });
}

}  // namespace

std::string container_id_of(std::string_view path) {
    while (!path.empty()) {
        const std::size_t slash = path.rfind('/');
        std::string_view part = slash == std::string_view::npos ? path : path.substr(slash + 1);
        path = slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
        if (part.starts_with("lxc.payload.")) return std::string(part.substr(12));
        if (part.ends_with(".scope")) part.remove_suffix(6);
        if (part.size() > 64 && part[part.size() - 65] == '-') part = part.substr(part.size() - 64);
        if (is_hex_id(part)) return std::string(part);
    }
    return {};
}

Tasks::Tasks(Kernel* kernel, Paths* paths) : kernel_(kernel), paths_(paths) {
    const Kernel& k = *kernel;
    f_ = {
        .pid = k.field("task_struct", "pid"),
        .tgid = k.field("task_struct", "tgid"),
        .comm = k.field("task_struct", "comm"),
        .state = k.field("task_struct", {"__state", "state"}),  // renamed in 5.14
        .exit_state = k.field("task_struct", "exit_state"),
        .flags = k.field("task_struct", "flags"),
        .real_parent = k.field("task_struct", "real_parent"),
        .mm = k.field("task_struct", "mm"),
        .cred = k.field("task_struct", "real_cred"),
        .signal = k.field("task_struct", "signal"),
        .nsproxy = k.field("task_struct", "nsproxy"),
        .fs = k.field("task_struct", "fs"),
        .thread_pid = k.field("task_struct", "thread_pid"),
        .cgroups = k.field("task_struct", "cgroups"),
        .start_boottime = k.field("task_struct", {"start_boottime", "real_start_time"}),
        .ptrace = k.field("task_struct", "ptrace"),
        .nr_threads = k.field("signal_struct", "nr_threads"),
        .thread_head = k.field("signal_struct", "thread_head"),
        .tgid_pid = tgid_pid(k),
        .exe_file = k.field("mm_struct", "exe_file"),
        .pgd = k.field("mm_struct", "pgd"),
        .arg_start = k.field("mm_struct", "arg_start"),
        .arg_end = k.field("mm_struct", "arg_end"),
        .env_start = k.field("mm_struct", "env_start"),
        .env_end = k.field("mm_struct", "env_end"),
        .uid = k.field("cred", "uid"),
        .euid = k.field("cred", "euid"),
        .suid = k.field("cred", "suid"),
        .fsuid = k.field("cred", "fsuid"),
        .gid = k.field("cred", "gid"),
        .egid = k.field("cred", "egid"),
        .sgid = k.field("cred", "sgid"),
        .fsgid = k.field("cred", "fsgid"),
        .cap_inheritable = k.field("cred", "cap_inheritable"),
        .cap_permitted = k.field("cred", "cap_permitted"),
        .cap_effective = k.field("cred", "cap_effective"),
        .cap_bset = k.field("cred", "cap_bset"),
        .cap_ambient = k.field("cred", "cap_ambient"),
        .user_ns = k.field("cred", "user_ns"),
        .fs_pwd = k.field("fs_struct", "pwd"),
        .fs_root = k.field("fs_struct", "root"),
        .ns_mnt = k.field("nsproxy", "mnt_ns"),
        .ns_net = k.field("nsproxy", "net_ns"),
        .ns_uts = k.field("nsproxy", "uts_ns"),
        .ns_ipc = k.field("nsproxy", "ipc_ns"),
        .ns_cgroup = k.field("nsproxy", "cgroup_ns"),
        .ns_time = k.field("nsproxy", "time_ns"),
        .pid_level = k.field("pid", "level"),
        .pid_numbers = k.field("pid", "numbers"),
        .upid_nr = k.field("upid", "nr"),
        .upid_ns = k.field("upid", "ns"),
        .css_dfl_cgrp = k.field("css_set", "dfl_cgrp"),
        .css_links = k.field("css_set", "cgrp_links"),
        .link_node = k.field("cgrp_cset_link", "cgrp_link"),
        .link_cgrp = k.field("cgrp_cset_link", "cgrp"),
        .cgroup_kn = k.field("cgroup", "kn"),
        .kn_parent = k.field("kernfs_node", {"__parent", "parent"}),  // renamed in 6.15
        .kn_name = k.field("kernfs_node", "name"),
    };
}

Result<event::Task> Tasks::read(GuestVirt task, TaskDetail detail) {
    event::Task result;
    result.address = task.value;
    const std::uint64_t pid = TRY(kernel_->read(task, f_.pid));
    const std::uint64_t tgid = TRY(kernel_->read(task, f_.tgid));
    if (pid > kPidMaxLimit || tgid > kPidMaxLimit) {
        return fail(Code::unavailable,
                    fmt::format("{:#x} holds no task: pid {}, tgid {}", task.value, pid, tgid));
    }
    result.pid = static_cast<std::uint32_t>(pid);
    result.tgid = static_cast<std::uint32_t>(tgid);
    result.comm = TRY(kernel_->read_text(task, f_.comm));
    result.kernel_thread = (TRY(kernel_->read(task, f_.flags)) & kPfKthread) != 0;
    result.state = state(task).value_or("?");
    result.ppid = observed(parent(task));
    result.credentials = observed(credentials(task));
    result.start_time = observed(start_time(task));
    result.namespace_pids = observed(namespace_pids(task));
    result.namespace_tgids = observed(namespace_tgids(task));
    result.namespaces = observed(namespaces(task));
    result.thread_count = observed(thread_count(task));
    if (detail.paths) read_paths(task, result);
    if (detail.user_memory) result.argv = observed(argv(task));
    if (detail.environment) result.environment = observed(environment(task));
    return result;
}

Result<std::uint64_t> Tasks::fingerprint(GuestVirt task) {
    Fingerprint print;
    for (const Field& field :
         {f_.pid, f_.tgid, f_.flags, f_.exit_state, f_.real_parent, f_.mm, f_.cred, f_.signal,
          f_.nsproxy, f_.fs, f_.thread_pid, f_.cgroups, f_.start_boottime}) {
        print.add(TRY(kernel_->read(task, field)));
    }
    if (f_.ptrace.known()) print.add(TRY(kernel_->read(task, f_.ptrace)));
    const std::string comm = TRY(kernel_->read_text(task, f_.comm));
    for (const char c : comm) print.add(static_cast<unsigned char>(c));
    return print.value();
}

void Tasks::refresh(event::Task& task) {
    const GuestVirt address{task.address};
    task.state = state(address).value_or("?");
    task.credentials = observed(credentials(address));
}

void Tasks::read_paths(GuestVirt task, event::Task& result) {
    result.exe = observed(exe(task));
    result.cwd = observed(fs_path(task, f_.fs_pwd));
    result.root = observed(fs_path(task, f_.fs_root));
    auto member = membership(task);
    if (!member.has_value()) {
        result.cgroup = observed<std::string>(fail(member.error()));
        result.container_id = result.cgroup;
        return;
    }
    result.cgroup = std::move(member->cgroup);
    result.container_id = std::move(member->container_id);
}

Result<std::uint32_t> Tasks::parent(GuestVirt task) {
    const GuestVirt parent = TRY(kernel_->read_pointer(task, f_.real_parent));
    return parent ? TRY(tgid(parent)) : 0u;
}

Result<std::uint32_t> Tasks::thread_count(GuestVirt task) {
    const GuestVirt signal = TRY(kernel_->read_pointer(task, f_.signal));
    if (!signal) return fail(Code::unavailable, "the task has exited");
    return static_cast<std::uint32_t>(TRY(kernel_->read(signal, f_.nr_threads)));
}

// fs/proc/array.c, get_task_state(); include/linux/sched.h, __task_state_index().
Result<std::string> Tasks::state(GuestVirt task) {
    static constexpr std::string_view kLetters = "RSDTtXZPI";
    const std::uint64_t running = TRY(kernel_->read(task, f_.state));
    const std::uint64_t exit = TRY(kernel_->read(task, f_.exit_state));
    std::uint64_t report = (running | exit) & kTaskReport;
    if ((running & (kTaskUninterruptible | kTaskNoload)) == (kTaskUninterruptible | kTaskNoload)) {
        return std::string("I");
    }
    if ((running & (kTaskRtlockWait | kTaskFrozen)) != 0) report = kTaskUninterruptible;
    const auto index = static_cast<std::size_t>(std::bit_width(report));
    return std::string(1, index < kLetters.size() ? kLetters[index] : '?');
}

Result<event::Credentials> Tasks::credentials(GuestVirt task) {
    const GuestVirt cred = TRY(kernel_->read_pointer(task, f_.cred));
    const auto id = [&](const Field& field) -> Result<std::uint32_t> {
        return static_cast<std::uint32_t>(TRY(kernel_->read(cred, field)));
    };
    event::Credentials c;
    c.uid = TRY(id(f_.uid));
    c.euid = TRY(id(f_.euid));
    c.suid = TRY(id(f_.suid));
    c.fsuid = TRY(id(f_.fsuid));
    c.gid = TRY(id(f_.gid));
    c.egid = TRY(id(f_.egid));
    c.sgid = TRY(id(f_.sgid));
    c.fsgid = TRY(id(f_.fsgid));
    // kernel_cap_t: two 32-bit words until 6.2, one of 64 bits since; the same bytes.
    c.cap_inheritable = TRY(kernel_->read(cred, f_.cap_inheritable));
    c.cap_permitted = TRY(kernel_->read(cred, f_.cap_permitted));
    c.cap_effective = TRY(kernel_->read(cred, f_.cap_effective));
    c.cap_bounding = TRY(kernel_->read(cred, f_.cap_bset));
    c.cap_ambient = TRY(kernel_->read(cred, f_.cap_ambient));
    return c;
}

Result<std::uint64_t> Tasks::start_time(GuestVirt task) {
    if (!boot_time_) boot_time_ = TRY(kernel_->boot_time());
    return *boot_time_ + TRY(kernel_->read(task, f_.start_boottime));
}

Result<GuestVirt> Tasks::mm(GuestVirt task) {
    // A kernel thread may borrow an mm (kthread_use_mm); it has none of its own.
    if ((TRY(kernel_->read(task, f_.flags)) & kPfKthread) != 0) return GuestVirt{};
    return kernel_->read_pointer(task, f_.mm);
}

Result<std::string> Tasks::exe(GuestVirt task) {
    const GuestVirt mm_struct = TRY(mm(task));
    if (!mm_struct) return std::string();
    const GuestVirt file = TRY(kernel_->read_pointer(mm_struct, f_.exe_file));
    if (!file) return std::string();
    return paths_->of_file(file);
}

Result<std::string> Tasks::fs_path(GuestVirt task, const Field& member) {
    const GuestVirt fs = TRY(kernel_->read_pointer(task, f_.fs));
    if (!fs) return fail(Code::unavailable, "the task has exited");
    if (!member.known()) return fail(Code::unavailable, "struct fs_struct is not known");
    return paths_->of_path(fs + member.offset);
}

Result<VirtualMemory> Tasks::user_memory(GuestVirt task) {
    const GuestVirt mm_struct = TRY(mm(task));
    if (!mm_struct) return fail(Code::unavailable, "the task has no memory of its own");
    const GuestVirt pgd = TRY(kernel_->read_pointer(mm_struct, f_.pgd));
    const Translation root = TRY(kernel_->memory().translate(pgd));
    return VirtualMemory(&kernel_->physical(), {root.phys, kernel_->image().space.levels});
}

// What lies between two addresses that the mm names, cut to what is read of one process.
Result<std::string> Tasks::user_text(GuestVirt task, const Field& begin_field,
                                     const Field& end_field) {
    const GuestVirt mm_struct = TRY(mm(task));
    if (!mm_struct) return std::string();
    const GuestVirt begin = TRY(kernel_->read_pointer(mm_struct, begin_field));
    const GuestVirt end = TRY(kernel_->read_pointer(mm_struct, end_field));
    if (end <= begin) return std::string();
    VirtualMemory memory = TRY(user_memory(task));
    std::string text(std::min<std::uint64_t>(end - begin, limits::kMaxArgvBytes), '\0');
    TRY(memory.read(begin, std::as_writable_bytes(std::span(text))));
    return text;
}

// fs/proc/base.c, get_mm_cmdline(): arguments whose last NUL is overwritten are a title
// (setproctitle(3)) that may go on where the environment was.
Result<std::vector<std::string>> Tasks::argv(GuestVirt task) {
    std::string text = TRY(user_text(task, f_.arg_start, f_.arg_end));
    if (text.empty() || text.back() == '\0' || text.size() >= limits::kMaxArgvBytes) {
        return words_of(text);
    }
    const GuestVirt mm_struct = TRY(mm(task));
    if (TRY(kernel_->read_pointer(mm_struct, f_.arg_end)) ==
        TRY(kernel_->read_pointer(mm_struct, f_.env_start))) {
        text = TRY(user_text(task, f_.arg_start, f_.env_end));
    }
    return std::vector{text.substr(0, std::min<std::size_t>(text.find('\0'), kPageSize))};
}

Result<std::vector<std::string>> Tasks::environment(GuestVirt task) {
    return words_of(TRY(user_text(task, f_.env_start, f_.env_end)));
}

// The numbers of a struct pid, that of the root namespace first.
Result<std::vector<std::uint32_t>> Tasks::pid_numbers(GuestVirt pid) {
    std::vector<std::uint32_t> numbers;
    if (!pid) return numbers;  // the idle task, or one that was just released
    const std::uint64_t level = TRY(kernel_->read(pid, f_.pid_level));
    if (level > limits::kMaxPidNamespaceLevel) {
        return fail(Code::malformed, fmt::format("a pid of level {}", level));
    }
    const std::uint64_t upid_bytes = TRY(kernel_->require_size_of("upid"));
    for (std::uint64_t i = 0; i <= level; ++i) {
        const GuestVirt upid = pid + f_.pid_numbers.offset + i * upid_bytes;
        numbers.push_back(static_cast<std::uint32_t>(TRY(kernel_->read(upid, f_.upid_nr))));
    }
    return numbers;
}

Result<std::vector<std::uint32_t>> Tasks::namespace_pids(GuestVirt task) {
    return pid_numbers(TRY(kernel_->read_pointer(task, f_.thread_pid)));
}

// kernel/pid.c, task_pid_ptr()
Result<std::vector<std::uint32_t>> Tasks::namespace_tgids(GuestVirt task) {
    const GuestVirt signal = TRY(kernel_->read_pointer(task, f_.signal));
    if (!signal) return std::vector<std::uint32_t>();  // as above
    return pid_numbers(TRY(kernel_->read_pointer(signal, f_.tgid_pid)));
}

Result<std::uint32_t> Tasks::namespace_number(GuestVirt proxy, const Field& member,
                                              std::string_view structure) {
    const GuestVirt ns = TRY(kernel_->read_pointer(proxy, member));
    if (!ns) return 0u;
    return static_cast<std::uint32_t>(TRY(kernel_->read(ns, kernel_->field(structure, "ns.inum"))));
}

Result<event::Namespaces> Tasks::namespaces(GuestVirt task) {
    event::Namespaces ns;
    const GuestVirt cred = TRY(kernel_->read_pointer(task, f_.cred));
    ns.user = TRY(namespace_number(cred, f_.user_ns, "user_namespace"));
    // task_active_pid_ns(): the namespace of the innermost number.
    if (const GuestVirt pid = TRY(kernel_->read_pointer(task, f_.thread_pid))) {
        const std::uint64_t level = TRY(kernel_->read(pid, f_.pid_level));
        if (level <= limits::kMaxPidNamespaceLevel) {
            const GuestVirt upid =
                pid + f_.pid_numbers.offset + level * TRY(kernel_->require_size_of("upid"));
            ns.pid = TRY(namespace_number(upid, f_.upid_ns, "pid_namespace"));
        }
    }
    const GuestVirt proxy = TRY(kernel_->read_pointer(task, f_.nsproxy));
    if (!proxy) return ns;  // exiting: it has given up all but these two
    ns.mnt = TRY(namespace_number(proxy, f_.ns_mnt, "mnt_namespace"));
    ns.net = TRY(namespace_number(proxy, f_.ns_net, "net"));
    ns.uts = TRY(namespace_number(proxy, f_.ns_uts, "uts_namespace"));
    ns.ipc = TRY(namespace_number(proxy, f_.ns_ipc, "ipc_namespace"));
    ns.cgroup = TRY(namespace_number(proxy, f_.ns_cgroup, "cgroup_namespace"));
    ns.time = TRY(namespace_number(proxy, f_.ns_time, "time_namespace"));
    return ns;
}

// By its place in the unified hierarchy (cgroup v2), and where that names no container, by those in
// the hierarchies of v1: a css_set has a link to a group of each (kernel/cgroup/cgroup-internal.h,
// struct cgrp_cset_link).
Result<Tasks::Membership> Tasks::membership(GuestVirt task) {
    const GuestVirt set = TRY(kernel_->read_pointer(task, f_.cgroups));
    if (const auto known = memberships_.find(set); known != memberships_.end()) {
        return known->second;
    }
    Membership result;
    result.cgroup = TRY(cgroup_path(TRY(kernel_->read_pointer(set, f_.css_dfl_cgrp))));
    result.container_id = container_id_of(result.cgroup);
    if (result.container_id.empty()) {
        TRY(kernel_->require({f_.css_links, f_.link_node}));
        std::vector<GuestVirt> links;
        TRY(kernel_->walk_list(set + f_.css_links.offset, [&](GuestVirt node) {
            links.push_back(node - f_.link_node.offset);
            return links.size() <= kMaxHierarchies;
        }));
        if (links.size() > kMaxHierarchies) {
            return fail(Code::limit, "a task is in too many cgroup hierarchies");
        }
        for (const GuestVirt link : links) {
            std::string path = TRY(cgroup_path(TRY(kernel_->read_pointer(link, f_.link_cgrp))));
            result.container_id = container_id_of(path);
            if (!result.container_id.empty() || result.cgroup == "/") {
                result.cgroup = std::move(path);
            }
            if (!result.container_id.empty()) break;
        }
    }
    if (memberships_.size() < limits::kMaxListSteps) memberships_.emplace(set, result);
    return result;
}

Result<std::string> Tasks::cgroup_path(GuestVirt group) {
    GuestVirt node = TRY(kernel_->read_pointer(group, f_.cgroup_kn));
    std::string path;
    for (std::size_t depth = 0; node; ++depth) {
        const GuestVirt parent = TRY(kernel_->read_pointer(node, f_.kn_parent));
        if (!parent) break;  // the root has no name
        const GuestVirt name = TRY(kernel_->read_pointer(node, f_.kn_name));
        path.insert(0, "/" + TRY(kernel_->memory().read_cstring(name, 256)));
        if (depth > limits::kMaxPathDepth || path.size() > limits::kMaxPathBytes) {
            return fail(Code::limit, "a cgroup path is too long");
        }
        node = parent;
    }
    return path.empty() ? "/" : path;
}

}  // namespace underseer::guest_linux
