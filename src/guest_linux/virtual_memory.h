// Reads through a guest address space: translation with a TLB in front of GuestMemory.
#pragma once

#include <string>
#include <type_traits>
#include <vector>

#include "guest_linux/paging.h"
#include "guest_memory/guest_memory.h"

namespace underseer::guest_linux {

class VirtualMemory {
  public:
    // `memory` is captured and must outlive this.
    VirtualMemory(guest_memory::GuestMemory* memory, AddressSpace space);

    // Fills `into`, across page borders. Fails as a whole when any page of it cannot be read.
    Result<void> read(GuestVirt from, MutableBytes into);

    template <typename T>
        requires std::is_trivially_copyable_v<T>
    Result<T> read(GuestVirt from) {
        T value;
        TRY(read(from, {reinterpret_cast<std::byte*>(&value), sizeof value}));
        return value;
    }

    // A NUL-terminated string; cut at `limit_bytes` when no NUL comes before it.
    Result<std::string> read_cstring(GuestVirt from, std::size_t limit_bytes);

    Result<Translation> translate(GuestVirt address);

    // Forgets all translations: what was mapped may have changed.
    void forget();

    // So many reads of a page, or of a part of one, are allowed from here on; then they fail with
    // Code::limit. Without this, any number is.
    void allow(std::uint64_t reads) { allowed_ = left_ = reads; }

    AddressSpace space() const { return space_; }
    guest_memory::GuestMemory& physical() const { return *memory_; }

  private:
    struct TlbEntry {
        std::uint64_t page = ~0ull;
        GuestPhys phys;
    };
    Result<GuestPhys> page_of(GuestVirt address);

    guest_memory::GuestMemory* memory_;
    AddressSpace space_;
    std::uint64_t allowed_ = ~0ull, left_ = ~0ull;
    std::vector<TlbEntry> tlb_;  // direct-mapped
};

}  // namespace underseer::guest_linux
