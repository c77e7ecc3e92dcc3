// Memory whose bytes lie at known offsets of files: live RAM, raw, LiME and ELF images.
#pragma once

#include <string>
#include <vector>

#include "guest_memory/ram_layout.h"

namespace underseer::guest_memory {

// The longest single pread: also the bound in the jail's filter.
inline constexpr std::size_t kMaxReadBytes = 16u << 20;

class SlicedMemory final : public GuestMemory {
  public:
    // REQUIRES: `slices` went through validate_layout and name existing fds.
    SlicedMemory(std::vector<int> fds, std::vector<RamSlice> slices, bool live,
                 std::string description, std::vector<std::byte> notes = {});

    std::span<const RamRegion> regions() const override { return regions_; }
    void read_many(std::span<ReadOp> ops) override;
    bool live() const override { return live_; }
    std::string describe() const override { return description_; }
    Bytes notes() const override { return notes_; }

  private:
    void read_one(ReadOp& op) const;

    std::vector<int> fds_;  // borrowed
    std::vector<RamSlice> slices_;
    std::vector<RamRegion> regions_;
    bool live_;
    std::string description_;
    std::vector<std::byte> notes_;
};

}  // namespace underseer::guest_memory
