// Observations: what the introspection module saw inside an instance, in the words of the guest's
// own operator. The documented interface between introspection and analysis.
//
// Text fields hold the guest's bytes unchanged (they may be no UTF-8 and may hold escape
// sequences); whoever prints them escapes them. Times are nanoseconds since the epoch in the
// guest's wall clock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "event/fields.h"

namespace underseer::event {

// Inode numbers of the namespaces a task lives in, as /proc/PID/ns shows them. 0: none (a zombie).
struct Namespaces {
    std::uint32_t pid = 0, mnt = 0, net = 0, uts = 0, ipc = 0, user = 0, cgroup = 0, time = 0;

    bool operator==(const Namespaces&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"pid", &Namespaces::pid},       Field{"mnt", &Namespaces::mnt},
                          Field{"net", &Namespaces::net},       Field{"uts", &Namespaces::uts},
                          Field{"ipc", &Namespaces::ipc},       Field{"user", &Namespaces::user},
                          Field{"cgroup", &Namespaces::cgroup}, Field{"time", &Namespaces::time}};
    }
};

struct Credentials {
    std::uint32_t uid = 0, euid = 0, suid = 0, fsuid = 0;
    std::uint32_t gid = 0, egid = 0, sgid = 0, fsgid = 0;
    std::uint64_t cap_inheritable = 0, cap_permitted = 0, cap_effective = 0, cap_bounding = 0,
                  cap_ambient = 0;

    bool operator==(const Credentials&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"uid", &Credentials::uid},
                          Field{"euid", &Credentials::euid},
                          Field{"suid", &Credentials::suid},
                          Field{"fsuid", &Credentials::fsuid},
                          Field{"gid", &Credentials::gid},
                          Field{"egid", &Credentials::egid},
                          Field{"sgid", &Credentials::sgid},
                          Field{"fsgid", &Credentials::fsgid},
                          Field{"cap_inheritable", &Credentials::cap_inheritable},
                          Field{"cap_permitted", &Credentials::cap_permitted},
                          Field{"cap_effective", &Credentials::cap_effective},
                          Field{"cap_bounding", &Credentials::cap_bounding},
                          Field{"cap_ambient", &Credentials::cap_ambient}};
    }
};

// What one CPU of a guest obeys, as its VMM tells it: which page tables, which interrupt table.
struct CpuRegisters {
    std::uint32_t cpu = 0;
    std::uint64_t cr0 = 0, cr3 = 0, cr4 = 0, efer = 0;
    std::uint64_t idt_base = 0, idt_limit = 0;

    bool operator==(const CpuRegisters&) const = default;
    static constexpr auto fields() {
        using R = CpuRegisters;
        return std::tuple{Field{"cpu", &R::cpu},
                          Field{"cr0", &R::cr0},
                          Field{"cr3", &R::cr3},
                          Field{"cr4", &R::cr4},
                          Field{"efer", &R::efer},
                          Field{"idt_base", &R::idt_base},
                          Field{"idt_limit", &R::idt_limit}};
    }
};

// One thread; the thread whose pid equals its tgid stands for the process.
struct Task {
    std::uint64_t address = 0;  // of its task_struct
    std::uint32_t pid = 0;      // in the root pid namespace
    std::uint32_t tgid = 0;
    Observed<std::uint32_t> ppid;
    std::string comm;
    std::string state;  // the letter that /proc/PID/stat shows
    bool kernel_thread = false;
    Observed<Credentials> credentials;
    Observed<std::uint64_t> start_time;
    Observed<std::string> exe;  // "" for a kernel thread; " (deleted)" is appended as in /proc
    Observed<std::vector<std::string>> argv;
    Observed<std::vector<std::string>> environment;  // only when asked for
    Observed<std::string> cwd;
    Observed<std::string> root;
    Observed<std::vector<std::uint32_t>> namespace_pids;   // pid in each pid namespace, root first
    Observed<std::vector<std::uint32_t>> namespace_tgids;  // and its process's
    Observed<Namespaces> namespaces;
    Observed<std::string> cgroup;        // path in the unified hierarchy, else in one of v1
    Observed<std::string> container_id;  // "" when the cgroup names none
    Observed<std::uint32_t> thread_count;

    bool is_process() const { return pid == tgid; }
    bool operator==(const Task&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"pid", &Task::pid},
                          Field{"tgid", &Task::tgid},
                          Field{"ppid", &Task::ppid},
                          Field{"comm", &Task::comm},
                          Field{"state", &Task::state},
                          Field{"kernel_thread", &Task::kernel_thread},
                          FlatField{"credentials", &Task::credentials},
                          Field{"start_time", &Task::start_time},
                          Field{"exe", &Task::exe},
                          Field{"argv", &Task::argv},
                          Field{"environment", &Task::environment},
                          Field{"cwd", &Task::cwd},
                          Field{"root", &Task::root},
                          Field{"namespace_pids", &Task::namespace_pids},
                          Field{"namespace_tgids", &Task::namespace_tgids},
                          Field{"namespaces", &Task::namespaces},
                          Field{"cgroup", &Task::cgroup},
                          Field{"container_id", &Task::container_id},
                          Field{"thread_count", &Task::thread_count},
                          Field{"address", &Task::address}};
    }
};

// One mapping of a process (a line of /proc/PID/maps).
struct Vma {
    std::uint32_t pid = 0;
    std::uint64_t begin = 0, end = 0;  // end exclusive
    std::string permissions;           // "r-xp"
    std::uint64_t offset_bytes = 0;    // into the file
    std::uint32_t device_major = 0, device_minor = 0;
    std::uint64_t inode = 0;
    std::string path;  // file path, or [heap], [stack], [vdso], ..; "" for anonymous memory

    bool operator==(const Vma&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"pid", &Vma::pid},
                          Field{"begin", &Vma::begin},
                          Field{"end", &Vma::end},
                          Field{"permissions", &Vma::permissions},
                          Field{"offset_bytes", &Vma::offset_bytes},
                          Field{"device_major", &Vma::device_major},
                          Field{"device_minor", &Vma::device_minor},
                          Field{"inode", &Vma::inode},
                          Field{"path", &Vma::path}};
    }
};

struct OpenFile {
    std::uint32_t pid = 0;
    std::uint32_t fd = 0;
    std::string
        path;  // as /proc/PID/fd/N links: a path, "socket:[123]", "pipe:[4]", "anon_inode:[..]"
    std::uint32_t flags = 0;  // open(2) flags
    std::uint64_t position_bytes = 0;
    std::uint64_t inode = 0;
    std::uint32_t mode = 0;  // st_mode

    bool operator==(const OpenFile&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"pid", &OpenFile::pid},
                          Field{"fd", &OpenFile::fd},
                          Field{"path", &OpenFile::path},
                          Field{"flags", &OpenFile::flags},
                          Field{"position_bytes", &OpenFile::position_bytes},
                          Field{"inode", &OpenFile::inode},
                          Field{"mode", &OpenFile::mode}};
    }
};

// A socket and the processes that hold it open.
struct Socket {
    std::string family;            // "inet", "inet6", "unix", "packet", "netlink", ..
    std::string type;              // "tcp", "udp", "raw", "stream", "dgram", "seqpacket", ..
    std::string state;             // "LISTEN", "ESTABLISHED", ..; "" where the family has none
    std::string local_address;     // an address in text, a unix path, an interface
    std::uint32_t local_port = 0;  // for raw sockets the protocol number
    std::string remote_address;
    std::uint32_t remote_port = 0;
    std::uint64_t inode = 0;
    std::uint32_t net_namespace = 0;
    std::uint32_t uid = 0;
    std::vector<std::uint32_t> owner_pids;
    std::uint64_t address = 0;  // of its struct sock
    bool of_kernel = false;     // the kernel made it for itself
    // What the kernel calls when something has come in; 0 where that is not known.
    std::uint64_t receiver = 0;

    bool operator==(const Socket&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"family", &Socket::family},
                          Field{"type", &Socket::type},
                          Field{"state", &Socket::state},
                          Field{"local_address", &Socket::local_address},
                          Field{"local_port", &Socket::local_port},
                          Field{"remote_address", &Socket::remote_address},
                          Field{"remote_port", &Socket::remote_port},
                          Field{"inode", &Socket::inode},
                          Field{"net_namespace", &Socket::net_namespace},
                          Field{"uid", &Socket::uid},
                          Field{"owner_pids", &Socket::owner_pids},
                          Field{"address", &Socket::address},
                          Field{"of_kernel", &Socket::of_kernel},
                          Field{"receiver", &Socket::receiver}};
    }
};

struct Mount {
    std::uint32_t mnt_namespace = 0;
    std::uint32_t id = 0, parent_id = 0;
    std::string source;
    std::string root;  // what of the file system is shown: "/", or the directory that is bound
    std::string target;
    std::string fs_type;
    std::string options;  // per-mount flags, as in mountinfo: "rw,nosuid,.."
    std::uint32_t device_major = 0, device_minor = 0;

    bool operator==(const Mount&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"mnt_namespace", &Mount::mnt_namespace},
                          Field{"id", &Mount::id},
                          Field{"parent_id", &Mount::parent_id},
                          Field{"source", &Mount::source},
                          Field{"root", &Mount::root},
                          Field{"target", &Mount::target},
                          Field{"fs_type", &Mount::fs_type},
                          Field{"options", &Mount::options},
                          Field{"device_major", &Mount::device_major},
                          Field{"device_minor", &Mount::device_minor}};
    }
};

struct NetworkInterface {
    std::uint32_t net_namespace = 0;
    std::uint32_t index = 0;
    std::string name;
    std::uint32_t flags = 0;  // IFF_*
    std::uint32_t mtu = 0;
    std::string mac;
    std::string permanent_mac;
    Observed<std::vector<std::string>> addresses;  // "10.0.0.2/24", "fe80::1/64"
    std::uint32_t promiscuity = 0;                 // how many want it to take packets for others
    Observed<std::string> bridge;                  // that it is a port of; empty: of none

    bool operator==(const NetworkInterface&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"net_namespace", &NetworkInterface::net_namespace},
                          Field{"index", &NetworkInterface::index},
                          Field{"name", &NetworkInterface::name},
                          Field{"flags", &NetworkInterface::flags},
                          Field{"mtu", &NetworkInterface::mtu},
                          Field{"mac", &NetworkInterface::mac},
                          Field{"permanent_mac", &NetworkInterface::permanent_mac},
                          Field{"addresses", &NetworkInterface::addresses},
                          Field{"promiscuity", &NetworkInterface::promiscuity},
                          Field{"bridge", &NetworkInterface::bridge}};
    }
};

struct Module {
    std::string name;
    std::uint64_t address = 0;     // of its struct module
    std::uint64_t text_begin = 0;  // first byte of its code
    std::uint64_t size_bytes = 0;  // of all its memory, as lsmod shows it
    std::uint32_t reference_count = 0;
    std::vector<std::string> used_by;
    std::string state;   // "Live", "Loading", "Unloading"
    std::string taints;  // letters, as /proc/modules shows them: "OE"

    bool operator==(const Module&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"name", &Module::name},
                          Field{"text_begin", &Module::text_begin},
                          Field{"size_bytes", &Module::size_bytes},
                          Field{"reference_count", &Module::reference_count},
                          Field{"used_by", &Module::used_by},
                          Field{"state", &Module::state},
                          Field{"taints", &Module::taints},
                          Field{"address", &Module::address}};
    }
};

// Where a BPF program is attached: at a cgroup, an interface, a function, ..
struct BpfAttachment {
    std::string kind;    // "cgroup", "xdp", "fentry", ..
    std::string target;  // "/docker-1.scope (inet_ingress)", "eth0 (generic)", "do_unlinkat", ..
    std::uint32_t link_id = 0;  // the link that attaches it; 0: none

    bool operator==(const BpfAttachment&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"kind", &BpfAttachment::kind},
                          Field{"target", &BpfAttachment::target},
                          Field{"link_id", &BpfAttachment::link_id}};
    }
};

struct BpfProgram {
    std::uint32_t id = 0;
    std::string type;  // "kprobe", as the kernel's enum has it, in small letters
    std::string name;
    std::uint32_t uid = 0;  // of who loaded it
    Observed<std::vector<BpfAttachment>> attachments;
    Observed<std::vector<std::uint32_t>> map_ids;
    std::vector<std::string> helpers;       // functions of the kernel that it calls
    std::vector<std::uint32_t> owner_pids;  // processes that hold it open
    bool listed = false;                    // in the table that bpftool and every other tool reads
    Observed<bool> has_symbol;              // in the list of BPF's symbols
    std::uint64_t code = 0;                 // as machine code; 0 while it has none
    std::uint64_t address = 0;              // of its struct bpf_prog

    bool operator==(const BpfProgram&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"id", &BpfProgram::id},
                          Field{"type", &BpfProgram::type},
                          Field{"name", &BpfProgram::name},
                          Field{"uid", &BpfProgram::uid},
                          Field{"attachments", &BpfProgram::attachments},
                          Field{"map_ids", &BpfProgram::map_ids},
                          Field{"helpers", &BpfProgram::helpers},
                          Field{"owner_pids", &BpfProgram::owner_pids},
                          Field{"listed", &BpfProgram::listed},
                          Field{"has_symbol", &BpfProgram::has_symbol},
                          Field{"code", &BpfProgram::code},
                          Field{"address", &BpfProgram::address}};
    }
};

struct BpfMap {
    std::uint32_t id = 0;
    std::string type;  // "hash", "ringbuf", ..
    std::string name;
    std::uint32_t key_bytes = 0, value_bytes = 0, max_entries = 0;
    std::uint32_t flags = 0;                           // BPF_F_*
    bool frozen = false;                               // against writes by processes
    Observed<std::vector<std::uint32_t>> program_ids;  // programs that use it
    std::vector<std::uint32_t> owner_pids;
    bool listed = false;
    std::uint64_t address = 0;  // of its struct bpf_map

    bool operator==(const BpfMap&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"id", &BpfMap::id},
                          Field{"type", &BpfMap::type},
                          Field{"name", &BpfMap::name},
                          Field{"key_bytes", &BpfMap::key_bytes},
                          Field{"value_bytes", &BpfMap::value_bytes},
                          Field{"max_entries", &BpfMap::max_entries},
                          Field{"flags", &BpfMap::flags},
                          Field{"frozen", &BpfMap::frozen},
                          Field{"program_ids", &BpfMap::program_ids},
                          Field{"owner_pids", &BpfMap::owner_pids},
                          Field{"listed", &BpfMap::listed},
                          Field{"address", &BpfMap::address}};
    }
};

// What keeps a program attached, whoever made it.
struct BpfLink {
    std::uint32_t id = 0;
    std::string type;                    // "tracing", "cgroup", ..
    Observed<std::uint32_t> program_id;  // 0: it has none
    std::string kind;                    // as of BpfAttachment
    Observed<std::string> target;        // likewise; "" when it is attached to nothing any more
    std::vector<std::uint32_t> owner_pids;
    bool listed = false;
    // Of its struct bpf_link; 0 when only its program shows that there must be one.
    std::uint64_t address = 0;

    bool operator==(const BpfLink&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"id", &BpfLink::id},
                          Field{"type", &BpfLink::type},
                          Field{"program_id", &BpfLink::program_id},
                          Field{"kind", &BpfLink::kind},
                          Field{"target", &BpfLink::target},
                          Field{"owner_pids", &BpfLink::owner_pids},
                          Field{"listed", &BpfLink::listed},
                          Field{"address", &BpfLink::address}};
    }
};

struct KernelLogLine {
    std::uint64_t sequence = 0;
    std::uint64_t time_since_boot_ns = 0;
    std::uint32_t facility = 0, level = 0;
    std::string text;

    bool operator==(const KernelLogLine&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"sequence", &KernelLogLine::sequence},
                          Field{"time_since_boot_ns", &KernelLogLine::time_since_boot_ns},
                          Field{"facility", &KernelLogLine::facility},
                          Field{"level", &KernelLogLine::level},
                          Field{"text", &KernelLogLine::text}};
    }
};

// What kind of system this is, and how much of it could be resolved.
struct SystemInfo {
    std::string banner;          // "Linux version 6.1.0-.. "
    std::string kernel_release;  // "6.1.0-44-cloud-amd64"
    Observed<std::string> build_id;
    Observed<std::string> host_name;
    Observed<std::uint64_t> boot_time;
    Observed<std::uint64_t> wall_clock;
    std::uint64_t kaslr_slide_bytes = 0;
    std::uint64_t physical_base = 0;  // of the kernel image
    std::uint64_t page_table_root = 0;
    std::uint32_t page_table_levels = 0;
    Observed<bool> page_table_isolation;
    Observed<std::uint32_t> cpus;
    std::uint64_t symbol_count = 0;
    std::uint64_t type_count = 0;
    std::vector<std::string> notes;  // which rung of the ladder gave what, and what is missing

    bool operator==(const SystemInfo&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"banner", &SystemInfo::banner},
                          Field{"kernel_release", &SystemInfo::kernel_release},
                          Field{"build_id", &SystemInfo::build_id},
                          Field{"host_name", &SystemInfo::host_name},
                          Field{"boot_time", &SystemInfo::boot_time},
                          Field{"wall_clock", &SystemInfo::wall_clock},
                          Field{"kaslr_slide_bytes", &SystemInfo::kaslr_slide_bytes},
                          Field{"physical_base", &SystemInfo::physical_base},
                          Field{"page_table_root", &SystemInfo::page_table_root},
                          Field{"page_table_levels", &SystemInfo::page_table_levels},
                          Field{"page_table_isolation", &SystemInfo::page_table_isolation},
                          Field{"cpus", &SystemInfo::cpus},
                          Field{"symbol_count", &SystemInfo::symbol_count},
                          Field{"type_count", &SystemInfo::type_count},
                          Field{"notes", &SystemInfo::notes}};
    }
};

// Where in a process a string of a rule was found.
struct MatchedString {
    std::string identifier;  // "$a"
    // What it lies in. Of a file's part that the process has not mapped: no addresses, its path.
    Vma region;
    std::uint64_t address = 0;       // 0 where it is not mapped
    std::uint64_t offset_bytes = 0;  // into the region; into the file where it is not mapped
    std::uint64_t size_bytes = 0;    // of all that matched
    std::string bytes;               // the first of it, in hexadecimal

    bool operator==(const MatchedString&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"identifier", &MatchedString::identifier},
                          Field{"region", &MatchedString::region},
                          Field{"address", &MatchedString::address},
                          Field{"offset_bytes", &MatchedString::offset_bytes},
                          Field{"size_bytes", &MatchedString::size_bytes},
                          Field{"bytes", &MatchedString::bytes}};
    }
};

struct RuleMeta {
    std::string key, value;

    bool operator==(const RuleMeta&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"key", &RuleMeta::key}, Field{"value", &RuleMeta::value}};
    }
};

// A YARA rule that holds for the memory of a process: for what it has of its own, or for a file
// that it maps.
struct MemoryMatch {
    std::string rule;
    std::string rule_file;
    std::vector<std::string> tags;
    std::vector<RuleMeta> meta;
    std::uint32_t pid = 0;
    std::string comm;
    std::string file;  // that it holds for; "": for the process's own memory
    std::uint64_t string_count = 0;
    std::vector<MatchedString> strings;  // few of many, some of each region

    bool operator==(const MemoryMatch&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"rule", &MemoryMatch::rule},
                          Field{"rule_file", &MemoryMatch::rule_file},
                          Field{"tags", &MemoryMatch::tags},
                          Field{"meta", &MemoryMatch::meta},
                          Field{"pid", &MemoryMatch::pid},
                          Field{"comm", &MemoryMatch::comm},
                          Field{"file", &MemoryMatch::file},
                          Field{"string_count", &MemoryMatch::string_count},
                          Field{"strings", &MemoryMatch::strings}};
    }
};

// What a scan of memory was made over, and what of it could not be looked at.
struct ScanCoverage {
    std::uint64_t processes = 0;  // looked at
    std::uint64_t ended = 0;      // that ended before their turn
    std::uint64_t files = 0;      // mapped ones, each once
    std::uint64_t bytes_scanned = 0;
    std::uint64_t swapped_pages = 0;     // that are not in RAM
    std::uint64_t device_pages = 0;      // that are no RAM: not for rules
    std::uint64_t unreadable_pages = 0;  // that could not be read, or that the image lacks
    std::uint64_t gap_count = 0;
    std::vector<std::string> gaps;  // what was not looked at, and why; few of many

    bool operator==(const ScanCoverage&) const = default;
    static constexpr auto fields() {
        return std::tuple{Field{"processes", &ScanCoverage::processes},
                          Field{"ended", &ScanCoverage::ended},
                          Field{"files", &ScanCoverage::files},
                          Field{"bytes_scanned", &ScanCoverage::bytes_scanned},
                          Field{"swapped_pages", &ScanCoverage::swapped_pages},
                          Field{"device_pages", &ScanCoverage::device_pages},
                          Field{"unreadable_pages", &ScanCoverage::unreadable_pages},
                          Field{"gap_count", &ScanCoverage::gap_count},
                          Field{"gaps", &ScanCoverage::gaps}};
    }
};

}  // namespace underseer::event
