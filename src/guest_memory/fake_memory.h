// Memory for tests: made of bytes, and decorators that watch or break reads of another memory.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/interval_map.h"
#include "guest_memory/fake_images.h"
#include "guest_memory/guest_memory.h"

namespace underseer::guest_memory {

class FakeMemory final : public GuestMemory {
  public:
    // REQUIRES: ranges are sorted, disjoint and not empty.
    explicit FakeMemory(std::vector<FakeRange> ranges);

    std::span<const RamRegion> regions() const override { return regions_; }
    void read_many(std::span<ReadOp> ops) override;
    bool live() const override { return false; }
    std::string describe() const override { return "fake memory"; }

  private:
    std::vector<FakeRange> ranges_;
    std::vector<RamRegion> regions_;
};

// What the three decorators share: everything is the source's. `source` must outlive them.
class MemoryDecorator : public GuestMemory {
  public:
    explicit MemoryDecorator(GuestMemory* source) : source_(source) {}

    std::span<const RamRegion> regions() const override { return source_->regions(); }
    void read_many(std::span<ReadOp> ops) override { source_->read_many(ops); }
    bool live() const override { return source_->live(); }
    void new_epoch() override { source_->new_epoch(); }
    std::string failure() const override { return source_->failure(); }
    std::string describe() const override { return source_->describe(); }

  protected:
    GuestMemory* source_;
};

// Which addresses were read with success.
class RecordingMemory final : public MemoryDecorator {
  public:
    using MemoryDecorator::MemoryDecorator;
    void read_many(std::span<ReadOp> ops) override;

    bool was_read(GuestPhys at) const { return read_.find(at.value).has_value(); }
    // The ranges that were read, those that touch joined.
    std::vector<RamRegion> read_ranges() const;
    void forget() { read_ = {}; }

  private:
    IntervalMap<bool> read_;
};

// Pages that cannot be had, always the same for one seed: `holes` and `failures` of 1000 pages.
class FaultyMemory final : public MemoryDecorator {
  public:
    FaultyMemory(GuestMemory* source, std::uint64_t seed, unsigned holes, unsigned failures)
        : MemoryDecorator(source), seed_(seed), holes_(holes), failures_(failures) {}
    void read_many(std::span<ReadOp> ops) override;
    std::string failure() const override { return "broken on purpose"; }

    ReadStatus status_of(GuestPhys at) const;

  private:
    std::uint64_t seed_;
    unsigned holes_, failures_;
};

class CountingMemory final : public MemoryDecorator {
  public:
    using MemoryDecorator::MemoryDecorator;
    void read_many(std::span<ReadOp> ops) override;

    std::uint64_t calls = 0, reads = 0, bytes = 0, not_ok = 0;
};

}  // namespace underseer::guest_memory
