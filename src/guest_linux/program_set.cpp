#include "guest_linux/program_set.h"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include "base/limits.h"
#include "crypto/hash.h"
#include "event/wire.h"
#include "guest_linux/elf_image.h"

namespace underseer::guest_linux {

namespace {

// A set is this, the length of what follows (64 bits), and the set itself.
constexpr std::string_view kSetMagic = "underseer programs 1\n";
constexpr std::size_t kMaxPathBytes = 4096, kMaxPackageBytes = 256, kMaxIdDigits = 128;

ReadFile reader_of(Bytes file) {
    return [file](std::uint64_t offset, MutableBytes into) -> Result<void> {
        if (offset > file.size() || into.size() > file.size() - offset) {
            return fail(Code::malformed, "it ends before what it says that it has");
        }
        std::ranges::copy(file.subspan(offset, into.size()), into.begin());
        return {};
    };
}

// What it is compared by must be what it says: in order, and whole.
bool is_sound(const KnownProgram& program) {
    if (program.path.empty() || program.path.size() > kMaxPathBytes || program.build_id.empty() ||
        program.build_id.size() > kMaxIdDigits) {
        return false;
    }
    constexpr std::uint64_t kMostPages = limits::kMaxProgramFileBytes / kPageSize;
    std::uint64_t next = 0;
    for (const KnownPages& one : program.pages) {
        if (one.hashes.empty() || one.hashes.size() % kKnownHashBytes != 0 || one.first < next ||
            one.first > kMostPages || one.count() > kMostPages) {
            return false;
        }
        next = one.first + one.count();
    }
    return true;
}

}  // namespace

std::string known_hash(Bytes page) {
    static constexpr std::array<std::byte, kPageSize> kZeros{};
    thread_local crypto::Sha256 hash;
    hash.update(page);
    hash.update(Bytes(kZeros).first(kPageSize - page.size()));
    const crypto::Digest digest = hash.finish();
    return std::string(as_text(digest).substr(0, kKnownHashBytes));
}

bool is_program(Bytes file) {
    const auto type = load_le<Elf64_Half>(file, offsetof(Elf64_Ehdr, e_type));
    if (type != ET_EXEC && type != ET_DYN) return false;
    const auto image = ElfImage::of(reader_of(file));
    return image.has_value() && !image->is_kernels();
}

Result<KnownProgram> read_program(Bytes elf) {
    if (!is_program(elf)) {
        return fail(Code::unsupported, "it is no program and no library of x86-64");
    }
    const ReadFile read = reader_of(elf);
    const auto image = TRY(ElfImage::of(read));
    KnownProgram program;
    program.build_id = TRY(image.build_id(read));
    if (program.build_id.empty()) return fail(Code::not_found, "it has no build id");
    for (const ElfImage::FilePages& part : image.loaded_pages()) {
        const std::uint64_t in_file = (elf.size() + kPageSize - 1) / kPageSize;
        if (part.first > in_file || part.pages > in_file - part.first) {
            return fail(Code::malformed, "a part that is to be loaded is not in the file");
        }
        KnownPages pages{.first = part.first, .hashes = {}};
        for (std::uint64_t i = 0; i < part.pages; ++i) {
            const std::uint64_t at = (part.first + i) * kPageSize;
            pages.hashes +=
                known_hash(elf.subspan(at, std::min<std::uint64_t>(kPageSize, elf.size() - at)));
        }
        program.pages.push_back(std::move(pages));
    }
    if (program.pages.empty()) return fail(Code::unsupported, "nothing of it is loaded");
    return program;
}

std::string pack(const ProgramSet& set) {
    const std::string body = event::encode(set);
    const std::uint64_t bytes = body.size();
    std::string packed(kSetMagic);
    packed.append(reinterpret_cast<const char*>(&bytes), sizeof bytes);
    return packed + body;
}

bool is_packed_programs(Bytes file) {
    return as_text(file).starts_with(kSetMagic);
}

std::string_view program_set_form() {
    return kSetMagic;
}

Result<std::vector<ProgramSet>> unpack_programs(Bytes packed) {
    if (packed.size() > limits::kMaxProgramSetBytes) {
        return fail(Code::limit, fmt::format("the hashes of programs have more than {} MiB",
                                             limits::kMaxProgramSetBytes >> 20));
    }
    std::vector<ProgramSet> sets;
    ByteCursor cursor(packed);
    while (!cursor.at_end()) {
        if (!is_packed_programs(packed.subspan(cursor.position()))) {
            return fail(Code::malformed,
                        "it is no baseline of programs, or one of another version of Underseer");
        }
        TRY(cursor.skip(kSetMagic.size()));
        const auto bytes = TRY(cursor.read<std::uint64_t>());
        auto set = TRY(event::decode<ProgramSet>(TRY(cursor.read_bytes(bytes)))
                           .context("reading a baseline of programs"));
        if (sets.size() >= limits::kMaxProgramSets ||
            set.programs.size() > limits::kMaxProgramsOfSet) {
            return fail(Code::limit, "a baseline of programs has more than a host has packages");
        }
        if (set.package.empty() || set.package.size() > kMaxPackageBytes ||
            !std::ranges::all_of(set.programs, is_sound)) {
            return fail(Code::malformed, "a baseline of programs contradicts itself");
        }
        sets.push_back(std::move(set));
    }
    return sets;
}

}  // namespace underseer::guest_linux
