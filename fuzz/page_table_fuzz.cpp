// Border: page tables. The input is the guest's whole memory. Must hold: a walk takes at most five
// reads, looking for a kernel ends, and reads outside of memory are refused.
#include "guest_linux/kernel.h"

namespace {
using namespace underseer;

class FlatMemory final : public guest_memory::GuestMemory {
  public:
    FlatMemory(const std::uint8_t* data, std::size_t size)
        : bytes_(reinterpret_cast<const std::byte*>(data), size), regions_{{GuestPhys{0}, size}} {}
    std::span<const guest_memory::RamRegion> regions() const override { return regions_; }
    void read_many(std::span<guest_memory::ReadOp> ops) override {
        for (guest_memory::ReadOp& op : ops) {
            const bool inside =
                op.from.value <= bytes_.size() && op.into.size() <= bytes_.size() - op.from.value;
            op.status = inside ? guest_memory::ReadStatus::ok : guest_memory::ReadStatus::outside;
            if (inside) std::memcpy(op.into.data(), bytes_.data() + op.from.value, op.into.size());
        }
    }
    bool live() const override { return false; }
    std::string describe() const override { return "fuzzed"; }

  private:
    Bytes bytes_;
    std::vector<guest_memory::RamRegion> regions_;
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 8) return 0;
    FlatMemory memory(data, size);
    std::uint64_t address = 0;
    std::memcpy(&address, data, sizeof address);
    for (const unsigned levels : {4u, 5u}) {
        (void)guest_linux::translate(memory, {GuestPhys{0}, levels}, GuestVirt{address});
    }
    (void)guest_linux::find_kernel_images(memory);
    return 0;
}
