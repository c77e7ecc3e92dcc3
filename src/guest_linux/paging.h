// x86-64 page-table walk, 4 and 5 levels.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "guest_memory/guest_memory.h"

namespace underseer::guest_linux {

struct AddressSpace {
    GuestPhys root;       // of the top table (the PGD)
    unsigned levels = 4;  // 5 with LA57

    bool operator==(const AddressSpace&) const = default;
};

struct Translation {
    GuestPhys phys;                // of the address asked for
    std::uint64_t page_bytes = 0;  // 4 KiB, 2 MiB or 1 GiB
    bool writable = false;         // the AND over all levels
    bool user = false;
    bool executable = false;
};

// Bits of a page-table entry (Intel SDM vol. 3A, 4.5; arch/x86/include/asm/pgtable_types.h).
inline constexpr std::uint64_t kPtePresent = 1u << 0;
inline constexpr std::uint64_t kPteWritable = 1u << 1;
inline constexpr std::uint64_t kPteUser = 1u << 2;
inline constexpr std::uint64_t kPteHuge = 1u << 7;
inline constexpr std::uint64_t kPteProtNone = 1u << 8;  // meaningful only when not present
inline constexpr std::uint64_t kPteNoExecute = 1ull << 63;
inline constexpr std::uint64_t kPteAddressMask = 0x000ffffffffff000;

// Physical address that an entry of `level` (1 = PTE) points to, or nothing when it is not present.
// A PROT_NONE entry (NUMA balancing, mprotect) counts as present: the page is in RAM, its frame
// number is stored inverted against L1TF (arch/x86/include/asm/pgtable-invert.h).
bool entry_present(std::uint64_t entry);
GuestPhys entry_target(std::uint64_t entry);

// Code::unreadable when an entry is not present, Code::malformed when the address is not
// canonical; errors of the memory source pass through.
Result<Translation> translate(guest_memory::GuestMemory& memory, AddressSpace space,
                              GuestVirt address);

}  // namespace underseer::guest_linux
