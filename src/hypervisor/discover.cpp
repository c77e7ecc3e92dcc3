#include "hypervisor/discover.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>

#include "base/os.h"
#include "hypervisor/command_line.h"
#include "hypervisor/ram.h"

namespace underseer::hypervisor {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxCommandLineBytes = 1u << 20;
constexpr std::array<std::string_view, 6> kTrustedDirectories{
    "/usr/bin", "/usr/local/bin", "/usr/libexec", "/usr/lib/qemu", "/bin", "/usr/lib/xen/bin"};

bool is_vmm_name(std::string_view name) {
    return name == "qemu-system-x86_64" || name == "qemu-system-i386" || name == "qemu-kvm" ||
           name == "kvm";
}

std::string_view base_name(std::string_view path) {
    return path.substr(path.rfind('/') + 1);
}

std::vector<std::string> split_at_nul(std::string_view text) {
    std::vector<std::string> parts;
    while (!text.empty()) {
        const std::size_t end = text.find('\0');
        parts.emplace_back(text.substr(0, end));
        if (end == std::string_view::npos) break;
        text.remove_prefix(end + 1);
    }
    return parts;
}

// "" when the executable may be believed, else why not.
std::string distrust(const fs::path& link, const std::string& target) {
    std::string_view path = target;
    // A package upgrade replaces the file under a running VMM.
    if (path.ends_with(" (deleted)")) path.remove_suffix(10);
    const std::string_view directory = path.substr(0, path.rfind('/'));
    if (std::ranges::find(kTrustedDirectories, directory) == kTrustedDirectories.end()) {
        return fmt::format("its executable {} is in no system directory", path);
    }
    struct stat status{};
    if (::stat(link.c_str(), &status) != 0) return os_error("examining its executable").to_text();
    if (!S_ISREG(status.st_mode) || status.st_uid != 0 || (status.st_mode & 022) != 0) {
        return fmt::format("its executable {} can be written by others than root", path);
    }
    return {};
}

// The fields of /proc/PID/stat from the third on; comm, the second, may hold anything, so they are
// counted from its end (Documentation/filesystems/proc.rst, table 1-4).
struct ProcessStat {
    char state = '?';
    std::uint64_t start_ticks = 0;
};
ProcessStat parse_stat(std::string_view stat) {
    ProcessStat parsed;
    const std::size_t close = stat.rfind(')');
    if (close == std::string_view::npos) return parsed;
    std::string_view rest = stat.substr(close + 1);
    for (int field = 3; field <= 22; ++field) {
        const std::size_t begin = rest.find_first_not_of(' ');
        if (begin == std::string_view::npos) return parsed;
        rest.remove_prefix(begin);
        if (field == 3) parsed.state = rest.front();
        if (field == 22) break;
        rest.remove_prefix(std::min(rest.find(' '), rest.size()));
    }
    std::from_chars(rest.data(), rest.data() + rest.size(), parsed.start_ticks);
    return parsed;
}

// The effective id of a line "Uid:\treal\teffective\t.." of /proc/PID/status.
std::uint32_t effective_id(std::string_view status, std::string_view title) {
    constexpr std::uint32_t kNobody = 65534;
    std::size_t at = status.find(title);
    if (at != std::string_view::npos) at = status.find('\t', at + title.size() + 1);
    if (at == std::string_view::npos) return kNobody;
    std::uint32_t id = kNobody;
    std::from_chars(status.data() + at + 1, status.data() + status.size(), id);
    return id;
}

using DomainNames = std::map<pid_t, std::string>;

// NAME.pid for every VMM of libvirt's, in a directory that only root can write.
DomainNames read_domain_names(const fs::path& run) {
    DomainNames names;
    struct stat status{};
    if (::lstat(run.c_str(), &status) != 0 || !S_ISDIR(status.st_mode) || status.st_uid != 0 ||
        (status.st_mode & 022) != 0) {
        return names;
    }
    std::error_code error;
    for (fs::directory_iterator entry(run, error), end; !error && entry != end;
         entry.increment(error)) {
        if (entry->path().extension() != ".pid") continue;
        const std::string text = read_file(entry->path(), 64).value_or("");
        pid_t pid = 0;
        if (std::from_chars(text.data(), text.data() + text.size(), pid).ec == std::errc{}) {
            names[pid] = entry->path().stem();
        }
    }
    return names;
}

// libvirt's scope with systemd, its cgroup without (src/util/vircgroup.c). Only root puts a process
// there.
bool in_libvirt_cgroup(std::string_view cgroup) {
    return cgroup.find("/machine.slice/machine-qemu") != std::string_view::npos ||
           cgroup.find(".libvirt-qemu") != std::string_view::npos;
}

// Why the RAM cannot be read, "" when it can.
std::string why_unreadable(const fs::path& directory, const Vm& vm) {
    if (holds_guest_memfd(directory)) {
        return "a confidential VM: its RAM is a guest_memfd, which the host cannot read";
    }
    if (vm.backing == RamBacking::unknown) {
        return "no mapping of its memory is as large as its RAM";
    }
    if (vm.backing != RamBacking::anonymous) return {};
    const auto memory = open_file(directory / "mem", O_RDONLY);
    if (memory.has_value()) return {};
    return explain_denial(memory.error().os_errno, access_to(vm.user));
}

void look_at_ram(const fs::path& directory, Vm& vm) {
    const auto maps = read_file(directory / "maps", 64u << 20);
    vm.backing =
        maps.has_value()
            ? backing_of(*maps, vm, read_file(directory / "mountinfo", 4u << 20).value_or(""))
            : RamBacking::unknown;
    if (!vm.not_introspectable.empty()) return;
    vm.not_introspectable = maps.has_value()
                                ? why_unreadable(directory, vm)
                                : explain_denial(maps.error().os_errno, access_to(vm.user));
}

void examine(const fs::path& directory, pid_t pid, const DomainNames& domains, Host& host) {
    std::error_code error;
    const std::string target = fs::read_symlink(directory / "exe", error).string();
    const auto command = read_file(directory / "cmdline", kMaxCommandLineBytes);
    if (!command.has_value()) return;
    const std::vector<std::string> arguments = split_at_nul(*command);
    std::string_view executable = target;
    if (executable.ends_with(" (deleted)")) executable.remove_suffix(10);
    const bool by_name = is_vmm_name(base_name(executable));
    const bool by_claim = !arguments.empty() && is_vmm_name(base_name(arguments[0]));
    if (!by_name && !by_claim) return;
    if (target.empty() && error != std::errc::permission_denied) return;  // it is ending
    Vm vm;
    vm.pid = pid;
    vm.executable = executable;
    const ProcessStat stat = parse_stat(read_file(directory / "stat", 4096).value_or(""));
    vm.start_ticks = stat.start_ticks;
    const std::string status = read_file(directory / "status", 65536).value_or("");
    vm.user = effective_id(status, "\nUid:");
    vm.group = effective_id(status, "\nGid:");
    apply_command_line(arguments, vm);
    if (target.empty()) {
        // It may be a VM, and nobody looks into it: that is told, and nothing it says is believed.
        vm.managed_by = "unknown";
        vm.not_introspectable = "its executable may not be examined; run as root";
        host.vms.push_back(std::move(vm));
        return;
    }
    if (!by_name) {
        host.impostors.push_back(
            {pid, fmt::format("it calls itself {}, but runs {}", base_name(arguments[0]), target)});
        return;
    }
    if (std::string why = distrust(directory / "exe", target); !why.empty()) {
        host.impostors.push_back({pid, std::move(why)});
        return;
    }
    if (stat.state == 'T' || stat.state == 't') vm.state = "stopped by a signal";
    const auto domain = domains.find(pid);
    if (domain != domains.end()) vm.libvirt_name = domain->second;
    vm.in_libvirt_cgroup = in_libvirt_cgroup(read_file(directory / "cgroup", 65536).value_or(""));
    const bool libvirts = vm.in_libvirt_cgroup || !vm.libvirt_name.empty() ||
                          vm.managed_by == "libvirt" ||
                          vm.qmp_socket.find("/libvirt/") != std::string::npos;
    vm.managed_by = libvirts ? "libvirt" : "by hand";
    look_at_ram(directory, vm);
    host.vms.push_back(std::move(vm));
}

// What changes where the RAM is looked for.
bool apply_memory(const ManagerFacts& facts, Vm& vm) {
    const auto before = std::pair(vm.memory_bytes, vm.ram_blocks);
    if (facts.memory_bytes != 0 && facts.memory_bytes != vm.memory_bytes) {
        vm.notes.push_back(fmt::format("{} says {} MiB of RAM, its command line {} MiB",
                                       facts.source, facts.memory_bytes >> 20,
                                       vm.memory_bytes >> 20));
        // Without a backend of its own a block has the size of the whole.
        if (vm.ram_blocks.size() == 1 && vm.ram_blocks[0].size_bytes == vm.memory_bytes) {
            vm.ram_blocks[0].size_bytes = facts.memory_bytes;
        }
        vm.memory_bytes = facts.memory_bytes;
    }
    // A VM that was described in a file (-readconfig) has its backend from there.
    if (!facts.ram_backend.empty() && vm.ram_blocks.size() == 1) {
        vm.ram_blocks[0].id = facts.ram_backend;
    }
    for (RamBlock& block : vm.ram_blocks) {
        const auto told = std::ranges::find(facts.backends, block.id, &RamBlock::id);
        if (told == facts.backends.end()) continue;
        if (block.size_bytes != told->size_bytes || block.shared != told->shared) {
            vm.notes.push_back(fmt::format(
                "{} says that {} has {} MiB, {}; its command line says "
                "{} MiB, {}",
                facts.source, block.id, told->size_bytes >> 20, told->shared ? "shared" : "private",
                block.size_bytes >> 20, block.shared ? "shared" : "private"));
        }
        block.size_bytes = told->size_bytes;
        block.shared = told->shared;
    }
    if (facts.max_ram_below_4g != 0) vm.max_ram_below_4g = facts.max_ram_below_4g;
    return before != std::pair(vm.memory_bytes, vm.ram_blocks);
}

}  // namespace

Result<Host> discover(const fs::path& proc, const fs::path& libvirt_run) {
    Host host;
    const DomainNames domains = read_domain_names(libvirt_run);
    std::error_code error;
    fs::directory_iterator entries(proc, error);
    if (error) return fail(os_error(fmt::format("listing {}", proc.string()), error.value()));
    for (; entries != fs::directory_iterator(); entries.increment(error)) {
        if (error) break;
        const std::string name = entries->path().filename();
        pid_t pid = 0;
        const auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), pid);
        if (bad == std::errc{} && end == name.data() + name.size()) {
            examine(entries->path(), pid, domains, host);
        }
    }
    std::ranges::sort(host.vms, {}, &Vm::pid);
    return host;
}

void apply_facts(const ManagerFacts& facts, Vm& vm) {
    const bool libvirts = facts.source == "libvirt";
    // A VMM that a signal has stopped answers nothing, and libvirt does not know.
    if (vm.state.empty()) vm.state = facts.state;
    if (vm.name.empty()) vm.name = facts.name;
    if (vm.uuid.empty()) vm.uuid = facts.uuid;
    vm.cpus = facts.cpus;
    if (vm.uuid != facts.uuid && !facts.uuid.empty()) {
        vm.notes.push_back(fmt::format("{} says that its UUID is {}, its command line says {}",
                                       facts.source, facts.uuid, vm.uuid));
    }
    if (facts.kvm) vm.accelerator = "kvm";
    if (libvirts) {
        vm.libvirt_name = facts.name;
        vm.identity = facts.identity;
    }
    bool changed = apply_memory(facts, vm);
    if (const std::string machine = chipset(facts.machine);
        !machine.empty() && machine != vm.machine) {
        vm.machine = machine;
        changed = true;
    }
    if (facts.plugged_bytes != 0) {
        vm.notes.push_back(
            fmt::format("{} MiB of RAM were plugged in since it started; they are "
                        "not looked into",
                        facts.plugged_bytes >> 20));
    }
    if (!facts.confidential.empty() && vm.not_introspectable.empty()) {
        vm.not_introspectable = facts.confidential;
    }
    if (!changed) return;
    // What was concluded from the smaller RAM may not hold for the larger.
    if (facts.confidential.empty() && vm.backing == RamBacking::unknown) {
        vm.not_introspectable.clear();
    }
    look_at_ram(fmt::format("/proc/{}", vm.pid), vm);
}

bool is_domain(const ManagerFacts& facts, const Vm& vm) {
    if (vm.executable.empty() || facts.uuid.empty() || facts.uuid != vm.uuid) return false;
    return vm.libvirt_name.empty() ? vm.in_libvirt_cgroup : vm.libvirt_name == facts.name;
}

bool has_monitor(const Vm& vm) {
    // Before there is RAM, a VMM may be waiting for the first client of its monitor ("wait=on"),
    // and whoever comes would start the VM. RAM is made later (softmmu/vl.c, object_create_early).
    return vm.managed_by == "by hand" && !vm.qmp_socket.empty() && !vm.executable.empty() &&
           vm.backing != RamBacking::unknown;
}

std::string why_no_registers(const Vm& vm) {
    if (has_monitor(vm)) return "its monitor has not told the registers of its CPUs";
    if (vm.managed_by == "libvirt") {
        return "the registers of its CPUs are not asked for: libvirt owns the monitor, and a "
               "command "
               "past libvirt would taint the domain";
    }
    return "nobody tells the registers of its CPUs: its VMM has no QMP socket (-qmp unix:PATH,"
           "server=on,wait=off)";
}

Result<Vm> select(const Host& host, std::string_view wanted) {
    std::vector<const Vm*> exact, begins;
    for (const Vm& vm : host.vms) {
        const bool same = vm.name == wanted || vm.uuid == wanted ||
                          std::to_string(vm.pid) == wanted || vm.label() == wanted;
        if (same) exact.push_back(&vm);
        if (wanted.size() >= 4 && vm.uuid.starts_with(wanted)) begins.push_back(&vm);
    }
    const auto& matches = exact.empty() ? begins : exact;
    if (matches.size() == 1) return *matches.front();
    std::vector<std::string> there;
    if (matches.empty()) {
        for (const Vm& vm : host.vms) there.push_back(vm.label());
        return fail(
            Code::not_found,
            fmt::format("no VM is called '{}'. {}", wanted,
                        there.empty() ? "No VM runs on this host"
                                      : fmt::format("There are: {}", fmt::join(there, ", "))));
    }
    for (const Vm* vm : matches) there.push_back(std::to_string(vm->pid));
    return fail(Code::ambiguous, fmt::format("{} VMs are called '{}'; name one by its pid: {}",
                                             matches.size(), wanted, fmt::join(there, ", ")));
}

}  // namespace underseer::hypervisor
