// Finds the running kernel's image in RAM without registers, symbols or a profile.
//
// What proves a kernel is its page tables. The last entry of every top table leads, through tables
// that lie in the image's own data (level4_/level3_/level2_kernel_pgt, arch/x86/kernel/head_64.S),
// to the mapping of the image; what that maps read-only holds the banner "Linux version ..".
//
// Such a top table is looked for, cheapest first:
//   1. below 1 MiB: the real-mode trampoline keeps a copy of it there (arch/x86/realmode/init.c)
//   2. around a banner that lies at a 2 MiB border, where most kernels' read-only data begins
//   3. where a CPU's CR3 points, when somebody tells it: always, beside the others
//   4. around a banner anywhere in RAM
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "guest_linux/paging.h"
#include "guest_memory/guest_memory.h"

namespace underseer::guest_linux {

// A stretch of the image with one protection, contiguous in both address spaces.
struct ImageExtent {
    GuestVirt virt;
    GuestPhys phys;
    std::uint64_t size_bytes = 0;
    bool writable = false;
    bool executable = false;
};

struct KernelImage {
    std::string banner;  // without the newline
    GuestVirt banner_virt;
    AddressSpace space;
    std::string found_by;              // the rung that found it, for people
    std::vector<ImageExtent> extents;  // by address; holes are freed init memory

    GuestVirt begin() const { return extents.front().virt; }
    GuestVirt end() const { return extents.back().virt + extents.back().size_bytes; }
    // Code::unavailable when the address is not part of the image.
    Result<GuestPhys> phys_of(GuestVirt address) const;
    // Code::unavailable when no part of the image lies there.
    Result<GuestVirt> virt_of(GuestPhys address) const;
    // Whether it lies in the image's code.
    bool executable(GuestVirt address) const;
    // "6.1.0-44-cloud-amd64"
    std::string release() const;
};

// All kernels in RAM that pass the page-table proof, the likeliest first. More than one is there
// after a reboot without power-off, after kexec, or when the guest forges a decoy.
// `leads` are pages that may be top tables, as CR3 names them.
// Code::not_linux (with how far the search came) when there is none.
Result<std::vector<KernelImage>> find_kernel_images(guest_memory::GuestMemory& memory,
                                                    std::span<const GuestPhys> leads = {});

// The kernel to which this one page leads as a top table, if it passes the proof.
std::optional<KernelImage> kernel_image_under(guest_memory::GuestMemory& memory,
                                              GuestPhys top_table);

}  // namespace underseer::guest_linux
