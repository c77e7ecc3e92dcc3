#include "hypervisor/ram.h"

#include <fmt/format.h>
#include <linux/capability.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/os.h"

namespace underseer::hypervisor {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxFdsLookedAt = 65'536;

// The hexadecimal mask after "CapEff:" in /proc/self/status.
bool has_ptrace_capability(const fs::path& proc) {
    const std::string status = read_file(proc / "self/status", 65'536).value_or("");
    const std::size_t at = status.find("CapEff:\t");
    if (at == std::string::npos) return false;
    std::uint64_t mask = 0;
    std::from_chars(status.data() + at + 8, status.data() + status.size(), mask, 16);
    return (mask >> CAP_SYS_PTRACE & 1) != 0;
}

}  // namespace

Access access_to(uid_t user, const fs::path& proc) {
    Access access;
    access.capable = has_ptrace_capability(proc);
    access.same_user = user == ::geteuid();
    const auto scope = read_file(proc / "sys/kernel/yama/ptrace_scope", 16).value_or("0");
    std::from_chars(scope.data(), scope.data() + scope.size(), access.yama_scope);
    std::string label = read_file(proc / "self/attr/current", 4096).value_or("");
    while (!label.empty() && (label.back() == '\n' || label.back() == '\0')) label.pop_back();
    // SELinux: "unconfined_u:unconfined_r:unconfined_t:s0", or "kernel" before a policy is loaded.
    const bool free = label.find("unconfined") != std::string::npos || label == "kernel";
    if (!free) access.confinement = std::move(label);
    return access;
}

std::string explain_denial(int error, const Access& access) {
    if (error != EACCES && error != EPERM) {
        return fmt::format("its memory cannot be opened: {}", std::strerror(error));
    }
    if (access.yama_scope >= 3) {
        return "kernel.yama.ptrace_scope is 3: until the next boot nobody may read another "
               "process's memory; set it to 2 in /etc/sysctl.d and boot";
    }
    if (!access.capable && !access.same_user) {
        return "reading its memory needs root (or CAP_SYS_PTRACE)";
    }
    if (!access.capable && access.yama_scope > 0) {
        return fmt::format(
            "kernel.yama.ptrace_scope is {}: reading its memory needs root (or CAP_SYS_PTRACE)",
            access.yama_scope);
    }
    if (!access.confinement.empty()) {
        return fmt::format(
            "the security module denies it: this process is confined as '{}'; allow that ptrace "
            "of the VMM",
            access.confinement);
    }
    return "its memory may not be read, though this process has the right to: a security module "
           "(SELinux, AppArmor), or another user namespace";
}

bool holds_guest_memfd(const fs::path& process) {
    std::error_code error;
    std::size_t seen = 0;
    for (fs::directory_iterator entry(process / "fd", error), end; !error && entry != end;
         entry.increment(error)) {
        if (++seen > kMaxFdsLookedAt) return false;
        std::error_code ignored;
        // virt/kvm/guest_memfd.c: anon_inode_create_getfile("[kvm-gmem]", ..)
        const std::string target = fs::read_symlink(entry->path(), ignored).string();
        if (target.starts_with("anon_inode:") && target.find("kvm-gmem") != std::string::npos) {
            return true;
        }
    }
    return false;
}

}  // namespace underseer::hypervisor
