// The code that a kernel gives to every process (the vDSO), as the kernel itself has it.
#pragma once

#include <string>
#include <vector>

#include "guest_linux/gaps.h"
#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

// struct vdso_image, arch/x86/include/asm/vdso.h.
struct VdsoImage {
    std::string name;  // "vDSO", "vDSO of 32-bit programs"
    GuestVirt data;
    std::uint64_t size_bytes = 0;
};

// Code::malformed when it is longer than any can be.
Result<VdsoImage> read_vdso_image(Kernel& kernel, GuestVirt image, std::string name);

// All that the kernel has; those of other programs than 64-bit ones it may be built without.
std::vector<VdsoImage> vdso_images(Kernel& kernel, Gaps& gaps);

// Which page of which image a process has at an address of its [vdso].
class ProcessVdso {
  public:
    // Of a process by its mm_struct.
    static Result<ProcessVdso> read(Kernel& kernel, GuestVirt mm);

    // Nothing where the image has no such page.
    Result<std::optional<GuestPhys>> page_at(GuestVirt at);

  private:
    ProcessVdso(Kernel* kernel, VdsoImage image, GuestVirt begin)
        : kernel_(kernel), image_(std::move(image)), begin_(begin) {}

    Kernel* kernel_;
    VdsoImage image_;
    GuestVirt begin_;
};

}  // namespace underseer::guest_linux
