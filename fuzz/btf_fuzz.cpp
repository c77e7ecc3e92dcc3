// Border: the BTF blob, which the guest's kernel memory holds. Nothing about it is trusted. Must
// hold: parsing ends, reads stay inside, and every look-up on what was accepted is bounded.
#include "guest_linux/btf.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace underseer;
    const auto* bytes = reinterpret_cast<const std::byte*>(data);
    const auto btf = guest_linux::Btf::parse({bytes, bytes + size});
    if (!btf.has_value()) return 0;
    for (std::uint32_t id = 0; id < btf->type_count() && id < 256; ++id) {
        (void)btf->size_bytes(id);
        (void)btf->array(id);
        (void)btf->find_member(id, "a.b");
    }
    (void)btf->enumerator("a");
    return 0;
}
