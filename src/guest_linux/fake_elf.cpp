#include "guest_linux/fake_elf.h"

#include <elf.h>

#include <algorithm>
#include <cstring>

namespace underseer::guest_linux {

namespace {

std::uint32_t low(std::uint64_t value) {
    return static_cast<std::uint32_t>(value);
}

template <typename T>
void write_at(std::string& file, std::uint64_t at, const T& value) {
    if (file.size() < at + sizeof value) file.resize(at + sizeof value);
    std::memcpy(file.data() + at, &value, sizeof value);
}

std::uint64_t append(std::string& file, const std::string& bytes) {
    file.resize((file.size() + 15) / 16 * 16);
    const std::uint64_t at = file.size();
    file += bytes;
    return at;
}

struct FakeSymbols {
    std::string entries, names;
};

FakeSymbols make_symbols(const std::vector<FakeElf::Function>& functions, std::uint64_t base) {
    FakeSymbols made{.entries = std::string(sizeof(Elf64_Sym), '\0'),
                     .names = std::string(1, '\0')};
    for (const FakeElf::Function& one : functions) {
        Elf64_Sym symbol{};
        symbol.st_name = low(made.names.size());
        symbol.st_info = static_cast<unsigned char>(
            ELF64_ST_INFO((one.local ? STB_LOCAL : STB_GLOBAL), one.type));
        symbol.st_shndx = 1;
        symbol.st_value = base + one.offset;
        symbol.st_size = one.size_bytes;
        FakeCfi::put(made.entries, symbol);
        made.names += one.name + '\0';
    }
    return made;
}

// All in one bucket, in the order of the table.
std::string make_hash(std::size_t symbols, bool gnu) {
    std::string hash;
    const auto word = [&](std::size_t value) { FakeCfi::put(hash, low(value)); };
    if (!gnu) {
        word(1), word(symbols), word(symbols > 1 ? 1 : 0);
        for (std::size_t i = 0; i < symbols; ++i) word(i + 1 < symbols ? i + 1 : 0);
        return hash;
    }
    word(1), word(1), word(1), word(0);
    word(~0u), word(~0u);  // the filter lets all through
    word(symbols > 1 ? 1 : 0);
    for (std::size_t i = 1; i < symbols; ++i) word(2 * i + (i + 1 == symbols ? 1 : 0));
    return hash;
}

}  // namespace

std::uint64_t FakeCfi::add(std::string entry) {
    while (entry.size() % 8 != 4) entry += '\0';  // DW_CFA_nop
    const std::uint64_t at = at_ + bytes_.size();
    put(bytes_, low(entry.size()));
    bytes_ += entry;
    return at;
}

std::uint64_t FakeCfi::add_common(std::string_view program, std::string_view augmentation,
                                  std::uint8_t version) {
    std::string entry;
    put(entry, std::uint32_t{0});
    put(entry, version);
    entry += std::string(augmentation) + '\0';
    entry += "\x01\x78\x10";  // steps of 1 and -8, register 16
    if (!augmentation.empty()) {
        std::string data;
        for (const char letter : augmentation.substr(1)) {
            if (letter == 'R') data += '\x1b';                          // pcrel, sdata4
            if (letter == 'P') data += std::string("\x9b\0\0\0\0", 5);  // of a pointer to it
            if (letter == 'L') data += '\x1b';
        }
        entry += static_cast<char>(data.size());
        entry += data;
    }
    return add(entry + std::string(program));
}

std::uint64_t FakeCfi::add_function(std::uint64_t common, std::uint64_t begin,
                                    std::uint32_t size_bytes, std::string_view program) {
    const std::uint64_t at = at_ + bytes_.size();
    std::string entry;
    put(entry, low(at + 4 - common));
    put(entry, low(begin - (at + 8)));
    put(entry, size_bytes);
    entry += '\0';  // no data of its own
    functions_.push_back({begin, at});
    return add(entry + std::string(program));
}

std::string FakeCfi::table(std::uint64_t at) const {
    std::vector<Function> sorted = functions_;
    std::ranges::sort(sorted, {}, &Function::begin);
    std::string bytes("\x01\x1b\x03\x3b", 4);
    put(bytes, low(at_ - (at + 4)));
    put(bytes, low(sorted.size()));
    for (const Function& one : sorted)
        put(bytes, low(one.begin - at)), put(bytes, low(one.entry - at));
    return bytes;
}

std::string FakeElf::build() {
    constexpr std::uint64_t kCode = 0x1000, kData = 0x3000;
    std::string file(kData, '\x90');
    FakeCfi cfi(base + kData);
    const std::uint64_t common = cfi.add_common();
    // Each as gcc makes it: push %rbp; mov %rsp,%rbp.
    for (std::uint64_t at = kCode; at < kCode + 0x400; at += 0x100) {
        cfi.add_function(common, base + at, 0x80,
                         std::string("\x41\x0e\x10\x86\x02\x43\x0d\x06", 8));
    }
    frames_at = append(file, cfi.bytes());
    const std::string search = cfi.table(base + (file.size() + 15) / 16 * 16);
    const std::uint64_t search_at = append(file, search);

    const FakeSymbols dynamic = make_symbols(dynamic_symbols, base);
    const std::uint64_t names_at = append(file, dynamic.names),
                        entries_at = append(file, dynamic.entries),
                        hash_at = append(file, make_hash(dynamic_symbols.size() + 1, gnu_hash));
    std::string entries;
    const auto entry = [&](std::int64_t tag, std::uint64_t value) {
        FakeCfi::put(entries, tag), FakeCfi::put(entries, value);
    };
    const auto address = [&](std::uint64_t at) { return base + at + relocated_by; };
    entry(DT_STRTAB, address(names_at));
    entry(DT_STRSZ, dynamic.names.size());
    entry(DT_SYMTAB, address(entries_at));
    entry(gnu_hash ? std::int64_t{DT_GNU_HASH} : std::int64_t{DT_HASH}, address(hash_at));
    entry(DT_NULL, 0);
    const std::uint64_t dynamic_at = append(file, entries);
    std::string note;
    for (const std::uint32_t word :
         {4u, static_cast<std::uint32_t>(build_id.size()), std::uint32_t{NT_GNU_BUILD_ID}}) {
        FakeCfi::put(note, word);
    }
    note += std::string("GNU\0", 4) + build_id;
    const std::uint64_t note_at = append(file, build_id.empty() ? std::string() : note);
    const std::uint64_t loaded_end = file.size();

    // What no program needs to run begins a page of its own.
    file.resize((file.size() + kPageSize - 1) / kPageSize * kPageSize);
    const FakeSymbols all = make_symbols(symbols, base);
    symbols_at = append(file, all.entries);
    const std::uint64_t all_names_at = append(file, all.names);
    const std::string section_names("\0.eh_frame\0.symtab\0.strtab\0", 27);
    const std::uint64_t section_names_at = append(file, section_names);
    std::vector<Elf64_Shdr> sections(5);
    const auto section = [&](std::size_t which, std::uint32_t name, std::uint32_t type,
                             std::uint64_t at, std::uint64_t size, std::uint32_t link) {
        sections[which].sh_name = name, sections[which].sh_type = type;
        sections[which].sh_addr = base + at, sections[which].sh_offset = at;
        sections[which].sh_size = size, sections[which].sh_link = link;
    };
    section(1, 1, SHT_PROGBITS, frames_at, cfi.bytes().size(), 0);
    section(2, 11, symbols.empty() ? SHT_NULL : SHT_SYMTAB, symbols_at, all.entries.size(), 3);
    section(3, 19, SHT_STRTAB, all_names_at, all.names.size(), 0);
    section(4, 0, SHT_STRTAB, section_names_at, section_names.size(), 0);
    file.resize((file.size() + 7) / 8 * 8);
    sections_at = file.size();
    for (const Elf64_Shdr& one : sections) FakeCfi::put(file, one);

    std::vector<Elf64_Phdr> segments;
    const auto segment = [&](std::uint32_t type, std::uint32_t flags, std::uint64_t at,
                             std::uint64_t size) {
        Elf64_Phdr one{};
        one.p_type = type, one.p_flags = flags;
        one.p_offset = at, one.p_vaddr = base + at, one.p_filesz = one.p_memsz = size;
        segments.push_back(one);
    };
    segment(PT_LOAD, PF_R, 0, kCode);
    segment(PT_LOAD, PF_R | PF_X, kCode, kData - kCode);
    segment(PT_LOAD, PF_R, kData, loaded_end - kData);
    if (table) segment(PT_GNU_EH_FRAME, PF_R, search_at, search.size());
    if (!dynamic_symbols.empty()) segment(PT_DYNAMIC, PF_R, dynamic_at, entries.size());
    if (!build_id.empty()) segment(PT_NOTE, PF_R, note_at, note.size());
    Elf64_Ehdr header{};
    header.e_type = elf_type;
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_machine = EM_X86_64;
    header.e_phoff = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = static_cast<std::uint16_t>(segments.size());
    header.e_shoff = sections_at;
    header.e_shentsize = sizeof(Elf64_Shdr);
    header.e_shnum = static_cast<std::uint16_t>(sections.size());
    header.e_shstrndx = 4;
    write_at(file, 0, header);
    for (std::size_t i = 0; i < segments.size(); ++i) {
        write_at(file, sizeof header + i * sizeof(Elf64_Phdr), segments[i]);
    }
    return file;
}

ReadImage read_text(const std::string& text, std::uint64_t begin,
                    std::vector<std::uint64_t> missing) {
    return [&text, begin, missing](std::uint64_t at, MutableBytes into) -> Result<void> {
        if (at < begin || at - begin > text.size() || text.size() - (at - begin) < into.size()) {
            return fail(Code::unreadable, "behind the end");
        }
        for (const std::uint64_t page : missing) {
            if (at - begin < page + kPageSize && at - begin + into.size() > page) {
                return fail(Code::unavailable, "not in memory");
            }
        }
        std::ranges::copy(as_bytes(text).subspan(at - begin, into.size()), into.begin());
        return {};
    };
}

}  // namespace underseer::guest_linux
