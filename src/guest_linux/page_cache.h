// Files as the guest keeps them in memory: found by their names in its cache of names (dentries),
// read from its page cache. Nothing of a disk is read.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

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

  private:
    Result<std::optional<GuestVirt>> child(GuestVirt folder, std::string_view name);

    Kernel* kernel_;
    Field root_, root_dentry_, children_, sibling_, inode_, name_, name_bytes_, mode_, size_,
        mapping_, pages_, head_, shift_, slots_;
};

}  // namespace underseer::guest_linux
