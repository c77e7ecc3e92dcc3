#include "guest_linux/built_kernel.h"

#include <elf.h>
#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/limits.h"
#include "event/wire.h"
#include "guest_linux/build_id.h"
#include "guest_linux/elf_image.h"
#include "guest_linux/kallsyms.h"

namespace underseer::guest_linux {

namespace {

using Kind = StartPatch::Kind;

// Of the boot protocol's header (Documentation/arch/x86/boot.rst).
constexpr std::size_t kSetupSectors = 0x1f1, kHeaderMagic = 0x202, kProtocol = 0x206,
                      kPayload = 0x248;
constexpr std::uint32_t kHdrS = 0x53726448;
constexpr std::uint16_t kFirstWithPayload = 0x208;
constexpr std::size_t kSectorBytes = 512, kUsualSetupSectors = 4;
constexpr std::uint16_t kGzip = 0x8b1f;
constexpr std::uint8_t kCall = 0xe8, kJump = 0xe9;

constexpr std::string_view kFileMagic = "underseer kernel baseline 2\n";
constexpr int kPackLevel = 9, kQuickPackLevel = 1;
constexpr std::string_view kBannerBegin = "Linux version ";

class Vmlinux {
  public:
    explicit Vmlinux(Bytes file) : file_(file) {}

    Result<void> open() {
        const ReadFile read = [this](std::uint64_t offset, MutableBytes into) -> Result<void> {
            if (offset > file_.size() || into.size() > file_.size() - offset) {
                return fail(Code::malformed, "the file is shorter than it says");
            }
            std::ranges::copy(file_.subspan(offset, into.size()), into.begin());
            return {};
        };
        sections_ = TRY(TRY(ElfImage::of(read)).sections(read));
        return {};
    }

    struct Part {
        std::uint64_t address = 0;
        Bytes bytes;
    };
    // Empty when there is none of that name.
    Result<Part> section(std::string_view name) const {
        const auto found = std::ranges::find(sections_, name, &ElfImage::Section::name);
        if (found == sections_.end()) return Part{};
        return part_of(*found);
    }
    Result<Part> part_of(const ElfImage::Section& section) const {
        if (section.offset > file_.size() || section.size_bytes > file_.size() - section.offset) {
            return fail(Code::malformed,
                        fmt::format("section {} lies outside of the file", section.name));
        }
        return Part{section.address, file_.subspan(section.offset, section.size_bytes)};
    }
    const std::vector<ElfImage::Section>& sections() const { return sections_; }

  private:
    Bytes file_;
    std::vector<ElfImage::Section> sections_;
};

// Collects the places that lie in the code.
class PatchList {
  public:
    PatchList(std::uint64_t begin, std::size_t size_bytes) : begin_(begin), size_(size_bytes) {}

    // Those of other parts (.init.text) are not kept.
    Result<void> add(Kind kind, std::uint64_t address, std::size_t size_bytes,
                     std::uint32_t other = 0, std::uint8_t other_bytes = 0) {
        if (address < begin_ || address - begin_ >= size_) return {};
        if (size_bytes > size_ - (address - begin_)) {
            return fail(Code::malformed,
                        fmt::format("a place at {:#x} leads out of the code", address));
        }
        if (list_.size() >= limits::kMaxStartPatches) {
            return fail(Code::limit, "the kernel alters itself at too many places");
        }
        list_.push_back({.kind = kind,
                         .at = static_cast<std::uint32_t>(address - begin_),
                         .size_bytes = static_cast<std::uint8_t>(size_bytes),
                         .other = other,
                         .other_bytes = other_bytes});
        return {};
    }

    std::vector<StartPatch> take() {
        std::ranges::stable_sort(list_, {}, &StartPatch::at);
        return std::move(list_);
    }

  private:
    std::uint64_t begin_;
    std::size_t size_;
    std::vector<StartPatch> list_;
};

// Where the distance at offset `i` leads, which is one from where it stands.
std::uint64_t from_distance(const Vmlinux::Part& list, std::size_t i) {
    const std::int64_t distance = *load_le<std::int32_t>(list.bytes, i);
    return list.address + i + static_cast<std::uint64_t>(distance);
}

// A list of places, each as a distance from where it stands.
Result<void> add_distances(const Vmlinux::Part& list, Kind kind, std::size_t size_bytes,
                           PatchList& patches, std::uint32_t other = 0) {
    for (std::size_t i = 0; i + 4 <= list.bytes.size(); i += 4) {
        TRY(patches.add(kind, from_distance(list, i), size_bytes, other));
    }
    return {};
}

// Calls and jumps of thunks: of five bytes, or six with a prefix or a condition.
Result<void> add_indirect_calls(const Vmlinux::Part& list, const Vmlinux::Part& text,
                                PatchList& patches) {
    for (std::size_t i = 0; i + 4 <= list.bytes.size(); i += 4) {
        const std::uint64_t at = from_distance(list, i), offset = at - text.address;
        if (offset >= text.bytes.size()) continue;
        const std::uint8_t first = byte_at(text.bytes, offset);
        TRY(patches.add(Kind::indirect_call, at, first == kCall || first == kJump ? 5 : 6));
    }
    return {};
}

// struct alt_instr: two distances, which feature (2 bytes, 4 since 6.3 with flags), two lengths,
// and until 5.12 a third one (arch/x86/include/asm/alternative.h).
struct AlternativeForm {
    std::size_t entry_bytes, length_at;
};
constexpr AlternativeForm kAlternativeForms[] = {{12, 10}, {13, 10}, {14, 12}};

struct Alternative {
    std::uint64_t place, other;
    std::uint8_t size_bytes, other_bytes;
};

Alternative alternative_at(const Vmlinux::Part& list, std::size_t at, const AlternativeForm& form) {
    return {from_distance(list, at), from_distance(list, at + 4),
            byte_at(list.bytes, at + form.length_at), byte_at(list.bytes, at + form.length_at + 1)};
}

// The kernel's version does not say which form it is (they were ported back): the one by which all
// entries make sense.
Result<void> add_alternatives(const Vmlinux::Part& list, const Vmlinux::Part& others,
                              const std::vector<Vmlinux::Part>& parts, PatchList& patches) {
    const auto lies_in = [](const Vmlinux::Part& part, std::uint64_t at, std::size_t bytes) {
        return at >= part.address && at - part.address <= part.bytes.size() &&
               bytes <= part.bytes.size() - (at - part.address);
    };
    for (const AlternativeForm& form : kAlternativeForms) {
        if (list.bytes.size() % form.entry_bytes != 0) continue;
        bool fits = true;
        for (std::size_t at = 0; at < list.bytes.size() && fits; at += form.entry_bytes) {
            const Alternative one = alternative_at(list, at, form);
            fits = one.other_bytes <= one.size_bytes &&
                   (one.other_bytes == 0 || lies_in(others, one.other, one.other_bytes)) &&
                   std::ranges::any_of(parts, [&](const auto& part) {
                       return lies_in(part, one.place, one.size_bytes);
                   });
        }
        if (!fits) continue;
        for (std::size_t at = 0; at < list.bytes.size(); at += form.entry_bytes) {
            const Alternative one = alternative_at(list, at, form);
            TRY(patches.add(
                Kind::alternative, one.place, one.size_bytes,
                one.other_bytes == 0 ? 0 : static_cast<std::uint32_t>(one.other - others.address),
                one.other_bytes));
        }
        return {};
    }
    return fail(Code::unsupported, "its list of alternative instructions has an unknown form");
}

// struct paravirt_patch_site: an address, the kind of call, and how long it is; 16 bytes
// (arch/x86/include/asm/paravirt_types.h of 6.1).
Result<void> add_paravirt(const Vmlinux::Part& list, PatchList& patches) {
    for (std::size_t at = 0; at + 10 <= list.bytes.size(); at += 16) {
        TRY(patches.add(Kind::paravirt, *load_le<std::uint64_t>(list.bytes, at),
                        byte_at(list.bytes, at + 9)));
    }
    return {};
}

// From .rodata on up to what is written to (RO_DATA, include/asm-generic/vmlinux.lds.h). What the
// kernel still writes while it starts (__ro_after_init) lies among it; where, only its own symbols
// say: without those there are no constants.
Result<std::vector<BuiltConstants>> read_constants(const Vmlinux& vmlinux) {
    std::vector<BuiltConstants> all;
    const auto begin = TRY(vmlinux.section(".rodata")), end = TRY(vmlinux.section(".data"));
    const auto symbols = Symbols::find(begin.bytes, GuestVirt{begin.address});
    if (!symbols.has_value()) return all;
    const auto early = symbols->address("__start_ro_after_init"),
               late = symbols->address("__end_ro_after_init");
    if (!early || !late) return all;
    std::size_t left = limits::kMaxKernelTextBytes;
    const auto add = [&](std::uint64_t at, Bytes bytes) -> Result<void> {
        if (bytes.size() > left) {
            return fail(Code::limit, "the kernel has more constants than are looked at");
        }
        left -= bytes.size();
        if (!bytes.empty()) all.push_back({at, std::string(as_text(bytes))});
        return {};
    };
    for (const ElfImage::Section& section : vmlinux.sections()) {
        const bool is_between = section.address >= begin.address && section.address < end.address;
        if (section.type != SHT_PROGBITS || !is_between) continue;
        const auto [at, bytes] = TRY(vmlinux.part_of(section));
        const auto offset_of = [&, at = at, size = bytes.size()](GuestVirt place) {
            return std::clamp<std::uint64_t>(place.value, at, at + size) - at;
        };
        const std::size_t first = offset_of(*early), last = std::max(first, offset_of(*late));
        TRY(add(at, bytes.first(first)));
        TRY(add(at + last, bytes.subspan(last)));
    }
    return all;
}

std::string release_in(Bytes constants) {
    const std::string_view text = as_text(constants);
    const std::size_t at = text.find(kBannerBegin);
    if (at == std::string_view::npos) return {};
    const std::string_view rest = text.substr(at + kBannerBegin.size(), 128);
    return std::string(rest.substr(0, rest.find(' ')));
}

}  // namespace

Result<Bytes> packed_kernel(Bytes vmlinuz) {
    if (load_le<std::uint32_t>(vmlinuz, kHeaderMagic) != kHdrS) {
        return fail(Code::malformed, "it is no kernel that boots on x86");
    }
    if (load_le<std::uint16_t>(vmlinuz, kProtocol).value_or(0) < kFirstWithPayload) {
        return fail(Code::unsupported,
                    "the kernel is older than 2.6.26: it does not say where it is");
    }
    const std::size_t told = byte_at(vmlinuz, kSetupSectors),
                      sectors = (told == 0 ? kUsualSetupSectors : told) + 1;
    const auto offset = load_le<std::uint32_t>(vmlinuz, kPayload),
               size = load_le<std::uint32_t>(vmlinuz, kPayload + 4);
    if (!offset || !size) return fail(Code::malformed, "the kernel's header is cut off");
    const std::size_t at = sectors * kSectorBytes + *offset;
    if (at > vmlinuz.size() || *size > vmlinuz.size() - at || *size < 4) {
        return fail(Code::malformed, "the kernel's file is cut off");
    }
    // Behind what is compressed stands its length, but with gzip, which has it itself
    // (scripts/Makefile.lib, size_append).
    const Bytes packed = vmlinuz.subspan(at, *size);
    const bool has_length = load_le<std::uint16_t>(packed, 0) != kGzip;
    return has_length ? packed.first(packed.size() - 4) : packed;
}

Result<BuiltKernel> read_built_kernel(Bytes file) {
    Vmlinux vmlinux(file);
    TRY(vmlinux.open().context("reading a kernel's ELF file"));
    BuiltKernel kernel;
    const auto text = TRY(vmlinux.section(".text"));
    if (text.bytes.empty()) return fail(Code::malformed, "the file has no code: is it a kernel?");
    if (text.bytes.size() > limits::kMaxKernelTextBytes) {
        return fail(Code::limit, "the kernel has more code than is looked at");
    }
    kernel.begin = text.address;
    kernel.text = as_text(text.bytes);
    kernel.release = release_in(TRY(vmlinux.section(".rodata")).bytes);
    kernel.build_id = TRY(
        build_id_in(TRY(vmlinux.section(".notes")).bytes).context("reading the kernel's notes"));
    if (kernel.build_id.empty() || kernel.release.empty()) {
        return fail(Code::malformed,
                    "it does not say which kernel it is: no build id, or no banner");
    }
    const auto others = TRY(vmlinux.section(".altinstr_replacement"));
    kernel.replacements_begin = others.address;
    kernel.replacements = as_text(others.bytes);

    kernel.constants = TRY(read_constants(vmlinux));

    PatchList patches(text.address, text.bytes.size());
    std::vector<Vmlinux::Part> parts;  // 7.x has a place in its data
    for (const ElfImage::Section& section : vmlinux.sections()) {
        if (section.address != 0 && section.type == SHT_PROGBITS) {
            parts.push_back(TRY(vmlinux.part_of(section)));
        }
    }
    if (const auto list = TRY(vmlinux.section(".altinstructions")); !list.bytes.empty()) {
        TRY(add_alternatives(list, others, parts, patches));
    }
    TRY(add_paravirt(TRY(vmlinux.section(".parainstructions")), patches));
    TRY(add_indirect_calls(TRY(vmlinux.section(".retpoline_sites")), text, patches));
    TRY(add_distances(TRY(vmlinux.section(".return_sites")), Kind::return_jump, 5, patches));
    TRY(add_distances(TRY(vmlinux.section(".ibt_endbr_seal")), Kind::landing, 4, patches));
    std::uint32_t constants = 0;
    for (const ElfImage::Section& section : vmlinux.sections()) {
        const bool is_pointer = section.name.starts_with("runtime_ptr_");
        if (!is_pointer && !section.name.starts_with("runtime_shift_")) continue;
        TRY(add_distances(TRY(vmlinux.part_of(section)), Kind::constant, is_pointer ? 8 : 1,
                          patches, constants++));
    }
    kernel.patches = patches.take();
    return kernel;
}

namespace {

// What is large is compressed by itself, so that it need not be in memory twice: after everything
// else, each piece behind its length of 32 bits.
template <typename Visit>
Result<void> each_piece(BuiltKernel& kernel, Visit&& visit) {
    TRY(visit(kernel.text));
    for (BuiltConstants& constants : kernel.constants) TRY(visit(constants.bytes));
    return {};
}

void put_piece(std::string_view plain, int level, std::string& packed) {
    constexpr std::size_t kLengthBytes = sizeof(std::uint32_t);
    const std::size_t head = packed.size(), most = ZSTD_compressBound(plain.size());
    packed.resize(head + kLengthBytes + most);
    const std::size_t size =
        ZSTD_compress(packed.data() + head + kLengthBytes, most, plain.data(), plain.size(), level);
    CHECK(ZSTD_isError(size) == 0);
    const auto length = static_cast<std::uint32_t>(size);
    std::memcpy(packed.data() + head, &length, sizeof length);
    packed.resize(head + kLengthBytes + size);
}

class PackedPieces {
  public:
    explicit PackedPieces(Bytes rest) : rest_(rest) {}

    Result<std::string> next() {
        const auto length = load_le<std::uint32_t>(rest_, 0);
        if (!length || *length > rest_.size() - sizeof *length) return damaged();
        const Bytes frame = rest_.subspan(sizeof *length, *length);
        rest_ = rest_.subspan(sizeof *length + *length);
        const auto size = ZSTD_getFrameContentSize(frame.data(), frame.size());
        if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN) return damaged();
        if (size > left_) {
            return fail(Code::limit,
                        fmt::format("the baseline has {} bytes more than it may", size - left_));
        }
        left_ -= size;
        std::string plain(size, '\0');
        if (ZSTD_decompress(plain.data(), plain.size(), frame.data(), frame.size()) != size) {
            return damaged();
        }
        return plain;
    }

  private:
    static Unexpected damaged() { return fail(Code::malformed, "the baseline is damaged"); }

    Bytes rest_;
    std::uint64_t left_ = 2 * limits::kMaxKernelTextBytes;
};

}  // namespace

std::string pack(BuiltKernel kernel, bool quickly) {
    const int level = quickly ? kQuickPackLevel : kPackLevel;
    std::string pieces;
    CHECK(each_piece(kernel, [&](std::string& bytes) -> Result<void> {
              put_piece(std::exchange(bytes, {}), level, pieces);
              return {};
          }).has_value());
    std::string packed(kFileMagic);
    put_piece(event::encode(kernel), level, packed);
    return packed + pieces;
}

bool is_packed_baseline(Bytes file) {
    return as_text(file).starts_with(kFileMagic);
}

std::string_view baseline_form() {
    return kFileMagic;
}

Result<BuiltKernel> unpack_built_kernel(Bytes packed) {
    if (!is_packed_baseline(packed)) {
        return fail(Code::malformed, "it is no baseline, or one of another version of Underseer");
    }
    PackedPieces pieces(packed.subspan(kFileMagic.size()));
    const std::string head = TRY(pieces.next());
    auto kernel = TRY(event::decode<BuiltKernel>(as_bytes(head)).context("reading a baseline"));
    TRY(each_piece(kernel, [&](std::string& bytes) -> Result<void> {
        bytes = TRY(pieces.next());
        return {};
    }));
    const auto fits = [&](const StartPatch& one) {
        return one.at <= kernel.text.size() && one.size_bytes <= kernel.text.size() - one.at &&
               (one.kind != Kind::alternative ||
                (one.other <= kernel.replacements.size() &&
                 one.other_bytes <= kernel.replacements.size() - one.other));
    };
    if (kernel.text.size() > limits::kMaxKernelTextBytes ||
        kernel.patches.size() > limits::kMaxStartPatches ||
        !std::ranges::all_of(kernel.patches, fits) ||
        !std::ranges::is_sorted(kernel.patches, {}, &StartPatch::at)) {
        return fail(Code::malformed, "the baseline contradicts itself");
    }
    return kernel;
}

}  // namespace underseer::guest_linux
