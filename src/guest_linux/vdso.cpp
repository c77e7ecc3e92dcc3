#include "guest_linux/vdso.h"

#include <fmt/format.h>

namespace underseer::guest_linux {

namespace {

constexpr std::uint64_t kMaxVdsoBytes = 64u << 10;  // one has two or three pages

}  // namespace

Result<VdsoImage> read_vdso_image(Kernel& kernel, GuestVirt image, std::string name) {
    const Field data = kernel.field("vdso_image", "data"),
                size = kernel.field("vdso_image", "size");
    TRY(kernel.require({data, size}));
    const std::uint64_t bytes = TRY(kernel.read(image, size));
    if (bytes > kMaxVdsoBytes) {
        return fail(Code::malformed, fmt::format("the {} is {} KiB long", name, bytes >> 10));
    }
    const GuestVirt begin = TRY(kernel.read_pointer(image, data));
    if (begin.value % kPageSize != 0) {
        return fail(Code::malformed, fmt::format("the {} begins within a page", name));
    }
    return VdsoImage{std::move(name), begin, bytes};
}

std::vector<VdsoImage> vdso_images(Kernel& kernel, Gaps& gaps) {
    std::vector<VdsoImage> images;
    // Named so until 6.19, and since.
    const auto add = [&](std::string_view name, std::initializer_list<std::string_view> symbols,
                         bool always) {
        const auto at = kernel.symbol(symbols);
        if (!at.has_value() && !always) return;
        auto image = [&]() -> Result<VdsoImage> {
            const GuestVirt there = TRY(Result(at));
            return read_vdso_image(kernel, there, std::string(name));
        }();
        if (image.has_value()) {
            images.push_back(std::move(*image));
        } else {
            gaps.add(name, image.error());
        }
    };
    add("vDSO", {"vdso_image_64", "vdso64_image"}, true);
    add("vDSO of 32-bit programs", {"vdso_image_32", "vdso32_image"}, false);
    add("vDSO of x32 programs", {"vdso_image_x32", "vdsox32_image"}, false);
    return images;
}

// mm_context_t, arch/x86/include/asm/mmu.h.
Result<ProcessVdso> ProcessVdso::read(Kernel& kernel, GuestVirt mm) {
    const Field image = kernel.field("mm_struct", "context.vdso_image"),
                begin = kernel.field("mm_struct", "context.vdso");
    TRY(kernel.require({image, begin}));
    const GuestVirt of = TRY(kernel.read_pointer(mm, image));
    if (!of) return fail(Code::malformed, "the process has no vDSO");
    const GuestVirt at = TRY(kernel.read_pointer(mm, begin));
    return ProcessVdso(&kernel, TRY(read_vdso_image(kernel, of, "vDSO")), at);
}

Result<std::optional<GuestPhys>> ProcessVdso::page_at(GuestVirt at) {
    if (at < begin_ || at - begin_ >= image_.size_bytes) return std::optional<GuestPhys>();
    return std::optional(TRY(kernel_->memory().translate(image_.data + (at - begin_))).phys);
}

}  // namespace underseer::guest_linux
