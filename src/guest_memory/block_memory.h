// Memory that lies in a file as compressed blocks: each is decompressed when it is asked for, and
// the latest few are kept.
#pragma once

#include <string>
#include <vector>

#include "guest_memory/guest_memory.h"
#include "guest_memory/ram_layout.h"

namespace underseer::guest_memory {

class BlockMemory : public GuestMemory {
  public:
    std::span<const RamRegion> regions() const override { return regions_; }
    void read_many(std::span<ReadOp> ops) override;
    bool live() const override { return false; }
    std::string describe() const override { return description_; }
    std::string failure() const override { return failure_; }

  protected:
    struct Block {
        GuestPhys begin;
        std::size_t size_bytes = 0;
        std::uint64_t number = 0;  // tells it from every other block
    };
    // `block_bytes` is the largest size of a block, `slots` how many are kept (a power of two).
    // `ranges` are sorted and disjoint; those that touch become one region.
    BlockMemory(const std::vector<RamSlice>& ranges, std::size_t block_bytes, std::size_t slots,
                std::string description);

    // The block that holds `at`. ok, or hole or outside.
    virtual ReadStatus locate(GuestPhys at, Block& block) = 0;
    virtual Result<void> decode(const Block& block, MutableBytes into) = 0;

  private:
    struct Slot {
        std::uint64_t number = ~0ull;
        bool good = false;
        std::vector<std::byte> bytes;  // none before its first use
    };
    void read_one(ReadOp& op);
    Bytes fetch(const Block& block);  // empty: it cannot be decoded

    std::vector<RamRegion> regions_;
    std::size_t block_bytes_;
    std::vector<Slot> slots_;
    std::string description_;
    std::string failure_;
};

}  // namespace underseer::guest_memory
