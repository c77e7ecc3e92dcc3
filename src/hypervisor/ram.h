// Where a VM's RAM lies: on the host, by the mappings of its VMM; in the guest, by the rules of its
// machine type. Both are hypotheses that the guest's own page tables prove or refute.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/os.h"
#include "guest_memory/ram_layout.h"
#include "hypervisor/vm.h"

namespace underseer::hypervisor {

// How much of the RAM lies below 4 GiB (QEMU 7.2: hw/i386/pc_q35.c, pc_piix.c, microvm.c).
std::uint64_t ram_below_4g(const Vm& vm, std::uint64_t total_bytes);

// What backs the largest mappings that fit the VM's RAM blocks. The texts are /proc/PID/maps and
// /proc/PID/mountinfo.
RamBacking backing_of(std::string_view maps, const Vm& vm, std::string_view mountinfo = {});

// The layout of private RAM whose offsets are addresses in the VMM.
Result<std::vector<guest_memory::RamSlice>> private_layout(std::string_view maps, const Vm& vm);

// The VM's memory, opened read-only: fds and the likeliest layout first.
struct OpenRam {
    std::vector<Fd> fds;
    std::vector<std::vector<guest_memory::RamSlice>> layouts;
    Fd vmm;  // pidfd: readable once the VMM has ended. Shared memory outlives it.
};
// Needs the right to read the VMM's memory (root, or CAP_SYS_PTRACE). Code::gone when the
// process has ended or its pid belongs to another one by now.
Result<OpenRam> open_ram(const Vm& vm);

// ---- who may read it ------------------------------------------------------------------------

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
