#include "guest_linux/direct_map.h"

namespace underseer::guest_linux {

namespace {

// arch/x86/include/asm/page_64_types.h and pgtable_64_types.h, for a kernel whose layout is fixed.
constexpr std::uint64_t kDirect4 = 0xffff888000000000, kDirect5 = 0xff11000000000000;
constexpr std::uint64_t kRecords4 = 0xffffea0000000000, kRecords5 = 0xffd4000000000000;

// A variable where KASLR moves it (CONFIG_DYNAMIC_MEMORY_LAYOUT).
Result<GuestVirt> base_of(Kernel& kernel, std::string_view variable, std::uint64_t of4,
                          std::uint64_t of5) {
    const auto at = kernel.symbols().address(variable);
    if (at) return kernel.memory().read<GuestVirt>(*at);
    return GuestVirt{kernel.image().space.levels == 5 ? of5 : of4};
}

}  // namespace

Result<GuestVirt> direct_map(Kernel& kernel) {
    return base_of(kernel, "page_offset_base", kDirect4, kDirect5);
}

Result<GuestVirt> page_records(Kernel& kernel) {
    return base_of(kernel, "vmemmap_base", kRecords4, kRecords5);
}

Result<GuestPhys> physical_of_page(Kernel& kernel, GuestVirt record) {
    const std::uint64_t bytes = TRY(kernel.require_size_of("page"));
    const GuestVirt first = TRY(page_records(kernel));
    if (record < first || (record - first) % bytes != 0) {
        return fail(Code::malformed, "what should be the record of a page is none");
    }
    return GuestPhys{(record - first) / bytes * kPageSize};
}

}  // namespace underseer::guest_linux
