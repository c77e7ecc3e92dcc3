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
        return fail(Code::limit,
                    fmt::format("it has {} bytes, more than any kernel or package", bytes));
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

// A .deb has its files in an archive of its own, and what it says of itself in another.
struct Unpacked {
    std::string kernel, files, control;
};

bool may_be_kernel(std::string_view path) {
    return name_of(path).starts_with("vmlinuz") || name_of(path).starts_with("vmlinux");
}

Result<Unpacked> unpack_package(std::string_view package) {
    Unpacked found;
    const auto take_kernel = [&](std::string_view, std::string content) -> Result<bool> {
        if (!is_kernel(content)) return true;
        found.kernel = std::move(content);
        return false;
    };
    TRY(scan::each_file(
        as_bytes(package), limits::kMaxKernelPackageBytes,
        [&](std::string_view path) {
            return may_be_kernel(path) || path.starts_with("data.tar") ||
                   path.starts_with("control.tar");
        },
        [&](std::string_view path, std::string content) -> Result<bool> {
            if (path.starts_with("control.tar")) {
                found.control = std::move(content);
                return true;
            }
            if (!path.starts_with("data.tar")) return take_kernel(path, std::move(content));
            found.files = std::move(content);
            return false;
        }));
    if (found.kernel.empty() && !found.files.empty()) {
        TRY(scan::each_file(as_bytes(found.files), limits::kMaxKernelFileBytes, may_be_kernel,
                            take_kernel));
    }
    return found;
}

// "bash_5.2.15-2+b7_amd64", as the file of a .deb is called (deb-control(5)); "" where it does not
// say.
Result<std::string> package_name(std::string_view control_archive) {
    std::string control, name;
    if (control_archive.empty()) return name;
    TRY(scan::each_file(
        as_bytes(control_archive), limits::kMaxPackageControlBytes,
        [](std::string_view path) { return path == "./control" || path == "control"; },
        [&](std::string_view, std::string content) -> Result<bool> {
            control = "\n" + content;
            return false;
        }));
    for (const std::string_view field : {"Package", "Version", "Architecture"}) {
        const std::string begin = fmt::format("\n{}: ", field);
        const std::size_t at = control.find(begin);
        if (at == std::string::npos) return std::string();
        const std::size_t from = at + begin.size();
        if (!name.empty()) name += '_';
        name += control.substr(from, control.find('\n', from) - from);
    }
    return name;
}

// It tells a baseline apart, and becomes the name of a folder: of something else than a package,
// the file's name and the build id of the first program.
std::string id_of(std::string package, std::string_view file, std::string_view build_id) {
    if (package.empty()) package = fmt::format("{}_{}", name_of(file), build_id.substr(0, 12));
    for (char& c : package) {
        const bool is_fine = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                             (c >= 'A' && c <= 'Z') ||
                             std::string_view("+~:_-.").find(c) != std::string_view::npos;
        if (!is_fine) c = '-';
    }
    return package;
}

Baseline describe_programs(const guest_linux::ProgramSet& set, std::uint64_t left_out) {
    Baseline baseline;
    baseline.facts = {
        .package = set.package, .programs = set.programs.size(), .left_out = left_out};
    for (const guest_linux::KnownProgram& program : set.programs) {
        for (const guest_linux::KnownPages& part : program.pages) {
            baseline.facts.text_bytes += part.count() * kPageSize;
        }
    }
    baseline.bytes = pack(set);
    baseline.facts.bytes = baseline.bytes.size();
    return baseline;
}

// Symbols that were split off have the build id of what they were split from, and not its code.
constexpr std::string_view kDebugFolder = "/usr/lib/debug/";

std::string path_in_root(std::string_view path) {
    if (path.starts_with("./")) path.remove_prefix(1);
    return path.starts_with('/') ? std::string(path) : fmt::format("/{}", path);
}

Result<Baseline> programs_in(std::string_view archive, std::string package, std::string_view file) {
    guest_linux::ProgramSet set;
    std::uint64_t left_out = 0, hash_bytes = 0;
    TRY(scan::each_file(
        as_bytes(archive), limits::kMaxProgramFileBytes,
        [](std::string_view path) { return !path_in_root(path).starts_with(kDebugFolder); },
        [&](std::string_view path, std::string content) -> Result<bool> {
            if (!guest_linux::is_program(as_bytes(content))) return true;
            auto program = guest_linux::read_program(as_bytes(content));
            if (!program.has_value()) {
                ++left_out;
                return true;
            }
            program->path = path_in_root(path);
            for (const auto& part : program->pages) hash_bytes += part.hashes.size();
            set.programs.push_back(std::move(*program));
            if (set.programs.size() > limits::kMaxProgramsOfSet ||
                hash_bytes > limits::kMaxProgramSetBytes) {
                return fail(Code::limit, "it has more programs than a package has");
            }
            return true;
        }));
    if (set.programs.empty()) {
        return fail(Code::not_found,
                    fmt::format("there is no kernel in it, and no program with a build id ({} "
                                "without): a package that has vmlinuz is wanted "
                                "(linux-image-VERSION), or programs, not one that only depends on "
                                "them",
                                left_out));
    }
    set.package = id_of(std::move(package), file, set.programs.front().build_id);
    return describe_programs(set, left_out);
}

Result<Baseline> program_alone(Bytes file, std::string_view name) {
    guest_linux::ProgramSet set;
    set.programs.push_back(TRY(guest_linux::read_program(file)));
    set.programs.front().path =
        name.starts_with('/') ? std::string(name) : fmt::format("/{}", name);
    set.package = id_of({}, name, set.programs.front().build_id);
    return describe_programs(set, 0);
}

Result<Baseline> of_kernel(guest_linux::BuiltKernel kernel) {
    if (kernel.is_seen) {
        return fail(
            Code::invalid_argument,
            "it is what a guest was seen to run, and does not say how its kernel was built");
    }
    return describe(std::move(kernel));
}

Result<Baseline> make_one(std::string_view content, std::string_view name) {
    if (guest_linux::is_packed_baseline(as_bytes(content))) {
        return of_kernel(TRY(guest_linux::unpack_built_kernel(as_bytes(content))));
    }
    if (guest_linux::is_program(as_bytes(content))) {
        return program_alone(as_bytes(content), name);
    }
    if (is_kernel(content)) return of_kernel(TRY(read_kernel(content)));
    const Unpacked package = TRY(unpack_package(content));
    if (!package.kernel.empty()) return of_kernel(TRY(read_kernel(package.kernel)));
    return programs_in(package.files.empty() ? content : std::string_view(package.files),
                       TRY(package_name(package.control)), name);
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

Result<std::vector<Baseline>> make_baselines(int file, std::uint64_t file_bytes,
                                             std::string_view name) {
    const std::string content = TRY(content_of(file, file_bytes));
    std::vector<Baseline> made;
    if (guest_linux::is_packed_programs(as_bytes(content))) {
        const auto sets = TRY(guest_linux::unpack_programs(as_bytes(content)));
        for (const guest_linux::ProgramSet& set : sets) made.push_back(describe_programs(set, 0));
    } else {
        made.push_back(TRY(make_one(content, name)));
    }
    return made;
}

}  // namespace underseer::agent
