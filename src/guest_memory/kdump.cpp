// The kdump-compressed form: header, sub-header, two bitmaps of pages (what there is, what the dump
// holds), a descriptor for each page that it holds, the pages. Layout: diskdump_mod.h of
// makedumpfile 1.7.2, and include/sysemu/dump.h and dump/dump.c of QEMU 7.2, which writes the same.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>

#include "base/limits.h"
#include "guest_memory/block_memory.h"
#include "guest_memory/compression.h"
#include "guest_memory/image_forms.h"
#include "guest_memory/ram_layout.h"

namespace underseer::guest_memory {

namespace {

// struct disk_dump_header of a 64-bit machine, and struct kdump_sub_header in the next block.
constexpr std::size_t kHeaderBytes = 464, kSubHeaderBytes = 104;
constexpr std::size_t kVersionAt = 8, kMachineAt = 272, kMachineBytes = 65, kStatusAt = 424,
                      kBlockSizeAt = 428, kSubHeaderBlocksAt = 432, kBitmapBlocksAt = 436,
                      kMaxPageAt = 440;
constexpr std::size_t kSplitAt = 12, kNotesAt = 48, kNotesSizeAt = 56, kMaxPage64At = 96;
constexpr std::uint32_t kNewestVersion = 6;
constexpr std::uint64_t kBlock = kPageSize;

// struct page_desc {offset, size, flags, page_flags}, and the flags, which `status` has too.
constexpr std::size_t kDescriptorBytes = 24;
constexpr std::uint32_t kZlib = 1, kLzo = 2, kSnappy = 4, kZstd = 0x20;

constexpr std::size_t kRankWords = 8;  // pages are counted up to every 512th

struct Layout {
    std::uint64_t pages = 0;                        // one more than the number of the last one
    std::uint64_t bitmap_at = 0, bitmap_bytes = 0;  // of each of the two
    std::uint64_t descriptors_at = 0;
    std::vector<std::byte> notes;
};

Result<Layout> read_headers(const ImageFile& file) {
    const auto header = TRY(file.copy(0, kHeaderBytes, "the kdump header"));
    const auto field = [&](std::size_t at) {
        return load_le<std::uint32_t>(header, at).value_or(0);
    };
    if (!as_text(header).starts_with("KDUMP   ")) {
        return fail(Code::unsupported,
                    "a flattened dump that is not kdump-compressed; put it in "
                    "order with makedumpfile -R first");
    }
    const auto sub = TRY(file.copy(kBlock, kSubHeaderBytes, "the kdump sub-header"));
    std::string_view machine = as_text(Bytes(header).subspan(kMachineAt, kMachineBytes));
    machine = machine.substr(0, machine.find('\0'));
    if (field(kBlockSizeAt) != kBlock || (!machine.empty() && machine != "x86_64")) {
        return fail(Code::unsupported,
                    fmt::format("a kdump image of machine '{}' with pages of {} bytes; only x86_64 "
                                "is read",
                                machine, field(kBlockSizeAt)));
    }
    const std::uint32_t version = field(kVersionAt);
    if (version < 1 || version > kNewestVersion) {
        return fail(Code::unsupported, fmt::format("a kdump header of version {}; 1 to {} are read",
                                                   version, kNewestVersion));
    }
    if ((field(kStatusAt) & kZstd) != 0) {
        return fail(Code::unsupported,
                    "a kdump image compressed with zstd; write it with "
                    "makedumpfile -c, -l or -p");
    }
    if (version >= 2 && load_le<std::uint32_t>(sub, kSplitAt) != 0u) {
        return fail(Code::unsupported,
                    "one part of a split kdump image; join the parts with "
                    "makedumpfile --reassemble first");
    }
    Layout layout;
    layout.pages =
        version >= 6 ? load_le<std::uint64_t>(sub, kMaxPage64At).value_or(0) : field(kMaxPageAt);
    if (layout.pages > limits::kMaxDumpPages) {
        return fail(Code::limit, fmt::format("a kdump image of {:#x} pages; at most {:#x} are read",
                                             layout.pages, limits::kMaxDumpPages));
    }
    layout.bitmap_at = kBlock * (1 + std::uint64_t{field(kSubHeaderBlocksAt)});
    layout.bitmap_bytes = kBlock * field(kBitmapBlocksAt) / 2;
    layout.descriptors_at = layout.bitmap_at + kBlock * field(kBitmapBlocksAt);
    if (layout.pages > layout.bitmap_bytes * 8) {
        return fail(Code::malformed,
                    fmt::format("a kdump image of {:#x} pages whose bitmaps have {:#x} bytes each",
                                layout.pages, layout.bitmap_bytes));
    }
    if (version >= 4) {
        layout.notes = file.notes(load_le<std::uint64_t>(sub, kNotesAt).value_or(0),
                                  load_le<std::uint64_t>(sub, kNotesSizeAt).value_or(0));
    }
    return layout;
}

// Runs of ones in a row of words become ranges of pages.
class Runs {
  public:
    Result<void> add(std::uint64_t first_page, std::uint64_t word) {
        for (unsigned bit = 0; bit < 64;) {
            const bool set = (word >> bit & 1) != 0;
            const std::uint64_t rest = set ? ~(word >> bit) : word >> bit;
            const unsigned length =
                std::min(64 - bit, static_cast<unsigned>(std::countr_zero(rest)));
            if (set) TRY(extend(first_page + bit, length));
            bit += length;
        }
        return {};
    }
    std::vector<RamSlice> take() { return std::move(ranges_); }

  private:
    Result<void> extend(std::uint64_t page, std::uint64_t count) {
        const GuestPhys begin{page * kBlock};
        if (!ranges_.empty() && ranges_.back().begin + ranges_.back().size_bytes == begin) {
            ranges_.back().size_bytes += count * kBlock;
            return {};
        }
        if (ranges_.size() >= limits::kMaxImageRanges) {
            return fail(Code::limit,
                        fmt::format("the image has more than {} ranges", limits::kMaxImageRanges));
        }
        ranges_.push_back({begin, count * kBlock, 0, 0});
        return {};
    }

    std::vector<RamSlice> ranges_;
};

// Which pages the dump holds, and how many of them lie before each.
class HeldPages {
  public:
    void add(std::uint64_t word) {
        if (words_.size() % kRankWords == 0) ranks_.push_back(count_);
        words_.push_back(word);
        count_ += static_cast<std::uint32_t>(std::popcount(word));
    }
    std::uint64_t count() const { return count_; }
    bool has(std::uint64_t page) const {
        return page / 64 < words_.size() && (words_[page / 64] >> (page % 64) & 1) != 0;
    }
    std::uint64_t before(std::uint64_t page) const {
        const std::uint64_t word = page / 64;
        std::uint64_t count = ranks_[word / kRankWords];
        for (std::uint64_t i = word - word % kRankWords; i < word; ++i) {
            count += static_cast<unsigned>(std::popcount(words_[i]));
        }
        const std::uint64_t below = (1ull << (page % 64)) - 1;
        return count + static_cast<unsigned>(std::popcount(words_[word] & below));
    }

  private:
    std::vector<std::uint64_t> words_;
    std::vector<std::uint32_t> ranks_;
    std::uint32_t count_ = 0;
};

struct Pages {
    std::vector<RamSlice> ranges;
    HeldPages held;
};

Result<Pages> read_bitmaps(const ImageFile& file, const Layout& layout) {
    constexpr std::uint64_t kPart = 1u << 20;
    Pages pages;
    Runs runs;
    const std::uint64_t bytes = (layout.pages + 7) / 8;
    for (std::uint64_t at = 0; at < bytes; at += kPart) {
        const std::uint64_t size = std::min(kPart, bytes - at);
        auto known = TRY(file.copy(layout.bitmap_at + at, size, "the bitmap of pages"));
        auto held = TRY(file.copy(layout.bitmap_at + layout.bitmap_bytes + at, size,
                                  "the bitmap of dumped pages"));
        known.resize((size + 7) / 8 * 8);
        held.resize(known.size());
        for (std::size_t word = 0; word < known.size(); word += 8) {
            const std::uint64_t first = (at + word) * 8;
            const std::uint64_t inside =
                layout.pages - first >= 64 ? ~0ull : (1ull << (layout.pages - first)) - 1;
            const std::uint64_t dumped = load_le<std::uint64_t>(held, word).value_or(0) & inside;
            pages.held.add(dumped);
            TRY(runs.add(first,
                         (load_le<std::uint64_t>(known, word).value_or(0) & inside) | dumped));
        }
    }
    pages.ranges = TRY(validate_layout(runs.take()));
    return pages;
}

// Pages lie in the order of their descriptors: what is cut off shows in the last of them. Looked at
// when opening, so that a copy that broke off is not taken for memory with odd holes.
Result<void> check_end(const ImageFile& file, const Layout& layout, std::uint64_t count) {
    constexpr std::uint64_t kLast = 4096;
    const std::uint64_t size = count * kDescriptorBytes;
    const std::uint64_t part = std::min(count, kLast) * kDescriptorBytes;
    const auto table =
        TRY(file.copy(layout.descriptors_at + size - part, part, "the page descriptors"));
    for (std::size_t at = 0; at < table.size(); at += kDescriptorBytes) {
        const auto offset = load_le<std::uint64_t>(table, at).value_or(0);
        const auto bytes = load_le<std::uint32_t>(table, at + 8).value_or(0);
        if (offset <= file.size() && bytes <= file.size() - offset) continue;
        return fail(Code::malformed,
                    fmt::format("the image is truncated: a page of {} bytes lies at offset {:#x}, "
                                "but the file has only {:#x} bytes. Copy it again",
                                bytes, offset, file.size()));
    }
    return {};
}

class KdumpMemory final : public BlockMemory {
  public:
    KdumpMemory(ImageFile file, Layout layout, Pages pages, std::string description)
        : BlockMemory(pages.ranges, kPageSize, /*slots=*/1024, std::move(description)),
          file_(std::move(file)),
          descriptors_at_(layout.descriptors_at),
          held_(std::move(pages.held)),
          notes_(std::move(layout.notes)) {}

    Bytes notes() const override { return notes_; }

  private:
    ReadStatus locate(GuestPhys at, Block& block) override {
        const std::uint64_t page = at.value / kPageSize;
        if (held_.has(page)) {
            block = {GuestPhys{page * kPageSize}, kPageSize, page};
            return ReadStatus::ok;
        }
        const auto next = std::ranges::upper_bound(regions(), at, {}, &RamRegion::begin);
        const bool known = next != regions().begin() && at < (next - 1)->end();
        return known ? ReadStatus::hole : ReadStatus::outside;
    }

    Result<void> decode(const Block& block, MutableBytes into) override {
        const std::uint64_t at = descriptors_at_ + kDescriptorBytes * held_.before(block.number);
        return decode_at(at, into).context(
            fmt::format("guest page {:#x}, descriptor at offset {:#x}", block.begin.value, at));
    }

    Result<void> decode_at(std::uint64_t at, MutableBytes into) const {
        std::array<std::byte, kDescriptorBytes> raw;
        TRY(file_.read(at, raw, "a page descriptor"));
        const auto offset = load_le<std::uint64_t>(raw, 0).value_or(0);
        const auto size = load_le<std::uint32_t>(raw, 8).value_or(0);
        const auto flags = load_le<std::uint32_t>(raw, 12).value_or(0);
        std::array<std::byte, kPageSize> stored;
        if (size == 0 || size > stored.size()) {
            return fail(Code::malformed, fmt::format("a page of {} bytes", size));
        }
        const auto bytes = std::span(stored).first(size);
        TRY(file_.read(offset, bytes, "a page"));
        switch (flags) {
            case 0:
                if (size != kPageSize) break;
                std::ranges::copy(bytes, into.begin());
                return {};
            case kZlib:
                return uncompress_zlib(bytes, into);
            case kLzo:
                return uncompress_lzo(bytes, into);
            case kSnappy:
                return uncompress_snappy(bytes, into);
            default:
                break;
        }
        return fail(Code::malformed,
                    fmt::format("a page of {} bytes with flags {:#x}", size, flags));
    }

    ImageFile file_;
    std::uint64_t descriptors_at_;
    HeldPages held_;
    std::vector<std::byte> notes_;
};

}  // namespace

Result<std::unique_ptr<GuestMemory>> open_kdump(ImageFile file, const std::string& name) {
    Layout layout = TRY(read_headers(file));
    Pages pages = TRY(read_bitmaps(file, layout));
    const std::uint64_t table_bytes = pages.held.count() * kDescriptorBytes;
    if (layout.descriptors_at > file.size() || table_bytes > file.size() - layout.descriptors_at) {
        return fail(Code::malformed,
                    fmt::format("the image is truncated: {} page descriptors from offset {:#x} on "
                                "reach beyond its {:#x} bytes. Copy it again",
                                pages.held.count(), layout.descriptors_at, file.size()));
    }
    TRY(check_end(file, layout, pages.held.count()));
    return std::unique_ptr<GuestMemory>(std::make_unique<KdumpMemory>(
        std::move(file), std::move(layout), std::move(pages), name + " (kdump-compressed)"));
}

}  // namespace underseer::guest_memory
