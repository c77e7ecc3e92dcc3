// Border: the VMCOREINFO page, which the guest's root can rewrite. Must hold: parsing ends, and
// whatever was accepted can be asked for anything.
#include "guest_linux/vmcoreinfo.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace underseer;
    const Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
    const auto info = guest_linux::VmcoreInfo::parse(bytes);
    if (!info.has_value()) return 0;
    (void)info->text("OSRELEASE");
    for (const char* name : {"init_top_pgt", "swapper_pg_dir", "_stext", "kallsyms_names"}) {
        (void)info->symbol(name);
    }
    for (const char* name : {"phys_base", "pgtable_l5_enabled"}) (void)info->number(name);
    (void)info->offset("list_head.next");
    (void)info->size("page");
    (void)info->kernel_offset();
    return 0;
}
