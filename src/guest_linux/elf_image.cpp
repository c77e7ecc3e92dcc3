#include "guest_linux/elf_image.h"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/limits.h"
#include "guest_linux/build_id.h"

namespace underseer::guest_linux {

namespace {

// No file is as long, and the kernel's half of addresses begins above it.
constexpr std::uint64_t kNowhere = ~std::uint64_t{0} >> 1;

template <typename T>
Result<T> read_record(const ReadFile& read, std::uint64_t offset) {
    T record{};
    TRY(read(offset, std::as_writable_bytes(std::span(&record, 1))));
    return record;
}

}  // namespace

Result<ElfImage> ElfImage::of(const ReadFile& read) {
    const auto header = TRY(read_record<Elf64_Ehdr>(read, 0));
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
        return fail(Code::malformed, "it is no ELF file");
    }
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64 ||
        header.e_phentsize != sizeof(Elf64_Phdr)) {
        return fail(Code::unsupported, "it is no program of x86-64 with 64 bits");
    }
    if (header.e_phnum > limits::kMaxElfSegments) {
        return fail(Code::limit, fmt::format("it has {} program headers", header.e_phnum));
    }
    ElfImage image;
    std::vector<Elf64_Phdr> segments(header.e_phnum);
    TRY(read(header.e_phoff, std::as_writable_bytes(std::span(segments))));
    for (const Elf64_Phdr& segment : segments) {
        if (segment.p_type == PT_LOAD) {
            image.segments_.push_back({segment.p_offset, segment.p_vaddr, segment.p_filesz,
                                       (segment.p_flags & PF_X) != 0});
        } else if (segment.p_type == PT_GNU_EH_FRAME) {
            image.eh_frame_header_ = {segment.p_vaddr, segment.p_filesz};
        } else if (segment.p_type == PT_DYNAMIC) {
            image.dynamic_ = {segment.p_vaddr, segment.p_filesz};
        } else if (segment.p_type == PT_NOTE && image.notes_.size() < limits::kMaxElfNoteSegments) {
            image.notes_.emplace_back(segment.p_offset, segment.p_filesz);
        }
    }
    if (header.e_shentsize == sizeof(Elf64_Shdr) && header.e_shoff != 0) {
        image.sections_at_ = header.e_shoff;
        image.section_count_ = header.e_shnum;
        image.section_names_ = header.e_shstrndx;
    }
    return image;
}

// Segments are mapped by whole pages: the last page of one may be the first of the next.
std::optional<std::uint64_t> ElfImage::code_at(std::uint64_t offset) const {
    for (const Segment& segment : segments_) {
        const std::uint64_t begin = segment.offset & kPageMask;
        if (segment.executable && offset >= begin &&
            offset - begin < segment.size_bytes + (segment.offset - begin)) {
            return segment.address + (offset - segment.offset);
        }
    }
    return std::nullopt;
}

bool ElfImage::is_code(std::uint64_t address) const {
    return std::ranges::any_of(segments_, [&](const Segment& segment) {
        return segment.executable && address >= segment.address &&
               address - segment.address < segment.size_bytes;
    });
}

bool ElfImage::is_kernels() const {
    return std::ranges::any_of(segments_,
                               [](const Segment& one) { return one.address > kNowhere; });
}

std::vector<ElfImage::FilePages> ElfImage::loaded_pages() const {
    std::vector<FilePages> all;
    for (const Segment& segment : segments_) {
        if (segment.size_bytes == 0 || segment.offset > kNowhere - segment.size_bytes) continue;
        const std::uint64_t first = segment.offset / kPageSize,
                            last = (segment.offset + segment.size_bytes - 1) / kPageSize;
        all.push_back({first, last - first + 1});
    }
    std::ranges::sort(all, {}, &FilePages::first);
    std::vector<FilePages> joined;
    for (const FilePages& one : all) {
        if (joined.empty() || one.first > joined.back().first + joined.back().pages) {
            joined.push_back(one);
        } else {
            FilePages& last = joined.back();
            last.pages = std::max(last.pages, one.first + one.pages - last.first);
        }
    }
    return joined;
}

Result<std::string> ElfImage::build_id(const ReadFile& read) const {
    for (const auto& [offset, size_bytes] : notes_) {
        std::string notes(std::min<std::uint64_t>(size_bytes, limits::kMaxElfNoteBytes), '\0');
        TRY(read(offset, std::as_writable_bytes(std::span(notes))));
        // One that is damaged says nothing, and another may.
        if (auto id = build_id_in(as_bytes(notes)); id.has_value() && !id->empty()) return id;
    }
    return std::string();
}

std::optional<std::uint64_t> ElfImage::offset_of(std::uint64_t address) const {
    for (const Segment& segment : segments_) {
        if (address >= segment.address && address - segment.address < segment.size_bytes) {
            return segment.offset + (address - segment.address);
        }
    }
    return std::nullopt;
}

Result<void> ElfImage::read(const ReadFile& read, std::uint64_t address, MutableBytes into) const {
    const auto offset = offset_of(address);
    if (!offset) {
        return fail(Code::malformed, fmt::format("{:#x} is in no segment of the file", address));
    }
    return read(*offset, into);
}

Result<std::vector<ElfImage::Section>> ElfImage::sections(const ReadFile& read) const {
    if (section_count_ > limits::kMaxElfSections) {
        return fail(Code::limit, fmt::format("it has {} sections", section_count_));
    }
    std::vector<Elf64_Shdr> headers(section_count_);
    TRY(read(sections_at_, std::as_writable_bytes(std::span(headers))));
    std::vector<Section> sections(headers.size());
    for (std::size_t i = 0; i < headers.size(); ++i) {
        sections[i] = {.name = {},
                       .type = headers[i].sh_type,
                       .address = headers[i].sh_addr,
                       .offset = headers[i].sh_offset,
                       .size_bytes = headers[i].sh_size,
                       .link = headers[i].sh_link};
        // Those that are looked for have short names, or are known by how they begin.
        std::array<char, 32> name{};
        if (section_names_ >= headers.size()) continue;
        const Elf64_Shdr& names = headers[section_names_];
        if (headers[i].sh_name >= names.sh_size) continue;
        const std::size_t bytes =
            std::min<std::uint64_t>(name.size() - 1, names.sh_size - headers[i].sh_name);
        if (read(names.sh_offset + headers[i].sh_name,
                 std::as_writable_bytes(std::span(name)).first(bytes))
                .has_value()) {
            sections[i].name = name.data();
        }
    }
    return sections;
}

Result<CallFrameInfo> ElfImage::call_frame_info(const ReadFile& read_file,
                                                std::uint64_t& budget_bytes) const {
    const ReadImage read_image = [&](std::uint64_t address, MutableBytes into) {
        return read(read_file, address, into);
    };
    if (eh_frame_header_) {
        auto found = CallFrameInfo::with_table(read_image, eh_frame_header_->address);
        if (found.has_value() || found.error().code != Code::unsupported) return found;
    }
    // Static programs have no table (gcc links them without --eh-frame-hdr).
    const std::vector<Section> all = TRY(sections(read_file));
    const auto section = std::ranges::find(all, ".eh_frame", &Section::name);
    if (section == all.end() || section->size_bytes == 0) {
        return fail(Code::not_found, "the file has no unwind information");
    }
    if (section->size_bytes > budget_bytes) {
        return fail(Code::limit, fmt::format("{} bytes of unwind information without a table",
                                             section->size_bytes));
    }
    budget_bytes -= section->size_bytes;
    return CallFrameInfo::without_table(read_image, section->address, section->size_bytes);
}

}  // namespace underseer::guest_linux
