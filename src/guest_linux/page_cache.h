// Files as the guest keeps them in memory: found by their names in its cache of names (dentries),
// read from its page cache. Nothing of a disk is read.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

// Pages of a file that lie beside each other, in the file and in RAM.
struct FileRun {
    std::uint64_t index = 0;  // of the first, in the file
    GuestPhys phys;
    std::uint64_t pages = 0;

    bool operator==(const FileRun&) const = default;
};

struct FilePages {
    std::vector<FileRun> runs;  // ascending
    std::uint64_t swapped = 0;  // pages that only swap space has: of memfds and the like
};

class PageCache {
  public:
    explicit PageCache(Kernel* kernel);

    // The inode of a path below the root of the first process; nothing when the guest knows that
    // there is none, or has not looked for it: what programs look for each time they start is
    // known. Symbolic links and mount points on the way are not followed: Code::unavailable.
    Result<std::optional<GuestVirt>> find(std::string_view path);
    // The first `limit_bytes` of a file. Code::unavailable when a page of them is not in memory.
    Result<std::string> read(GuestVirt inode, std::size_t limit_bytes);
    // The page that holds one page of a file, by its struct address_space and its index; nothing
    // where it is not in memory.
    Result<std::optional<GuestPhys>> page_of(GuestVirt mapping, std::uint64_t index);
    // All that are in memory from one index up to another, `end` exclusive. Code::limit when there
    // are more than limits::kMaxFileRuns.
    Result<FilePages> pages_of(GuestVirt mapping, std::uint64_t begin, std::uint64_t end);
    // How long the file of a mapping is.
    Result<std::uint64_t> size_of(GuestVirt mapping);

  private:
    Result<std::optional<GuestVirt>> child(GuestVirt folder, std::string_view name);

    Kernel* kernel_;
    Field root_, root_dentry_, children_, sibling_, inode_, name_, name_bytes_, mode_, size_,
        mapping_, pages_, head_, shift_, slots_, host_, operations_;
};

}  // namespace underseer::guest_linux
