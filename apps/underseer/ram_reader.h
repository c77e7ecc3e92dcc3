// A guest's RAM through its introspector, as memory like any other. The bytes are the guest's, and
// whoever reads here only copies them: the parsing belongs into the jail.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "agent/introspector.h"
#include "guest_memory/guest_memory.h"

namespace underseer::cli {

class RamReader final : public guest_memory::GuestMemory {
  public:
    // `introspector` must outlive this.
    static Result<RamReader> open(agent::Introspector* introspector);

    std::span<const guest_memory::RamRegion> regions() const override { return regions_; }
    // Reads that follow one another in memory are asked for together. REQUIRES: none is longer than
    // kMaxRamQuestion.
    void read_many(std::span<guest_memory::ReadOp> ops) override;
    bool live() const override { return true; }
    std::string failure() const override { return failure_; }
    std::string describe() const override { return "RAM through an introspector"; }

    // The introspector has ended or answers nonsense: nothing more will be read.
    const std::optional<Error>& broken() const { return broken_; }

  private:
    RamReader(agent::Introspector* introspector, std::vector<guest_memory::RamRegion> regions)
        : introspector_(introspector), regions_(std::move(regions)) {}
    void read_run(std::span<guest_memory::ReadOp> run, std::uint64_t size_bytes);

    agent::Introspector* introspector_;
    std::vector<guest_memory::RamRegion> regions_;
    std::string failure_;
    std::optional<Error> broken_;
};

}  // namespace underseer::cli
