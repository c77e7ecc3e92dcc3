// Whether this process may read a VMM's memory, and if not, why not and what would help.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>

namespace underseer::hypervisor {

// What decides about it (ptrace(2), "Ptrace access mode checking").
struct Access {
    bool capable = false;     // CAP_SYS_PTRACE is in effect
    bool same_user = false;   // the VMM is the calling user's
    int yama_scope = 0;       // kernel.yama.ptrace_scope; 0 where there is no Yama
    std::string confinement;  // own SELinux context or AppArmor profile; "" when unconfined
};
Access access_to(uid_t user, const std::filesystem::path& proc = "/proc");

// Why opening the memory failed with `error`.
std::string explain_denial(int error, const Access& access);

// Whether the VMM holds RAM that only the guest can see (guest_memfd of a TDX or SNP guest).
bool holds_guest_memfd(const std::filesystem::path& process);

}  // namespace underseer::hypervisor
