#include "guest_linux/fake_vmlinux.h"

#include <elf.h>

#include <cstring>

namespace underseer::guest_linux {

namespace {

template <typename T>
void append(std::string& to, const T& value) {
    to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace

std::string fake_vmlinux(const std::vector<FakeSection>& sections) {
    std::string names(1, '\0'), body;
    std::vector<Elf64_Shdr> headers(1);
    const auto add = [&](const std::string& name, std::uint32_t type, std::uint64_t address,
                         const std::string& bytes) {
        Elf64_Shdr header{};
        header.sh_name = static_cast<Elf64_Word>(names.size());
        header.sh_type = type;
        header.sh_addr = address;
        header.sh_offset = sizeof(Elf64_Ehdr) + body.size();
        header.sh_size = bytes.size();
        headers.push_back(header);
        names += name + '\0';
        body += bytes;
    };
    for (const FakeSection& one : sections) add(one.name, SHT_PROGBITS, one.address, one.bytes);
    const std::string own = names + ".shstrtab" + '\0';
    add(".shstrtab", SHT_STRTAB, 0, own);
    Elf64_Ehdr head{};
    std::memcpy(head.e_ident, ELFMAG, SELFMAG);
    head.e_ident[EI_CLASS] = ELFCLASS64;
    head.e_ident[EI_DATA] = ELFDATA2LSB;
    head.e_machine = EM_X86_64;
    head.e_phentsize = sizeof(Elf64_Phdr);
    head.e_phoff = sizeof(Elf64_Ehdr);
    head.e_shentsize = sizeof(Elf64_Shdr);
    head.e_shnum = static_cast<Elf64_Half>(headers.size());
    head.e_shstrndx = static_cast<Elf64_Half>(headers.size() - 1);
    head.e_shoff = sizeof head + body.size();
    std::string file;
    append(file, head);
    file += body;
    for (const Elf64_Shdr& header : headers) append(file, header);
    return file;
}

std::string fake_vmlinuz(std::string_view packed) {
    constexpr std::uint32_t kOffset = 0x80;
    std::string file(2 * 512 + kOffset, '\0');
    file[0x1f1] = 1;  // sectors of set-up besides the first
    std::memcpy(file.data() + 0x202, "HdrS\x0f\x02", 6);
    const auto size = static_cast<std::uint32_t>(packed.size());
    std::memcpy(file.data() + 0x248, &kOffset, sizeof kOffset);
    std::memcpy(file.data() + 0x24c, &size, sizeof size);
    return file.append(packed);
}

std::string fake_notes(char build_id) {
    std::string notes;
    for (const std::uint32_t word : {4u, 20u, 3u}) append(notes, word);
    return notes.append("GNU\0", 4).append(20, build_id);
}

}  // namespace underseer::guest_linux
