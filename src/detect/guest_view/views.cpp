#include "detect/guest_view/views.h"

#include <algorithm>
#include <array>

namespace underseer::detect::guest_view {

namespace {

// Of functions that do the work for others, only those are named that see what is shown: a module
// that hooks them can change it.

// ---- files and folders: fs/readdir.c, fs/open.c, fs/stat.c, fs/read_write.c, fs/namei.c
// ----------
constexpr std::string_view kFileCalls[] = {
    "getdents",   "getdents64", "open",   "openat",    "openat2",    "creat",    "read",
    "pread64",    "readv",      "preadv", "preadv2",   "newstat",    "newlstat", "newfstat",
    "newfstatat", "statx",      "access", "faccessat", "faccessat2", "readlink", "readlinkat"};
constexpr std::string_view kFileFunctions[] = {
    "iterate_dir",     "filldir",      "filldir64",     "fillonedir",        "compat_filldir",
    "vfs_read",        "vfs_readv",    "ksys_read",     "ksys_pread64",      "new_sync_read",
    "vfs_statx",       "vfs_fstatat",  "vfs_getattr",   "vfs_getattr_nosec", "cp_new_stat",
    "cp_statx",        "do_filp_open", "path_openat",   "do_sys_openat2",    "do_sys_open",
    "filename_lookup", "vfs_open",     "do_readlinkat", "do_faccessat"};

// ---- processes: fs/proc/root.c, fs/proc/base.c, kernel/pid.c, kernel/signal.c
// --------------------
constexpr std::string_view kProcessCalls[] = {
    "getdents", "getdents64", "openat",  "newstat", "newfstatat", "statx", "kill",
    "tkill",    "tgkill",     "getpgid", "getsid",  "pidfd_open", "read",  "sched_getaffinity"};
constexpr std::string_view kProcessFunctions[] = {
    "iterate_dir",         "filldir",         "filldir64",        "proc_root_readdir",
    "proc_root_lookup",    "proc_pid_*",      "proc_tgid_*",      "proc_tid_*",
    "proc_task_*",         "proc_fill_cache", "proc_pident_*",    "next_tgid",
    "find_ge_pid",         "find_pid_ns",     "find_vpid",        "find_get_pid",
    "find_task_by_*",      "pid_nr_ns",       "pid_task",         "get_pid_task",
    "pid_getattr",         "idr_get_next",    "idr_get_next_ul",  "idr_find",
    "kill_something_info", "kill_pid_info",   "proc_single_show", "do_task_stat"};
constexpr std::string_view kProcRootReaddir[] = {"proc_root_readdir"},
                           kProcRootLookup[] = {"proc_root_lookup"},
                           kTgidReaddir[] = {"proc_tgid_base_readdir"},
                           kTgidLookup[] = {"proc_tgid_base_lookup"},
                           kTaskReaddir[] = {"proc_task_readdir"},
                           kTaskLookup[] = {"proc_task_lookup"};
constexpr TableWord kProcessTables[] = {
    {"proc_root_operations", "file_operations", "iterate_shared", kProcRootReaddir},
    {"proc_root_inode_operations", "inode_operations", "lookup", kProcRootLookup},
    {"proc_tgid_base_operations", "file_operations", "iterate_shared", kTgidReaddir},
    {"proc_tgid_base_inode_operations", "inode_operations", "lookup", kTgidLookup},
    {"proc_task_operations", "file_operations", "iterate_shared", kTaskReaddir},
    {"proc_task_inode_operations", "inode_operations", "lookup", kTaskLookup}};
constexpr std::string_view kProcRootOperations[] = {"proc_root_operations"},
                           kProcRootInodes[] = {"proc_root_inode_operations"};
constexpr Bound kProcessBound[] = {{"/proc", "proc_dir_ops", kProcRootOperations},
                                   {"/proc", "proc_iops", kProcRootInodes},
                                   {"root of proc", "i_fop", kProcRootOperations},
                                   {"root of proc", "i_op", kProcRootInodes}};

// ---- sockets: fs/seq_file.c, fs/proc/proc_net.c, net/ipv4/*.c, net/core/sock_diag.c
// --------------
constexpr std::string_view kSocketCalls[] = {"read", "pread64", "openat", "recvmsg", "recvfrom"};
constexpr std::string_view kSocketFunctions[] = {"seq_read",          "seq_read_iter",
                                                 "proc_reg_read",     "proc_reg_read_iter",
                                                 "proc_reg_open",     "vfs_read",
                                                 "tcp_seq_*",         "tcp4_seq_*",
                                                 "tcp6_seq_*",        "udp_seq_*",
                                                 "udp4_seq_*",        "udp6_seq_*",
                                                 "raw_seq_*",         "raw6_seq_*",
                                                 "unix_seq_*",        "packet_seq_*",
                                                 "tcp_get_idx",       "tcp_get_info_*",
                                                 "listening_get_*",   "established_get_*",
                                                 "seq_open_net",      "sock_diag_rcv",
                                                 "sock_diag_rcv_msg", "netlink_dump",
                                                 "netlink_recvmsg",   "__netlink_dump_start",
                                                 "netlink_unicast",   "inet_diag_*",
                                                 "inet_sk_diag_fill", "inet_csk_diag_*",
                                                 "tcp_diag_*",        "inet_sk_get_local_port"};
constexpr std::string_view kTcpStart[] = {"tcp_seq_start"}, kTcpNext[] = {"tcp_seq_next"},
                           kTcp4Show[] = {"tcp4_seq_show"}, kTcp6Show[] = {"tcp6_seq_show"},
                           kUdpStart[] = {"udp_seq_start"}, kUdpNext[] = {"udp_seq_next"},
                           kUdp4Show[] = {"udp4_seq_show"}, kUdp6Show[] = {"udp6_seq_show"},
                           kRawStart[] = {"raw_seq_start"}, kRawNext[] = {"raw_seq_next"},
                           kRawShow[] = {"raw_seq_show"}, kUnixStart[] = {"unix_seq_start"},
                           kUnixNext[] = {"unix_seq_next"}, kUnixShow[] = {"unix_seq_show"},
                           kPacketStart[] = {"packet_seq_start"},
                           kPacketNext[] = {"packet_seq_next"}, kPacketShow[] = {"packet_seq_show"},
                           kNetlinkReceive[] = {"netlink_recvmsg"}, kProcRead[] = {"proc_reg_read"},
                           kProcReadIter[] = {"proc_reg_read_iter"};
constexpr TableWord kSocketTables[] = {
    {"tcp4_seq_ops", "seq_operations", "start", kTcpStart},
    {"tcp4_seq_ops", "seq_operations", "next", kTcpNext},
    {"tcp4_seq_ops", "seq_operations", "show", kTcp4Show},
    {"tcp6_seq_ops", "seq_operations", "start", kTcpStart, false},
    {"tcp6_seq_ops", "seq_operations", "next", kTcpNext, false},
    {"tcp6_seq_ops", "seq_operations", "show", kTcp6Show, false},
    {"udp_seq_ops", "seq_operations", "start", kUdpStart},
    {"udp_seq_ops", "seq_operations", "next", kUdpNext},
    {"udp_seq_ops", "seq_operations", "show", kUdp4Show},
    {"udp6_seq_ops", "seq_operations", "start", kUdpStart, false},
    {"udp6_seq_ops", "seq_operations", "next", kUdpNext, false},
    {"udp6_seq_ops", "seq_operations", "show", kUdp6Show, false},
    {"raw_seq_ops", "seq_operations", "start", kRawStart},
    {"raw_seq_ops", "seq_operations", "next", kRawNext},
    {"raw_seq_ops", "seq_operations", "show", kRawShow},
    {"unix_seq_ops", "seq_operations", "start", kUnixStart, false},
    {"unix_seq_ops", "seq_operations", "next", kUnixNext, false},
    {"unix_seq_ops", "seq_operations", "show", kUnixShow, false},
    {"packet_seq_ops", "seq_operations", "start", kPacketStart, false},
    {"packet_seq_ops", "seq_operations", "next", kPacketNext, false},
    {"packet_seq_ops", "seq_operations", "show", kPacketShow, false},
    {"netlink_ops", "proto_ops", "recvmsg", kNetlinkReceive},
    {"proc_reg_file_ops", "file_operations", "read", kProcRead},
    {"proc_iter_file_ops", "file_operations", "read_iter", kProcReadIter}};
constexpr std::string_view kTcp4Ops[] = {"tcp4_seq_ops"}, kTcp6Ops[] = {"tcp6_seq_ops"},
                           kUdp4Ops[] = {"udp_seq_ops"}, kUdp6Ops[] = {"udp6_seq_ops"},
                           kRawOps[] = {"raw_seq_ops"}, kUnixOps[] = {"unix_seq_ops"},
                           kPacketOps[] = {"packet_seq_ops"}, kNetOps[] = {"proc_net_seq_ops"};
constexpr Bound kSocketBound[] = {{"/proc/net/tcp", "seq_ops", kTcp4Ops},
                                  {"/proc/net/tcp", "proc_ops", kNetOps},
                                  {"/proc/net/udp", "seq_ops", kUdp4Ops},
                                  {"/proc/net/udp", "proc_ops", kNetOps},
                                  {"/proc/net/raw", "seq_ops", kRawOps},
                                  {"/proc/net/raw", "proc_ops", kNetOps},
                                  {"/proc/net/tcp6", "seq_ops", kTcp6Ops, false},
                                  {"/proc/net/udp6", "seq_ops", kUdp6Ops, false},
                                  {"/proc/net/unix", "seq_ops", kUnixOps, false},
                                  {"/proc/net/packet", "seq_ops", kPacketOps, false}};

// ---- modules: kernel/module/procfs.c, kernel/kallsyms.c, fs/kernfs/dir.c
// ---------------------------
constexpr std::string_view kModuleCalls[] = {"read", "pread64", "openat", "getdents", "getdents64"};
constexpr std::string_view kModuleFunctions[] = {"seq_read",
                                                 "seq_read_iter",
                                                 "proc_reg_read",
                                                 "proc_reg_read_iter",
                                                 "proc_reg_open",
                                                 "vfs_read",
                                                 "m_start",
                                                 "m_next",
                                                 "m_show",
                                                 "modules_open",
                                                 "s_start",
                                                 "s_next",
                                                 "s_show",
                                                 "iterate_dir",
                                                 "filldir",
                                                 "filldir64",
                                                 "kernfs_fop_readdir",
                                                 "kernfs_iop_lookup",
                                                 "kernfs_fop_read_iter",
                                                 "kernfs_seq_*",
                                                 "kernfs_dir_*",
                                                 "kernfs_next_*"};
constexpr std::string_view kModulesStart[] = {"m_start"}, kModulesNext[] = {"m_next"},
                           kModulesShow[] = {"m_show"}, kSymbolsStart[] = {"s_start"},
                           kSymbolsNext[] = {"s_next"}, kSymbolsShow[] = {"s_show"},
                           kKernfsReaddir[] = {"kernfs_fop_readdir"},
                           kKernfsLookup[] = {"kernfs_iop_lookup"};
constexpr TableWord kModuleTables[] = {
    {"modules_op", "seq_operations", "start", kModulesStart},
    {"modules_op", "seq_operations", "next", kModulesNext},
    {"modules_op", "seq_operations", "show", kModulesShow},
    {"kallsyms_op", "seq_operations", "start", kSymbolsStart},
    {"kallsyms_op", "seq_operations", "next", kSymbolsNext},
    {"kallsyms_op", "seq_operations", "show", kSymbolsShow},
    {"kernfs_dir_fops", "file_operations", "iterate_shared", kKernfsReaddir},
    {"kernfs_dir_iops", "inode_operations", "lookup", kKernfsLookup}};
constexpr std::string_view kModulesOps[] = {"modules_proc_ops"},
                           kKallsymsOps[] = {"kallsyms_proc_ops"},
                           kKernfsFolder[] = {"kernfs_dir_fops"},
                           kKernfsInodes[] = {"kernfs_dir_iops"};
constexpr Bound kModuleBound[] = {{"/proc/modules", "proc_ops", kModulesOps},
                                  {"/proc/kallsyms", "proc_ops", kKallsymsOps},
                                  {"root of sysfs", "i_fop", kKernfsFolder},
                                  {"root of sysfs", "i_op", kKernfsInodes}};

// ---- the kernel's log: kernel/printk/printk.c, fs/proc/kmsg.c
// ----------------------------------------
constexpr std::string_view kLogCalls[] = {"syslog", "read", "openat"};
constexpr std::string_view kLogFunctions[] = {
    "do_syslog", "syslog_print", "syslog_print_all", "devkmsg_read",  "devkmsg_open",
    "kmsg_read", "kmsg_open",    "vfs_read",         "proc_reg_read", "record_print_text",
    "prb_read*", "printk_get_*", "info_print_*",     "msg_print_*"};
constexpr std::string_view kDeviceRead[] = {"devkmsg_read"}, kLogRead[] = {"kmsg_read"};
constexpr TableWord kLogTables[] = {{"kmsg_fops", "file_operations", "read", kDeviceRead},
                                    {"kmsg_proc_ops", "proc_ops", "proc_read", kLogRead}};
constexpr std::string_view kLogOps[] = {"kmsg_proc_ops"};
constexpr Bound kLogBound[] = {{"/proc/kmsg", "proc_ops", kLogOps}};

// ---- BPF programs: kernel/bpf/syscall.c
// ----------------------------------------------------------------
constexpr std::string_view kBpfCalls[] = {"bpf"};
constexpr std::string_view kBpfFunctions[] = {
    "__sys_bpf",      "bpf_obj_get_next_id", "bpf_prog_get_*",
    "bpf_map_get_*",  "bpf_link_get_*",      "bpf_prog_by_id",
    "bpf_link_by_id", "bpf_get_file_flag",   "bpf_obj_get_info_by_fd"};

constexpr View kViews[] = {
    {"processes", "ps, top, kill, /proc", kProcessCalls, kProcessFunctions, kProcessTables,
     kProcessBound},
    {"files", "ls, find, stat, cat", kFileCalls, kFileFunctions, {}, {}},
    {"sockets", "ss, netstat, /proc/net", kSocketCalls, kSocketFunctions, kSocketTables,
     kSocketBound},
    {"modules", "lsmod, /proc/modules, /proc/kallsyms, /sys/module", kModuleCalls, kModuleFunctions,
     kModuleTables, kModuleBound},
    {"kernel log", "dmesg, journalctl -k", kLogCalls, kLogFunctions, kLogTables, kLogBound},
    {"BPF programs", "bpftool", kBpfCalls, kBpfFunctions, {}, {}},
};

constexpr std::array<std::string_view, 6> kPrefixes{"__x64_sys_",         "__ia32_sys_",
                                                    "__ia32_compat_sys_", "__se_sys_",
                                                    "__do_sys_",          "__x64_compat_sys_"};

// Through which every system call goes since 6.9 (arch/x86/entry/syscall_64.c).
constexpr std::array<std::string_view, 3> kEveryCall{"x64_sys_call", "x32_sys_call",
                                                     "ia32_sys_call"};

bool has(std::span<const std::string_view> names, std::string_view name) {
    return std::ranges::any_of(names, [&](std::string_view one) {
        return one.ends_with('*') ? name.starts_with(one.substr(0, one.size() - 1)) : name == one;
    });
}

}  // namespace

std::span<const View> views() {
    return kViews;
}

bool is_on_the_way(const View& view, std::string_view function) {
    function = function.substr(0, function.find('.'));
    if (has(kEveryCall, function)) return true;
    for (const std::string_view prefix : kPrefixes) {
        if (function.starts_with(prefix)) {
            return has(view.system_calls, function.substr(prefix.size()));
        }
    }
    return has(view.functions, function);
}

}  // namespace underseer::detect::guest_view
