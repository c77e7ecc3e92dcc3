#include "agent/baseline_maker.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "base/os.h"
#include "guest_linux/guest.h"
#include "scan/archive.h"

namespace underseer::agent {

namespace {

constexpr std::size_t kReadBytes = 1u << 20;
constexpr std::string_view kElfMagic(
    "\x7f"
    "ELF");
// Where the boot protocol's magic number stands (Documentation/arch/x86/boot.rst).
constexpr std::size_t kBootMagicAt = 0x202;
constexpr std::string_view kBootMagic = "HdrS";

Result<std::string> content_of(int fd, std::uint64_t bytes) {
    if (bytes > limits::kMaxKernelPackageBytes) {
        return fail(Code::limit, fmt::format("it has {} bytes, more than any kernel", bytes));
    }
    std::string content(bytes, '\0');
    for (std::size_t at = 0; at < content.size();) {
        const ssize_t got =
            ::pread(fd, content.data() + at, std::min(kReadBytes, content.size() - at),
                    static_cast<off_t>(at));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail(os_error("reading it"));
        if (got == 0) return fail(Code::malformed, "it became shorter while it was read");
        at += static_cast<std::size_t>(got);
    }
    return content;
}

bool is_kernel(std::string_view file) {
    return file.starts_with(kElfMagic) ||
           (file.size() > kBootMagicAt && file.substr(kBootMagicAt).starts_with(kBootMagic));
}

Result<guest_linux::BuiltKernel> read_kernel(std::string_view file) {
    if (file.starts_with(kElfMagic)) return guest_linux::read_built_kernel(as_bytes(file));
    const Bytes packed = TRY(guest_linux::packed_kernel(as_bytes(file)));
    const std::string vmlinux = TRY(scan::uncompress(packed, limits::kMaxKernelFileBytes)
                                        .context("unpacking the kernel in it"));
    return guest_linux::read_built_kernel(as_bytes(vmlinux));
}

std::string_view name_of(std::string_view path) {
    return path.substr(path.rfind('/') + 1);  // npos + 1: all of it
}

// A .deb has its files in an archive of its own.
Result<std::string> kernel_in(std::string_view package) {
    std::string kernel, inner;
    const auto of_kernel = [](std::string_view path) {
        return name_of(path).starts_with("vmlinuz") || name_of(path).starts_with("vmlinux");
    };
    const auto take = [&](std::string_view path, std::string content) -> Result<bool> {
        const bool is_inner = name_of(path).starts_with("data.tar");
        if (!is_inner && !is_kernel(content)) return true;
        (is_inner ? inner : kernel) = std::move(content);
        return false;
    };
    TRY(scan::each_file(
        as_bytes(package), limits::kMaxKernelPackageBytes,
        [&](std::string_view path) {
            return of_kernel(path) || name_of(path).starts_with("data.tar");
        },
        take));
    if (kernel.empty() && !inner.empty()) {
        TRY(scan::each_file(as_bytes(inner), limits::kMaxKernelFileBytes, of_kernel, take));
    }
    if (kernel.empty()) {
        return fail(Code::not_found,
                    "there is no kernel in it: a package that has vmlinuz is wanted "
                    "(linux-image-VERSION), not one that only depends on it");
    }
    return kernel;
}

}  // namespace

Baseline describe(guest_linux::BuiltKernel kernel) {
    Baseline baseline;
    baseline.facts = {.build_id = kernel.build_id,
                      .release = kernel.release,
                      .text_bytes = kernel.text.size(),
                      .places = kernel.patches.size()};
    const bool is_seen = kernel.is_seen;
    baseline.bytes = pack(std::move(kernel), /*quickly=*/is_seen);
    baseline.facts.bytes = baseline.bytes.size();
    return baseline;
}

Result<Baseline> make_baseline(int file, std::uint64_t file_bytes) {
    std::string content = TRY(content_of(file, file_bytes));
    const bool is_made = guest_linux::is_packed_baseline(as_bytes(content));
    if (!is_made && !is_kernel(content)) content = TRY(kernel_in(content));
    auto kernel =
        TRY(is_made ? guest_linux::unpack_built_kernel(as_bytes(content)) : read_kernel(content));
    if (kernel.is_seen) {
        return fail(
            Code::invalid_argument,
            "it is what a guest was seen to run, and does not say how its kernel was built");
    }
    return describe(std::move(kernel));
}

}  // namespace underseer::agent
