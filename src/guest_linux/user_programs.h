// The programs and libraries that a process executes: where its stack leads, by their unwind
// information, and what their functions are called.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "guest_linux/elf_symbols.h"
#include "guest_linux/user_memory.h"
#include "guest_linux/user_stack.h"
#include "guest_linux/vdso.h"

namespace underseer::guest_linux {

// Of one process at a time. Files are read from the guest's page cache, which the process cannot
// write to, and where that lacks a page, as the process has it; what is known of them is kept.
class UserPrograms {
  public:
    // `live` is not a cache; both must outlive this.
    UserPrograms(Kernel* kernel, guest_memory::GuestMemory* live);

    // What is mapped now; nothing: that is not known. What could not be read of files before is
    // tried again.
    void look_at(std::optional<UserMemory::Process> process);
    // Nothing before the first look.
    const UserMemory::Area* area_at(GuestVirt at) const;

    // Of a thread that does not run meanwhile.
    UserStack stack_of(const UserRegisters& registers);

    struct Place {
        std::string file;                // "" where nothing has a name
        std::uint64_t offset_bytes = 0;  // in it; from the mapping's begin where it has none
        std::string symbol;              // "read+0x13"; "" where no name is known
    };
    Place place_of(const UserFrame& frame);

    struct Function {
        std::string file, name;
        GuestVirt at;
    };
    // Functions of the files that have a wanted path, by the names that their symbols give. What
    // could not be read of files is told in `gaps`.
    std::vector<Function> functions(const std::function<bool(std::string_view)>& is_file_wanted,
                                    const std::function<bool(std::string_view)>& is_wanted,
                                    Gaps& gaps);

    // Files had more symbols than are kept (limits::kMaxTracedIndexBytes).
    bool is_cut() const { return is_cut_; }

  private:
    using Page = std::array<std::byte, kPageSize>;
    struct Program {
        UserMemory::Area area;                                           // one of its mappings
        std::unordered_map<std::uint64_t, std::unique_ptr<Page>> pages;  // by their index
        std::optional<Result<ElfImage>> image;
        std::optional<Result<CallFrameInfo>> frames;
        std::optional<ElfSymbols> symbols;
        std::unordered_map<std::uint64_t, Result<UnwindRow>> rows;  // by address of the image
    };
    // A file is the same one as long as its inode is.
    struct FileKey {
        std::uint64_t mapping = 0, inode = 0;
        std::uint32_t device_major = 0, device_minor = 0;
        auto operator<=>(const FileKey&) const = default;
    };
    struct CodePlace {
        Program* program = nullptr;
        std::uint64_t address = 0;  // in its image
        std::uint64_t bias = 0;     // how much further up the process has it
    };
    class StackPages;

    static FileKey key_of(const UserMemory::Area& area);
    Result<Program*> program_of(const UserMemory::Area& area);
    Result<CodePlace> code_at(GuestVirt at);
    Result<const UnwindRow*> row_at(GuestVirt at);
    const ElfSymbols& symbols_of(const CodePlace& code);
    ReadFile file_of(Program& program);
    Result<const Page*> page_of(Program& program, std::uint64_t index);
    Result<void> copy_page(const Program& program, std::uint64_t index, Page& page);
    Result<std::optional<GuestPhys>> page_of_file(const Program& program, std::uint64_t index);

    Kernel* kernel_;
    guest_memory::GuestMemory* live_;
    PageCache cache_;
    std::optional<UserMemory::Process> process_;
    std::map<FileKey, std::vector<const UserMemory::Area*>> pieces_;  // of process_, few of many
    std::map<FileKey, std::unique_ptr<Program>> programs_;
    std::size_t pages_ = 0, rows_ = 0;  // of all of them
    std::uint64_t index_bytes_left_;
    std::uint64_t walk_bytes_left_ = 0;  // of unwind information, in this walk
    bool is_fresh_ = false;              // the kernel's own memory was read in this call
    bool is_cut_ = false;
};

}  // namespace underseer::guest_linux
