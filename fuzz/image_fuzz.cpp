// Border: an image file. Must hold: opening ends with an image or an error; every region of an
// image can be read, or says why not; its notes tell registers or nothing.
#include <sys/mman.h>

#include "base/os.h"
#include "guest_linux/cpu_witness.h"
#include "guest_memory/sources.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace underseer;
    static const Fd file(::memfd_create("image", MFD_CLOEXEC));
    if (::ftruncate(file.get(), 0) != 0 || ::lseek(file.get(), 0, SEEK_SET) != 0) return 0;
    if (!write_all(file.get(), {reinterpret_cast<const std::byte*>(data), size}).has_value())
        return 0;
    auto image = guest_memory::open_image(file.get(), size, "fuzzed");
    if (!image.has_value()) return 0;
    (void)guest_linux::registers_in_notes((*image)->notes());
    std::vector<std::byte> page(kPageSize);
    for (const guest_memory::RamRegion& region : (*image)->regions()) {
        (void)(*image)->read(region.begin, page);
        (void)(*image)->read(region.end() - 1, std::span(page).first(1));
    }
    return 0;
}
