#include "hypervisor/discover.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <charconv>

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

// Field 22 of /proc/PID/stat; comm (field 2) may hold anything, so fields are counted from its end.
std::uint64_t start_ticks(std::string_view stat) {
    const std::size_t close = stat.rfind(')');
    if (close == std::string_view::npos) return 0;
    std::string_view rest = stat.substr(close + 1);
    for (int field = 3; field <= 22; ++field) {
        const std::size_t begin = rest.find_first_not_of(' ');
        if (begin == std::string_view::npos) return 0;
        rest.remove_prefix(begin);
        if (field == 22) break;
        rest.remove_prefix(std::min(rest.find(' '), rest.size()));
    }
    std::uint64_t ticks = 0;
    std::from_chars(rest.data(), rest.data() + rest.size(), ticks);
    return ticks;
}

void examine(const fs::path& directory, pid_t pid, Host& host) {
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
    if (target.empty()) {
        host.impostors.push_back({pid, "its executable cannot be examined (are you root?)"});
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
    Vm vm;
    vm.pid = pid;
    vm.executable = executable;
    vm.start_ticks = start_ticks(read_file(directory / "stat", 4096).value_or(""));
    apply_command_line(arguments, vm);
    const std::string cgroup = read_file(directory / "cgroup", 65536).value_or("");
    vm.managed_by = cgroup.find("machine-qemu") != std::string::npos ||
                            vm.qmp_socket.starts_with("/var/lib/libvirt/")
                        ? "libvirt"
                        : "by hand";
    const auto maps = read_file(directory / "maps", 64u << 20);
    vm.backing = maps.has_value() ? backing_of(*maps, vm) : RamBacking::unknown;
    if (vm.not_introspectable.empty() && vm.backing == RamBacking::unknown) {
        vm.not_introspectable = maps.has_value() ? "no mapping of its memory is as large as its RAM"
                                                 : maps.error().to_text();
    }
    host.vms.push_back(std::move(vm));
}

}  // namespace

Result<Host> discover(const fs::path& proc) {
    Host host;
    std::error_code error;
    fs::directory_iterator entries(proc, error);
    if (error) return fail(os_error(fmt::format("listing {}", proc.string()), error.value()));
    for (; entries != fs::directory_iterator(); entries.increment(error)) {
        if (error) break;
        const std::string name = entries->path().filename();
        pid_t pid = 0;
        const auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), pid);
        if (bad == std::errc{} && end == name.data() + name.size()) {
            examine(entries->path(), pid, host);
        }
    }
    std::ranges::sort(host.vms, {}, &Vm::pid);
    return host;
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
