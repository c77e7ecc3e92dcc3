// GuestMemory: physical reads of one machine's RAM, live or from an image.
//
// Whatever lies below (a VMM's shared memfd, /proc/PID/mem, a crash dump) gives the same answers
// through this one interface. Reads are copies: nothing ever points into live guest memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace underseer::guest_memory {

// A contiguous stretch of RAM in guest-physical space.
struct RamRegion {
    GuestPhys begin;
    std::uint64_t size_bytes = 0;

    GuestPhys end() const { return begin + size_bytes; }
    bool operator==(const RamRegion&) const = default;
};

enum class ReadStatus : std::uint8_t {
    ok,       // every byte was read
    hole,     // RAM that the source does not hold (excluded page of a dump): bytes are zero
    outside,  // not RAM at all (MMIO, PCI hole, beyond the end): bytes are zero
    failed,   // the source could not be read (VMM gone, truncated file): bytes are zero
};

// One read of a batch. `into` may cross pages but must lie in one region to come back `ok`.
struct ReadOp {
    GuestPhys from;
    MutableBytes into;
    ReadStatus status = ReadStatus::failed;
};

class GuestMemory {
  public:
    virtual ~GuestMemory() = default;

    // Sorted by address, disjoint, never empty.
    virtual std::span<const RamRegion> regions() const = 0;

    // Fills every op's buffer and status. Never throws, never blocks on the guest.
    virtual void read_many(std::span<ReadOp> ops) = 0;

    // A live source changes while it is read; an image does not.
    virtual bool live() const = 0;

    // Whatever was remembered of earlier reads is forgotten (see CachedMemory).
    virtual void new_epoch() {}

    // Why the latest read that came back `failed` did; empty when there is no more to say.
    virtual std::string failure() const { return {}; }

    // The ELF notes that an image's writer put beside the memory; empty where it left none. TRUST:
    // hostile bytes, of bounded length.
    virtual Bytes notes() const { return {}; }

    // For people: "shared memfd of pid 4711", "LiME image mem.lime".
    virtual std::string describe() const = 0;

    // One read. Code::unreadable (hole, outside) or Code::os (failed), with the address.
    Result<void> read(GuestPhys from, MutableBytes into);

    std::uint64_t ram_bytes() const;
};

}  // namespace underseer::guest_memory
