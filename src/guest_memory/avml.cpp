// AVML images: per range a header like LiME's with version 2, the range as a framed snappy stream,
// and the stream's length as a 64-bit number (microsoft/avml, src/image.rs and src/io/snappy.rs of
// 0.14). Framing: framing_format.txt of snappy 1.1.9. The framed stream says nowhere how long it is
// before it ends, so opening walks its chunks; their bytes are decompressed when they are read.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/limits.h"
#include "guest_memory/block_memory.h"
#include "guest_memory/compression.h"
#include "guest_memory/image_forms.h"
#include "guest_memory/ram_layout.h"

namespace underseer::guest_memory {

namespace {

constexpr std::uint32_t kMagic = 0x4c4d5641;  // "AVML"
constexpr std::size_t kHeaderBytes = 32, kTrailerBytes = 8;
constexpr std::uint32_t kChunkHeaderBytes = 4, kChecksumBytes = 4;
// Framing, section 4: a chunk holds at most 64 KiB; snappy makes at most 76,490 bytes of them.
constexpr std::size_t kMaxFrameBytes = 65536, kMaxStoredBytes = 76490;
constexpr std::uint8_t kCompressed = 0x00, kPlain = 0x01, kFirstSkippable = 0x80,
                       kIdentifier = 0xff;
constexpr std::string_view kIdentifierText = "sNaPpY";

// One data chunk. `offset` is that of its checksum, `stored` what follows the checksum.
struct Frame {
    std::uint64_t begin = 0;
    std::uint64_t offset = 0;
    std::uint32_t size = 0;
    std::uint32_t stored : 31 = 0;
    std::uint32_t compressed : 1 = 0;
};

struct Range {
    GuestPhys begin;
    std::uint64_t size = 0;
};

class AvmlIndex {
  public:
    explicit AvmlIndex(const ImageFile& file) : file_(file) {}

    Result<void> build() {
        for (std::uint64_t at = 0; at < file_.size();) {
            const Range range = TRY(read_header(at));
            if (ranges_.size() >= limits::kMaxImageRanges) {
                return fail(Code::limit, fmt::format("the image has more than {} ranges",
                                                     limits::kMaxImageRanges));
            }
            ranges_.push_back({range.begin, range.size, 0, at});
            at = TRY(walk_stream(at + kHeaderBytes, range));
        }
        ranges_ = TRY(validate_layout(std::move(ranges_)));
        std::ranges::sort(frames_, {}, &Frame::begin);
        return {};
    }

    std::vector<RamSlice> ranges_;
    std::vector<Frame> frames_;

  private:
    Result<Range> read_header(std::uint64_t at) const {
        std::array<std::byte, kHeaderBytes> raw;
        TRY(file_.read(at, raw, "an AVML header"));
        ByteCursor cursor(raw);
        const auto magic = TRY(cursor.read<std::uint32_t>());
        const auto version = TRY(cursor.read<std::uint32_t>());
        const auto first = TRY(cursor.read<std::uint64_t>());
        const auto last = TRY(cursor.read<std::uint64_t>());
        if (magic != kMagic || version != 2 || last < first || last - first == ~0ull) {
            return fail(Code::malformed, fmt::format("no AVML header at offset {:#x}: magic {:#x}, "
                                                     "version {}, {:#x} to {:#x}",
                                                     at, magic, version, first, last));
        }
        return Range{GuestPhys{first}, last - first + 1};
    }

    // Notes the data chunks from `at` on until they make up the range. Returns where the next
    // range's header must be.
    Result<std::uint64_t> walk_stream(const std::uint64_t start, const Range range) {
        std::uint64_t at = start;
        for (std::uint64_t done = 0; done < range.size;) {
            if (++chunks_ > limits::kMaxAvmlChunks) {
                return fail(Code::limit, fmt::format("the image has more than {} snappy chunks",
                                                     limits::kMaxAvmlChunks));
            }
            std::array<std::byte, kChunkHeaderBytes> raw;
            TRY(file_.read(at, raw, "the header of a snappy chunk"));
            const std::uint32_t word = load_le<std::uint32_t>(raw, 0).value_or(0);
            const auto type = static_cast<std::uint8_t>(word);
            const std::uint32_t length = word >> 8;
            const std::uint64_t body = at + kChunkHeaderBytes;
            if (length > file_.size() - body) {
                return fail(Code::malformed,
                            fmt::format("the image is truncated: a snappy chunk of {} bytes at "
                                        "offset {:#x} reaches beyond its end. Copy it again",
                                        length, at));
            }
            if (type == kCompressed || type == kPlain) {
                Frame frame = TRY(read_frame(type, body, length));
                if (frame.size > range.size - done) {
                    return fail(Code::malformed,
                                fmt::format("the snappy chunk at offset {:#x} holds more than is "
                                            "left of the range at {:#x}",
                                            at, range.begin.value));
                }
                frame.begin = range.begin.value + done;
                if (frame.size != 0) frames_.push_back(frame);
                done += frame.size;
            } else if (type == kIdentifier) {
                TRY(check_identifier(body, length));
            } else if (type < kFirstSkippable) {
                return fail(Code::malformed, fmt::format("a snappy chunk of unknown type {:#x} at "
                                                         "offset {:#x}",
                                                         type, at));
            }
            at = body + length;
        }
        std::array<std::byte, kTrailerBytes> trailer;
        TRY(file_.read(at, trailer, "the length after a range"));
        const auto said = load_le<std::uint64_t>(trailer, 0).value_or(0);
        if (said != at - start) {
            return fail(Code::malformed, fmt::format("the range at {:#x} takes {} bytes of the "
                                                     "file, and the length at offset {:#x} says {}",
                                                     range.begin.value, at - start, at, said));
        }
        return at + kTrailerBytes;
    }

    Result<Frame> read_frame(std::uint8_t type, std::uint64_t body, std::uint32_t length) const {
        if (length < kChecksumBytes || length - kChecksumBytes > kMaxStoredBytes) {
            return fail(Code::malformed, fmt::format("a snappy chunk of {} bytes at offset {:#x}",
                                                     length, body - kChunkHeaderBytes));
        }
        Frame frame{.offset = body, .size = length - kChecksumBytes};
        frame.stored = frame.size & 0x7fffffff;
        frame.compressed = type == kCompressed;
        if (type == kCompressed) {
            std::array<std::byte, 5> head;
            const auto part = std::span(head).first(std::min<std::size_t>(frame.size, head.size()));
            TRY(file_.read(body + kChecksumBytes, part, "the head of a snappy block"));
            frame.size = TRY(snappy_length(part).context(fmt::format("offset {:#x}", body)));
        }
        if (frame.size > kMaxFrameBytes) {
            return fail(Code::malformed, fmt::format("the snappy chunk at offset {:#x} holds {} "
                                                     "bytes; the format allows 65536",
                                                     body - kChunkHeaderBytes, frame.size));
        }
        return frame;
    }

    Result<void> check_identifier(std::uint64_t body, std::uint32_t length) const {
        std::array<std::byte, kIdentifierText.size()> text;
        if (length == text.size()) {
            TRY(file_.read(body, text, "a snappy stream identifier"));
            if (as_text(text) == kIdentifierText) return {};
        }
        return fail(Code::malformed, fmt::format("a wrong snappy stream identifier at offset {:#x}",
                                                 body - kChunkHeaderBytes));
    }

    const ImageFile& file_;
    std::size_t chunks_ = 0;
};

class AvmlMemory final : public BlockMemory {
  public:
    AvmlMemory(ImageFile file, const std::vector<RamSlice>& ranges, std::vector<Frame> frames,
               std::string description)
        : BlockMemory(ranges, kMaxFrameBytes, /*slots=*/64, std::move(description)),
          file_(file),
          frames_(std::move(frames)),
          stored_(kMaxStoredBytes + kChecksumBytes) {}

  private:
    ReadStatus locate(GuestPhys at, Block& block) override {
        const auto next = std::ranges::upper_bound(frames_, at.value, {}, &Frame::begin);
        if (next == frames_.begin()) return ReadStatus::outside;
        const Frame& frame = *(next - 1);
        if (at.value - frame.begin >= frame.size) {
            // AVML leaves out blocks of 16 MiB that hold only zeros (copy_if_nonzero of its
            // src/image.rs), so what lies between two ranges may be RAM or none.
            return next == frames_.end() ? ReadStatus::outside : ReadStatus::hole;
        }
        block = {GuestPhys{frame.begin}, frame.size,
                 static_cast<std::uint64_t>(next - 1 - frames_.begin())};
        return ReadStatus::ok;
    }

    Result<void> decode(const Block& block, MutableBytes into) override {
        const Frame& frame = frames_[block.number];
        const auto where = [&] {
            return fmt::format("guest page {:#x}, snappy chunk at offset {:#x}", frame.begin,
                               frame.offset - kChunkHeaderBytes);
        };
        const auto raw = std::span(stored_).first(frame.stored + kChecksumBytes);
        TRY(file_.read(frame.offset, raw, "a snappy chunk"));
        const Bytes stored = Bytes(raw).subspan(kChecksumBytes);
        if (frame.compressed != 0) {
            TRY(uncompress_snappy(stored, into).context(where()));
        } else {
            std::ranges::copy(stored, into.begin());
        }
        if (masked_crc32c(into) != load_le<std::uint32_t>(raw, 0)) {
            return fail(Code::malformed, where() + ": the checksum does not match");
        }
        return {};
    }

    ImageFile file_;
    std::vector<Frame> frames_;
    std::vector<std::byte> stored_;
};

}  // namespace

Result<std::unique_ptr<GuestMemory>> open_avml(ImageFile file, const std::string& name) {
    AvmlIndex index(file);
    TRY(index.build());
    return std::unique_ptr<GuestMemory>(std::make_unique<AvmlMemory>(
        file, index.ranges_, std::move(index.frames_), name + " (AVML)"));
}

}  // namespace underseer::guest_memory
