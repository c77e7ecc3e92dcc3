// The programs and libraries that packages have, for one guest after the other: what its page cache
// has of a file against what the file's package has.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "guest_linux/page_cache.h"
#include "guest_linux/program_set.h"

namespace underseer::guest_linux {

// A file of a guest against one of a package.
struct ProgramComparison {
    std::string package, path;  // of what it was compared with
    std::uint64_t compared = 0, absent = 0;
    std::vector<std::uint64_t> unlike;  // indexes of pages in the file; ascending, few of many
    std::uint64_t unlike_count = 0;
};

class KnownPrograms {
  public:
    // In the place of those before.
    void know(std::vector<ProgramSet> sets);
    bool empty() const { return programs_.empty(); }

    // Of a file, from its beginning in the page cache. "": no ELF file, or without one; nothing:
    // that is not in memory.
    Result<std::optional<std::string>> build_id_of(Kernel& kernel, GuestVirt mapping);

    // With the file of a package that has this build id; of several the one that fits best. Nothing
    // where there is none. Each page that is compared counts against `budget`: Code::limit at its
    // end.
    Result<std::optional<ProgramComparison>> compare(Kernel& kernel, GuestVirt mapping,
                                                     const std::string& build_id,
                                                     std::uint64_t& budget);
    // The same with the file that a package has at that path of the guest's root.
    Result<std::optional<ProgramComparison>> compare_with_path(Kernel& kernel, GuestVirt mapping,
                                                               std::string_view path,
                                                               std::uint64_t& budget);
    bool has_path(std::string_view path) const;
    // Whether a page of the file is one of those that are loaded of the program with this build id.
    bool loads(const std::string& build_id, std::uint64_t index) const;

  private:
    struct Program {
        std::string package;
        KnownProgram known;
        // By page: what page_hash() says of bytes whose SHA-256 is the right one; 0: not known yet.
        // A page that stays as it is then costs a tenth.
        std::vector<std::uint64_t> seen;
    };
    using Index = std::unordered_map<std::string, std::vector<std::size_t>>;
    Result<ProgramComparison> compare_with(Kernel& kernel, GuestVirt mapping, Program& program,
                                           std::uint64_t& budget);
    Result<std::optional<ProgramComparison>> best_of(Kernel& kernel, GuestVirt mapping,
                                                     const Index& index, const std::string& key,
                                                     std::uint64_t& budget);

    std::vector<Program> programs_;
    Index by_id_, by_path_;
};

}  // namespace underseer::guest_linux
