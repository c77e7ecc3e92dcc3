// VMCOREINFO: a page of text that the kernel keeps for crash tools, with addresses of its own.
//
// kernel/vmcore_info.c (kernel/crash_core.c until 6.8) writes it at boot into a page of its own,
// and `vmcoreinfo_data` in the image's data points to that page. Lines are "KEY=value": OSRELEASE,
// BUILD-ID (5.9+), SYMBOL(x)=hex, NUMBER(x)=decimal, OFFSET(s.m), SIZE(s), KERNELOFFSET=hex;
// kallsyms_* among the symbols since 6.0. The page is writable and whoever is root in the guest can
// forge it, so nothing in it is believed before page tables or the image's map confirm it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "guest_linux/kallsyms.h"
#include "guest_linux/kernel_image.h"
#include "guest_linux/virtual_memory.h"

namespace underseer::guest_linux {

class VmcoreInfo {
  public:
    // TRUST: guest memory. Text up to the first NUL; Code::malformed for anything but printable
    // "KEY=value" lines, for one that begins otherwise, for a value that is no number where one
    // must be, or for two values of one key.
    static Result<VmcoreInfo> parse(Bytes page);

    // "OSRELEASE", "BUILD-ID", "KERNELOFFSET", .. as it stands there.
    std::optional<std::string_view> text(std::string_view key) const;
    std::optional<GuestVirt> symbol(std::string_view name) const;
    std::optional<std::int64_t> number(std::string_view name) const;
    std::optional<std::uint64_t> offset(std::string_view member) const;  // "task_struct.pid"
    std::optional<std::uint64_t> size(std::string_view structure) const;
    // How far KASLR has moved the image.
    std::optional<std::uint64_t> kernel_offset() const;

  private:
    std::map<std::string, std::string, std::less<>> values_;
};

// What the image points to: `vmcoreinfo_data` where kallsyms has it, else whatever page a pointer
// in the image's data leads to that begins as VMCOREINFO does. Code::not_found when there is none
// (CONFIG_VMCORE_INFO is off).
Result<VmcoreInfo> find_vmcoreinfo(VirtualMemory& memory, const KernelImage& image,
                                   const Symbols& symbols);

}  // namespace underseer::guest_linux
