// Border: the kernel's read-only data, in which the symbol tables are looked for. Must hold: the
// search ends, reads stay inside, and what is accepted can be asked.
#include "guest_linux/kallsyms.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace underseer;
    const Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
    const auto symbols = guest_linux::Symbols::find(bytes, GuestVirt{0xffffffff82000000});
    if (!symbols.has_value()) return 0;
    for (std::size_t i = 0; i < symbols->size(); ++i)
        (void)symbols->nearest(symbols->at(i).address);
    return 0;
}
