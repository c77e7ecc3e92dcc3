// A program or library as its ELF file describes it (System V ABI, chapters 4 and 5; <elf.h>).
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "guest_linux/call_frame_info.h"

namespace underseer::guest_linux {

// Fills `into` from an offset in the file.
using ReadFile = std::function<Result<void>(std::uint64_t offset, MutableBytes into)>;

// TRUST: whoever wrote the program wrote these bytes; they are copied, then parsed. Addresses are
// those of the image, before it was loaded anywhere.
class ElfImage {
  public:
    // Of x86-64, 64 bits. Code::malformed or Code::unsupported where it is something else.
    static Result<ElfImage> of(const ReadFile& read);

    struct Part {
        std::uint64_t address = 0, size_bytes = 0;
    };
    // Where what can be executed of a place in the file is.
    std::optional<std::uint64_t> code_at(std::uint64_t offset) const;
    bool is_code(std::uint64_t address) const;
    // Where an address is in the file; nothing where it is in no segment of it.
    std::optional<std::uint64_t> offset_of(std::uint64_t address) const;
    Result<void> read(const ReadFile& read, std::uint64_t address, MutableBytes into) const;

    // .eh_frame by its search table, or else, where the file's list of sections can be read, as a
    // whole; that counts against `budget_bytes`. Code::not_found where the file has none.
    Result<CallFrameInfo> call_frame_info(const ReadFile& read, std::uint64_t& budget_bytes) const;

    struct Section {
        std::string name;
        std::uint32_t type = 0;
        std::uint64_t address = 0, offset = 0, size_bytes = 0;
        std::uint32_t link = 0;
    };
    // None where the file has no list of them, as what is stripped to the bone. No program needs
    // it to run, so that it is often not in memory.
    Result<std::vector<Section>> sections(const ReadFile& read) const;
    // Whether it is loaded where processes have nothing: above 2^63.
    bool is_kernels() const;
    // Where in the file those pages are that are mapped when it is loaded: ascending, without
    // overlaps.
    struct FilePages {
        std::uint64_t first = 0, pages = 0;
    };
    std::vector<FilePages> loaded_pages() const;
    // GNU's, hexadecimal; "" where it has none.
    Result<std::string> build_id(const ReadFile& read) const;
    // Of PT_DYNAMIC.
    std::optional<Part> dynamic() const { return dynamic_; }

  private:
    struct Segment {
        std::uint64_t offset = 0, address = 0, size_bytes = 0;  // in the file
        bool executable = false;
    };
    std::vector<Segment> segments_;
    std::optional<Part> eh_frame_header_, dynamic_;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> notes_;  // in the file: from, bytes
    std::uint64_t sections_at_ = 0, section_count_ = 0, section_names_ = 0;
};

}  // namespace underseer::guest_linux
