#include "guest_linux/kernel_log.h"

#include <fmt/format.h>

namespace underseer::guest_linux {

namespace {

// The two top bits of a descriptor's state are its state, the rest its id.
constexpr unsigned kStateShift = 62;
constexpr std::uint64_t kIdMask = (1ull << kStateShift) - 1;
enum class DescriptorState : std::uint8_t { reserved, committed, finalized, reusable };
constexpr std::uint64_t kNoData = 1;  // low bit of a logical position: the record has no text
constexpr std::uint64_t kMaxCountBits = 22, kMaxSizeBits = 30;

struct Ring {
    std::uint64_t count_bits = 0, size_bits = 0;
    GuestVirt descriptors, infos, text;
    std::uint64_t head = 0, tail = 0;  // ids
};

class LogReader {
  public:
    explicit LogReader(Kernel& kernel) : kernel_(kernel) {}

    Result<Ring> read_ring() {
        const GuestVirt pointer = TRY(kernel_.symbol("prb"));
        const GuestVirt prb = TRY(kernel_.memory().read<GuestVirt>(pointer));
        const auto member = [&](std::string_view path) {
            return kernel_.read(prb, kernel_.field("printk_ringbuffer", path));
        };
        Ring ring;
        ring.count_bits = TRY(member("desc_ring.count_bits"));
        ring.descriptors = GuestVirt{TRY(member("desc_ring.descs"))};
        ring.infos = GuestVirt{TRY(member("desc_ring.infos"))};
        ring.head = TRY(member("desc_ring.head_id.counter")) & kIdMask;
        ring.tail = TRY(member("desc_ring.tail_id.counter")) & kIdMask;
        ring.size_bits = TRY(member("text_data_ring.size_bits"));
        ring.text = GuestVirt{TRY(member("text_data_ring.data"))};
        if (ring.count_bits > kMaxCountBits || ring.size_bits > kMaxSizeBits) {
            return fail(Code::malformed, fmt::format("a log of 2^{} records and 2^{} bytes",
                                                     ring.count_bits, ring.size_bits));
        }
        return ring;
    }

    // Nothing when the record was never finished or is being reused.
    Result<std::optional<event::KernelLogLine>> read(const Ring& ring, std::uint64_t id) {
        const std::uint64_t index = id & ((1ull << ring.count_bits) - 1);
        const GuestVirt descriptor =
            ring.descriptors + index * TRY(kernel_.require_size_of("prb_desc"));
        const std::uint64_t state = TRY(kernel_.read(descriptor, state_));
        const auto kind = static_cast<DescriptorState>(state >> kStateShift);
        const bool readable =
            kind == DescriptorState::committed || kind == DescriptorState::finalized;
        if (!readable || (state & kIdMask) != id) return std::optional<event::KernelLogLine>();
        const GuestVirt info = ring.infos + index * TRY(kernel_.require_size_of("printk_info"));
        event::KernelLogLine line;
        line.sequence = TRY(kernel_.read(info, seq_));
        line.time_since_boot_ns = TRY(kernel_.read(info, time_));
        line.facility = static_cast<std::uint32_t>(TRY(kernel_.read(info, facility_)));
        line.level = static_cast<std::uint32_t>(TRY(kernel_.read(info, level_)));
        const std::uint64_t size = TRY(kernel_.read(info, text_len_));
        line.text = TRY(read_text(ring, descriptor, size));
        return std::optional(std::move(line));
    }

  private:
    Result<std::string> read_text(const Ring& ring, GuestVirt descriptor, std::uint64_t size) {
        const std::uint64_t begin = TRY(kernel_.read(descriptor, begin_));
        const std::uint64_t next = TRY(kernel_.read(descriptor, next_));
        if ((begin & kNoData) != 0) return std::string();
        const std::uint64_t bytes = 1ull << ring.size_bits;
        // A block that would not fit before the end of the ring begins at its start.
        const bool wrapped =
            begin >> ring.size_bits != next >> ring.size_bits && (next & (bytes - 1)) != 0;
        const std::uint64_t at = (wrapped ? 0 : begin & (bytes - 1)) + sizeof(std::uint64_t);
        if (at > bytes || size > bytes - at)
            return fail(Code::malformed, "a log record lies outside its ring");
        std::string text(size, '\0');
        TRY(kernel_.memory().read(ring.text + at, std::as_writable_bytes(std::span(text))));
        return text;
    }

    Kernel& kernel_;
    Field state_ = kernel_.field("prb_desc", "state_var.counter");
    Field begin_ = kernel_.field("prb_desc", "text_blk_lpos.begin");
    Field next_ = kernel_.field("prb_desc", "text_blk_lpos.next");
    Field seq_ = kernel_.field("printk_info", "seq");
    Field time_ = kernel_.field("printk_info", "ts_nsec");
    Field text_len_ = kernel_.field("printk_info", "text_len");
    Field facility_ = kernel_.field("printk_info", "facility");
    Field level_ = kernel_.field("printk_info", "level");
};

}  // namespace

Result<Listing<event::KernelLogLine>> list_kernel_log(Kernel& kernel) {
    LogReader reader(kernel);
    const Ring ring = TRY(reader.read_ring());
    Listing<event::KernelLogLine> listing;
    const std::uint64_t count = 1ull << ring.count_bits;
    for (std::uint64_t step = 0, id = ring.tail; step < count; ++step, id = (id + 1) & kIdMask) {
        auto line = reader.read(ring, id);
        if (!line.has_value()) {
            listing.note(line.error());
        } else if (line->has_value()) {
            listing.items.push_back(std::move(**line));
        }
        if (id == ring.head) break;
    }
    return listing;
}

}  // namespace underseer::guest_linux
