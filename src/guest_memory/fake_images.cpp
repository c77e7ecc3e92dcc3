#include "guest_memory/fake_images.h"

#include <elf.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string_view>

#include "guest_memory/compression.h"

namespace underseer::guest_memory {

namespace {

template <typename T>
void put(FakeFile& out, T value) {
    const auto* raw = reinterpret_cast<const std::byte*>(&value);
    out.insert(out.end(), raw, raw + sizeof value);
}
void put_bytes(FakeFile& out, Bytes bytes) {
    out.insert(out.end(), bytes.begin(), bytes.end());
}

void put_header(FakeFile& out, std::uint32_t magic, std::uint32_t version, std::uint64_t begin,
                std::uint64_t size) {
    put(out, magic);
    put(out, version);
    put(out, begin);
    put(out, begin + size - 1);
    put<std::uint64_t>(out, 0);
}

void put_avml_range(FakeFile& out, std::uint64_t begin, Bytes bytes, const AvmlForm& form) {
    put_header(out, 0x4c4d5641, 2, begin, bytes.size());
    const std::size_t start = out.size();
    put_bytes(out, as_bytes(std::string_view("\xff\x06\0\0sNaPpY", 10)));
    put_bytes(out, as_bytes(std::string_view("\xfe\x03\0\0...", 7)));
    for (std::size_t at = 0, number = 0; at < bytes.size(); at += form.chunk_bytes, ++number) {
        const Bytes part = bytes.subspan(at, std::min(form.chunk_bytes, bytes.size() - at));
        const bool plain = form.plain_chunks && number % 2 == 0;
        const auto stored = plain ? std::vector(part.begin(), part.end()) : compress_snappy(part);
        put(out, static_cast<std::uint32_t>(((stored.size() + 4) << 8) | (plain ? 1 : 0)));
        put(out, masked_crc32c(part));
        put_bytes(out, stored);
    }
    put<std::uint64_t>(out, out.size() - start);
}

}  // namespace

FakeFile lime_image(const std::vector<FakeRange>& ranges) {
    FakeFile out;
    for (const FakeRange& range : ranges) {
        put_header(out, 0x4c694d45, 1, range.begin, range.bytes.size());
        put_bytes(out, range.bytes);
    }
    return out;
}

FakeFile elf_core_image(const std::vector<FakeRange>& ranges) {
    FakeFile out;
    Elf64_Ehdr header{};
    std::ranges::copy(std::string_view(ELFMAG), header.e_ident);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_CORE;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_phoff = header.e_ehsize = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = static_cast<Elf64_Half>(ranges.size());
    put(out, header);
    std::uint64_t offset = sizeof header + sizeof(Elf64_Phdr) * ranges.size();
    for (const FakeRange& range : ranges) {
        Elf64_Phdr program{};
        program.p_type = PT_LOAD;
        program.p_offset = offset;
        program.p_paddr = range.begin;
        program.p_filesz = program.p_memsz = range.bytes.size();
        put(out, program);
        offset += range.bytes.size();
    }
    for (const FakeRange& range : ranges) put_bytes(out, range.bytes);
    return out;
}

FakeFile raw_image(const std::vector<FakeRange>& ranges) {
    FakeFile out;
    for (const FakeRange& range : ranges) {
        out.resize(std::max<std::size_t>(out.size(), range.begin + range.bytes.size()));
        std::ranges::copy(range.bytes, out.begin() + static_cast<std::ptrdiff_t>(range.begin));
    }
    return out;
}

FakeFile avml_image(const std::vector<FakeRange>& ranges, const AvmlForm& form) {
    constexpr std::size_t kPart = 16u << 20;
    FakeFile out;
    for (const FakeRange& range : ranges) {
        for (std::size_t at = 0; at < range.bytes.size(); at += kPart) {
            const Bytes part =
                Bytes(range.bytes).subspan(at, std::min(kPart, range.bytes.size() - at));
            const bool zeros =
                std::ranges::all_of(part, [](std::byte b) { return b == std::byte{0}; });
            if (!zeros) put_avml_range(out, range.begin + at, part, form);
        }
    }
    return out;
}

FakeFile kdump_image(const std::vector<FakeRange>& ranges, const KdumpForm& form) {
    const std::uint64_t pages = (ranges.back().begin + ranges.back().bytes.size()) / kPageSize;
    const std::uint64_t bitmap_bytes = (pages / 8 + kPageSize) / kPageSize * kPageSize;
    const std::uint64_t bitmap_at = 2 * kPageSize;
    FakeFile out(bitmap_at + 2 * bitmap_bytes);
    const auto set = [&](std::size_t at, auto value) {
        std::memcpy(&out[at], &value, sizeof value);
    };
    std::ranges::copy(as_bytes("KDUMP   "), out.begin());
    std::ranges::copy(as_bytes("x86_64"), out.begin() + 272);
    const std::uint32_t flag = form.compression == KdumpCompression::none   ? 0
                               : form.compression == KdumpCompression::zlib ? 1
                               : form.compression == KdumpCompression::lzo  ? 2
                                                                            : 4;
    set(8, form.header_version);
    set(424, flag);
    set(428, static_cast<std::uint32_t>(kPageSize));
    set(432, std::uint32_t{1});
    set(436, static_cast<std::uint32_t>(2 * bitmap_bytes / kPageSize));
    set(440, static_cast<std::uint32_t>(pages));
    if (form.header_version >= 6) set(kPageSize + 96, pages);
    struct Page {
        Bytes bytes;
        bool zeros;
    };
    std::vector<Page> held;
    for (const FakeRange& range : ranges) {
        for (std::size_t at = 0; at < range.bytes.size(); at += kPageSize) {
            const std::uint64_t page = (range.begin + at) / kPageSize;
            const auto bit = std::byte(1u << (page % 8));
            out[bitmap_at + page / 8] |= bit;
            if (form.exclude_every != 0 && page % form.exclude_every == 0) continue;
            out[bitmap_at + bitmap_bytes + page / 8] |= bit;
            const Bytes bytes = Bytes(range.bytes).subspan(at, kPageSize);
            held.push_back(
                {bytes, std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; })});
        }
    }
    // As QEMU does it: one page of zeros stands for all, and what does not shrink stays as it is.
    FakeFile data(kPageSize);
    const std::uint64_t data_at = out.size() + 24 * held.size();
    for (const Page& page : held) {
        std::vector<std::byte> stored(page.bytes.begin(), page.bytes.end());
        std::uint32_t flags = 0;
        std::uint64_t offset = data_at;
        if (!page.zeros) {
            auto smaller = flag == 0   ? stored
                           : flag == 1 ? compress_zlib(page.bytes)
                           : flag == 2 ? compress_lzo(page.bytes)
                                       : compress_snappy(page.bytes);
            if (smaller.size() < kPageSize) {
                stored = std::move(smaller);
                flags = flag;
            }
            offset += data.size();
            put_bytes(data, stored);
        }
        put(out, offset);
        put(out, static_cast<std::uint32_t>(stored.size()));
        put(out, flags);
        put<std::uint64_t>(out, 0);
    }
    put_bytes(out, data);
    return form.flattened ? flattened(out) : out;
}

FakeFile flattened(Bytes file) {
    FakeFile out(kPageSize);
    std::ranges::copy(as_bytes("makedumpfile"), out.begin());
    out[16 + 7] = out[24 + 7] = std::byte{1};
    const auto piece = [&](std::uint64_t at, Bytes bytes) {
        put(out, __builtin_bswap64(at));
        put(out, __builtin_bswap64(bytes.size()));
        put_bytes(out, bytes);
    };
    // The end first, a wrong beginning, and the right one last.
    const std::size_t half = file.size() / 2;
    const std::vector<std::byte> wrong(std::min<std::size_t>(100, half), std::byte{0xee});
    piece(half, file.subspan(half));
    piece(0, wrong);
    for (std::size_t at = 0; at < half; at += 5000) {
        const Bytes part = file.subspan(at, std::min<std::size_t>(5000, half - at));
        const bool zeros = std::ranges::all_of(part, [](std::byte b) { return b == std::byte{0}; });
        if (!zeros || at == 0) piece(at, part);
    }
    put(out, ~0ull);
    put(out, ~0ull);
    return out;
}

std::vector<std::byte> fake_memory_bytes(std::size_t size, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<std::byte> bytes(size);
    for (std::size_t page = 0; page < size; page += kPageSize) {
        const auto part = std::span(bytes).subspan(page, std::min(kPageSize, size - page));
        const unsigned kind = page == 0 ? 1 : random() % 4;
        if (kind == 0) continue;
        const unsigned period = kind == 1 ? 64 + random() % 64 : kind == 2 ? 3000 : 1u << 30;
        for (std::size_t i = 0; i < part.size(); ++i) {
            part[i] = i >= period ? part[i - period] : std::byte(random() & 0xff);
        }
    }
    return bytes;
}

Fd fake_file(Bytes bytes) {
    Fd fd(::memfd_create("image", MFD_CLOEXEC));
    CHECK(write_all(fd.get(), bytes).has_value());
    return fd;
}

}  // namespace underseer::guest_memory
