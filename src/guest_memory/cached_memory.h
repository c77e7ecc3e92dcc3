// CachedMemory: every page is copied at most once between two calls of new_epoch(), so that what is
// read twice is the same twice, and walking pointers costs no system call.
#pragma once

#include <vector>

#include "guest_memory/guest_memory.h"

namespace underseer::guest_memory {

class CachedMemory final : public GuestMemory {
  public:
    // `source` is captured and must outlive this. `pages` is rounded up to a power of two; each
    // costs 4 KiB. Pages compete for places (direct-mapped), so the cache is a bound, not a
    // promise.
    explicit CachedMemory(GuestMemory* source, std::size_t pages = 4096);

    std::span<const RamRegion> regions() const override { return source_->regions(); }
    void read_many(std::span<ReadOp> ops) override;
    void new_epoch() override { ++epoch_; }
    bool live() const override { return source_->live(); }
    std::string failure() const override { return source_->failure(); }
    Bytes notes() const override { return source_->notes(); }
    std::string describe() const override { return source_->describe(); }

  private:
    struct Slot {
        std::uint64_t page = ~0ull;
        std::uint64_t epoch = 0;
        ReadStatus status = ReadStatus::failed;
    };
    void read_one(ReadOp& op);
    ReadStatus fetch(std::uint64_t page, std::size_t slot);

    GuestMemory* source_;
    std::size_t mask_;
    std::uint64_t epoch_ = 1;
    std::vector<Slot> slots_;
    std::vector<std::byte> bytes_;
};

}  // namespace underseer::guest_memory
