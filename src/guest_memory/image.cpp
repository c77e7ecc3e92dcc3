#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/limits.h"
#include "guest_memory/image_file.h"
#include "guest_memory/image_forms.h"
#include "guest_memory/sliced_memory.h"
#include "guest_memory/sources.h"

namespace underseer::guest_memory {

namespace {

constexpr std::uint32_t kLimeMagic = 0x4c694d45;  // "EMiL", LiME's lime.h
constexpr std::size_t kLimeHeaderBytes = 32;
constexpr std::uint32_t kAvmlMagic = 0x4c4d5641;  // "AVML"
constexpr std::string_view kKdumpMagic = "KDUMP   ", kFlattenedMagic = "makedumpfile";

Unexpected truncated(GuestPhys begin, std::uint64_t needs, std::uint64_t file_bytes) {
    return fail(
        Code::malformed,
        fmt::format("the image is truncated: RAM at {:#x} should reach to file offset {:#x}, "
                    "but the file has only {:#x} bytes. Copy it again",
                    begin.value, needs, file_bytes));
}

// LiME: {magic, version 1, first address, last address, 8 reserved} before each range.
Result<std::vector<RamSlice>> parse_lime(const ImageFile& file) {
    const std::uint64_t file_bytes = file.size();
    std::vector<RamSlice> slices;
    for (std::uint64_t at = 0; at < file_bytes;) {
        const auto raw = TRY(file.copy(at, kLimeHeaderBytes, "a LiME header"));
        ByteCursor cursor(raw);
        const auto magic = TRY(cursor.read<std::uint32_t>());
        const auto version = TRY(cursor.read<std::uint32_t>());
        const auto first = TRY(cursor.read<std::uint64_t>());
        const auto last = TRY(cursor.read<std::uint64_t>());
        if (magic != kLimeMagic || version != 1 || last < first || last - first == ~0ull) {
            return fail(Code::malformed, fmt::format("no LiME header at offset {:#x}: magic {:#x}, "
                                                     "version {}, {:#x} to {:#x}",
                                                     at, magic, version, first, last));
        }
        if (slices.size() >= limits::kMaxImageRanges)
            return fail(Code::limit, "the image has too many ranges");
        const std::uint64_t size = last - first + 1;
        const std::uint64_t data = at + kLimeHeaderBytes;
        if (size > file_bytes - data) return truncated(GuestPhys{first}, data + size, file_bytes);
        slices.push_back({GuestPhys{first}, size, 0, data});
        at = data + size;
    }
    return slices;
}

struct ElfCore {
    std::vector<RamSlice> slices;
    std::vector<std::byte> notes;  // of the first PT_NOTE
};

// ELF core: every PT_LOAD is a range, its p_paddr the physical address (QEMU's dump/dump.c).
Result<ElfCore> parse_elf_core(const ImageFile& file) {
    const std::uint64_t file_bytes = file.size();
    const auto raw = TRY(file.copy(0, sizeof(Elf64_Ehdr), "the ELF header"));
    Elf64_Ehdr header;
    std::memcpy(&header, raw.data(), sizeof header);
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
        header.e_type != ET_CORE || header.e_phentsize != sizeof(Elf64_Phdr)) {
        return fail(Code::unsupported, "the file is ELF, but no 64-bit little-endian core dump");
    }
    std::uint64_t count = header.e_phnum;
    if (count == PN_XNUM) {  // more than fit: the first section header has the number
        const auto section =
            TRY(file.copy(header.e_shoff, sizeof(Elf64_Shdr), "the first section header"));
        Elf64_Shdr first;
        std::memcpy(&first, section.data(), sizeof first);
        count = first.sh_info;
    }
    if (count > limits::kMaxImageRanges)
        return fail(Code::limit, fmt::format("{} program headers", count));
    const auto table =
        TRY(file.copy(header.e_phoff, count * sizeof(Elf64_Phdr), "the program headers"));
    ElfCore core;
    for (std::uint64_t i = 0; i < count; ++i) {
        Elf64_Phdr program;
        std::memcpy(&program, table.data() + i * sizeof program, sizeof program);
        if (program.p_type == PT_NOTE && core.notes.empty()) {
            core.notes = file.notes(program.p_offset, program.p_filesz);
        }
        if (program.p_type != PT_LOAD || program.p_filesz == 0) continue;
        if (program.p_offset > file_bytes || program.p_filesz > file_bytes - program.p_offset) {
            return truncated(GuestPhys{program.p_paddr}, program.p_offset + program.p_filesz,
                             file_bytes);
        }
        core.slices.push_back({GuestPhys{program.p_paddr}, program.p_filesz, 0, program.p_offset});
    }
    return core;
}

}  // namespace

Result<std::unique_ptr<GuestMemory>> open_image(int fd, std::uint64_t file_bytes,
                                                std::string name) {
    if (file_bytes == 0) return fail(Code::malformed, name + ": the file is empty. Copy it again");
    const ImageFile file(fd, file_bytes);
    std::array<std::byte, 16> head{};
    const std::size_t there = std::min<std::uint64_t>(file_bytes, head.size());
    TRY(file.read(0, std::span(head).first(there), "the first bytes").context(name));
    const std::string_view text = as_text(Bytes(head).first(there));
    const auto magic = load_le<std::uint32_t>(head, 0).value_or(0);
    std::vector<RamSlice> slices;
    std::vector<std::byte> notes;
    std::string form = "raw memory";
    if (magic == kAvmlMagic) return open_avml(file, name).context(name);
    if (text.starts_with(kKdumpMagic)) return open_kdump(file, name).context(name);
    if (text.starts_with(kFlattenedMagic)) {
        return open_kdump(TRY(ImageFile::open_flattened(fd, file_bytes).context(name)), name)
            .context(name);
    }
    if (magic == kLimeMagic) {
        form = "LiME";
        slices = TRY(parse_lime(file).context(name));
    } else if (text.starts_with(ELFMAG)) {
        form = "ELF core";
        ElfCore core = TRY(parse_elf_core(file).context(name));
        slices = std::move(core.slices);
        notes = std::move(core.notes);
    } else {
        slices.push_back({GuestPhys{0}, file_bytes, 0, 0});
    }
    slices = TRY(validate_layout(std::move(slices)).context(name));
    return std::unique_ptr<GuestMemory>(
        std::make_unique<SlicedMemory>(std::vector{fd}, std::move(slices), /*live=*/false,
                                       fmt::format("{} ({})", name, form), std::move(notes)));
}

}  // namespace underseer::guest_memory
