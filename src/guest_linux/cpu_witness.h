// What the CPUs' registers testify of a kernel that was found in RAM.
//
// RAM alone does not tell a kernel from a decoy that is complete: a copy of everything, with page
// tables of its own. What a CPU obeys does: CR3 leads to the page tables it walks, IDTR to the
// table by which it takes interrupts.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "event/observation.h"
#include "guest_linux/kernel_image.h"

namespace underseer::guest_linux {

// A kernel in RAM that is whole, and that no CPU runs: what a reboot or kexec has left, or a decoy.
struct UnrunKernel {
    std::string release, banner;
    GuestPhys root, banner_at;
    GuestPhys ticks_at;  // jiffies_64: what has ended does not count any more
};

enum class Testimony : std::uint8_t {
    none,          // it obeys no 64-bit kernel now, or its page tables have changed since
    runs_it,       // both its page tables and its interrupt table are those of the kernel
    runs_another,  // its page tables are those of another kernel, which is whole as well
    other_gate,    // the kernel's page tables, but an interrupt table that lies elsewhere
};

struct CpuStatement {
    std::uint32_t cpu = 0;
    Testimony says = Testimony::none;
    std::string why;  // of all but runs_it, for people
};

// One CPU about one kernel. The page tables are read now, and may have changed since the registers
// were: then it says nothing. So does a CPU that may be running a nested VM, whose CR3 is no
// address of this guest.
CpuStatement hear_cpu(guest_memory::GuestMemory& memory, const KernelImage& image,
                      const event::CpuRegisters& registers);

struct Hearing {
    std::vector<CpuStatement> statements;

    unsigned count(Testimony what) const;
    // The first that says so. REQUIRES: count(what) > 0.
    const CpuStatement& first(Testimony what) const;
};
Hearing hear_cpus(guest_memory::GuestMemory& memory, const KernelImage& image,
                  std::span<const event::CpuRegisters> cpus);

// The registers in the notes that QEMU puts into a dump (GuestMemory::notes(); struct QEMUCPUState,
// target/i386/arch_dump.c of QEMU 7.2). Notes of other writers have none. TRUST: hostile bytes.
std::vector<event::CpuRegisters> registers_in_notes(Bytes notes);

// Whether a 64-bit kernel may be running: at least one CPU is in 64-bit mode, or nobody tells.
// Firmware and boot loaders are not, while what a reset has left in RAM is whole.
bool may_run_linux(std::span<const event::CpuRegisters> cpus);

// The top tables that the registers name; with page-table isolation, the kernel's half as well.
std::vector<GuestPhys> top_tables_of(std::span<const event::CpuRegisters> cpus);

}  // namespace underseer::guest_linux
