// Programs as tests need them: unwind information and ELF files, word for word.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "guest_linux/call_frame_info.h"

namespace underseer::guest_linux {

// .eh_frame, and .eh_frame_hdr for it.
class FakeCfi {
  public:
    // As gcc begins every function: CFA is rsp+8, and at CFA-8 is what the call returns to.
    static constexpr std::string_view kUsualBegin{"\x0c\x07\x08\x90\x01", 5};

    explicit FakeCfi(std::uint64_t at) : at_(at) {}

    // Returns its address.
    std::uint64_t add_common(std::string_view program = kUsualBegin,
                             std::string_view augmentation = "zR", std::uint8_t version = 1);
    std::uint64_t add_function(std::uint64_t common, std::uint64_t begin, std::uint32_t size_bytes,
                               std::string_view program);
    void add_end() { put(bytes_, std::uint32_t{0}); }
    const std::string& bytes() const { return bytes_; }
    std::string table(std::uint64_t at) const;

    template <typename T>
    static void put(std::string& bytes, T value) {
        bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    }

  private:
    std::uint64_t add(std::string entry);

    struct Function {
        std::uint64_t begin = 0, entry = 0;
    };
    std::uint64_t at_;
    std::string bytes_;
    std::vector<Function> functions_;
};

// A program that is linked for `base`: code from 0x1000 to 0x3000 in its file, the rest behind.
struct FakeElf {
    struct Function {
        std::string name;
        std::uint64_t offset = 0x1000;
        std::uint32_t size_bytes = 16;
        std::uint8_t type = 2;  // STT_FUNC
        bool local = false;
    };
    std::uint64_t base = 0x400000;
    std::vector<Function> symbols, dynamic_symbols;  // none: no such table
    bool gnu_hash = true;
    bool table = true;               // .eh_frame_hdr
    std::uint64_t relocated_by = 0;  // what PT_DYNAMIC says, glibc's linker has added this to
    std::string build_id;            // its bytes; "": none
    std::uint16_t elf_type = 2;      // ET_EXEC

    std::string build();
    // Of the latest build(): file offsets.
    std::uint64_t symbols_at = 0, sections_at = 0, frames_at = 0;
};

// Reads from a text as from a file; pages of 4096 bytes that are told are not there.
ReadImage read_text(const std::string& text, std::uint64_t begin = 0,
                    std::vector<std::uint64_t> missing = {});

}  // namespace underseer::guest_linux
