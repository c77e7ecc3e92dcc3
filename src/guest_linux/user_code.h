// The code of a process: what of its memory can be executed, and whether it is what its files say.
#pragma once

#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "guest_linux/memory_maps.h"
#include "guest_linux/page_cache.h"
#include "guest_linux/page_walk.h"

namespace underseer::guest_linux {

// A page of a program or library that differs from the file's page in the guest's page cache.
struct AlteredPage {
    GuestVirt at;                  // the first byte that differs
    std::string before, after;     // from there on
    bool only_breakpoints = true;  // all that differs are one-byte breakpoints (int3)
};

struct CodeArea {
    event::Vma area;
    std::uint64_t pages = 0;           // in memory, and executable
    std::uint64_t copies = 0;          // of a file: those that are the process's own
    std::uint64_t unknown = 0;         // of these, whose page of the file is not in memory
    std::vector<AlteredPage> altered;  // few of many
    std::string head;  // the first bytes of an area that no file is behind; "" when not in memory
};

class UserCode {
  public:
    UserCode(Kernel* kernel, MemoryMaps* maps, Tasks* tasks);

    // Every mapping of a process that can be executed, but for two that the kernel makes itself and
    // nobody can write to ([vsyscall], [uprobes]). The file of [vdso] is the kernel's own image.
    Result<Listing<CodeArea>> list(GuestVirt task, std::uint32_t pid);
    void new_epoch() { known_.clear(), looked_at_ = tables_read_ = 0; }

  private:
    // Where a page of an area is when nobody has changed it; nothing: not in memory.
    using Original = std::function<Result<std::optional<GuestPhys>>(GuestVirt at)>;
    Result<Original> original_of(GuestVirt mm, GuestVirt mapping, const event::Vma& area);
    Result<void> look_at(VirtualMemory& memory, const Original& original, CodeArea& area);
    Result<void> compare(VirtualMemory& memory, GuestVirt at, GuestPhys original, CodeArea& area);
    Result<std::optional<GuestPhys>> page_of_file(GuestVirt mapping, std::uint64_t index);

    Kernel* kernel_;
    MemoryMaps* maps_;
    Tasks* tasks_;
    PageCache cache_;
    // Pages of files that were looked up in this look: many processes share them.
    struct PageKey {
        GuestVirt mapping;
        std::uint64_t index = 0;
        bool operator==(const PageKey&) const = default;
    };
    struct HashKey {
        std::size_t operator()(const PageKey& key) const {
            return std::hash<std::uint64_t>{}(key.mapping.value * 31 + key.index);
        }
    };
    std::unordered_map<PageKey, std::optional<GuestPhys>, HashKey> known_;
    std::uint64_t looked_at_ = 0, tables_read_ = 0;  // pages, of all processes in this look
};

}  // namespace underseer::guest_linux
