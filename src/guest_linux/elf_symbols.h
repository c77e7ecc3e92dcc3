// Names of a program's functions, by the symbol tables of its ELF file.
#pragma once

#include <string>
#include <vector>

#include "guest_linux/elf_image.h"

namespace underseer::guest_linux {

class ElfSymbols {
  public:
    // Of .symtab, where the file has one and it can be read, and of .dynsym, which is found by what
    // the dynamic linker itself goes by. Parts that cannot be read are left out. `bias`: what was
    // added to addresses where it was loaded, should its linker have written that into PT_DYNAMIC.
    // The tables count against `budget_bytes`.
    static ElfSymbols of(const ElfImage& image, const ReadFile& read, std::uint64_t bias,
                         std::uint64_t& budget_bytes);

    // There is one more table than there was budget for.
    bool is_cut() const { return is_cut_; }

    // A function whose bounds are known from elsewhere: assembler's symbols often have no size.
    struct Bounds {
        std::uint64_t begin = 0, end = 0;
    };
    struct Found {
        std::string name;
        std::uint64_t offset_bytes = 0;  // from its begin
    };
    // The function that an address is in, never the one before it. Code::not_found, or the reason
    // why its name cannot be read.
    Result<Found> find(const ReadFile& read, std::uint64_t address,
                       std::optional<Bounds> bounds) const;

    struct Function {
        std::uint64_t address = 0;
        std::string name;
    };
    // Those that have a wanted name, by address; of several names the one that people know. Not
    // indirect ones (STT_GNU_IFUNC), which only choose who does the work. Symbols whose names
    // cannot be read are counted in `unread`.
    std::vector<Function> functions(const ReadFile& read,
                                    const std::function<bool(std::string_view)>& is_wanted,
                                    std::uint64_t& unread) const;

  private:
    struct Symbol {
        std::uint64_t address = 0;
        std::uint32_t size_bytes = 0;
        std::uint32_t name = 0;  // in the names of its table
        bool is_dynamic = false, is_local = false, is_function = false;
    };
    struct Names {
        std::uint64_t offset = 0, size_bytes = 0;  // in the file
    };
    struct Table {
        std::uint64_t offset = 0, count = 0;  // in the file
        Names names;
    };
    static Result<Table> whole_table(const ElfImage& image, const ReadFile& read);
    static Result<Table> dynamic_table(const ElfImage& image, const ReadFile& read,
                                       std::uint64_t bias, std::uint64_t& budget_bytes);
    void add(const ElfImage& image, const ReadFile& read, const Table& table, bool is_dynamic,
             std::uint64_t& budget_bytes);
    Result<std::string> name_of(const ReadFile& read, const Symbol& symbol) const;

    std::vector<Symbol> symbols_;  // by address
    Names names_, dynamic_names_;
    bool is_cut_ = false;
};

}  // namespace underseer::guest_linux
