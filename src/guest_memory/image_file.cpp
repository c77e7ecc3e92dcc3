#include "guest_memory/image_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/interval_map.h"
#include "base/limits.h"
#include "base/os.h"
#include "guest_memory/sliced_memory.h"

namespace underseer::guest_memory {

namespace {
// makedumpfile.h of makedumpfile 1.7.2 (struct makedumpfile_header, makedumpfile_data_header), and
// dump/dump.c of QEMU 7.2: a header of 4096 bytes, then {offset, size} and the bytes of each piece;
// -1, -1 ends it. Numbers are big-endian.
constexpr std::uint64_t kFlatHeaderBytes = 4096, kPieceHeaderBytes = 16, kEnd = ~0ull;
constexpr std::uint64_t kMaxOffset = 1ull << 62;

std::uint64_t load_be64(Bytes bytes, std::size_t offset) {
    return __builtin_bswap64(load_le<std::uint64_t>(bytes, offset).value_or(0));
}
}  // namespace

Result<ImageFile> ImageFile::open_flattened(int fd, std::uint64_t file_bytes) {
    const ImageFile flat(fd, file_bytes);
    const auto header = TRY(flat.copy(0, kFlatHeaderBytes, "the flattened dump's header"));
    if (load_be64(header, 16) != 1 || load_be64(header, 24) != 1) {
        return fail(Code::unsupported,
                    fmt::format("a flattened dump of type {} and version {}; known is 1, 1",
                                load_be64(header, 16), load_be64(header, 24)));
    }
    // A later piece overwrites an earlier one. The value is what to add for the file's offset.
    IntervalMap<std::uint64_t> map;
    std::size_t count = 0;
    for (std::uint64_t at = kFlatHeaderBytes;;) {
        std::array<std::byte, kPieceHeaderBytes> raw;
        TRY(flat.read(at, raw, "the header of a piece of a flattened dump"));
        const std::uint64_t begin = load_be64(raw, 0), size = load_be64(raw, 8);
        if (begin == kEnd && size == kEnd) break;
        at += kPieceHeaderBytes;
        if (begin > kMaxOffset || size > kMaxOffset) {
            return fail(Code::malformed,
                        fmt::format("a piece of a flattened dump at offset {:#x} says that it "
                                    "belongs at {:#x} and has {:#x} bytes",
                                    at - kPieceHeaderBytes, begin, size));
        }
        if (size > file_bytes - at) {
            return fail(Code::malformed,
                        fmt::format("the image is truncated: a piece of {:#x} bytes at offset "
                                    "{:#x} reaches beyond its end. Copy it again",
                                    size, at));
        }
        if (++count > limits::kMaxFlattenedPieces) {
            return fail(Code::limit, fmt::format("the dump has more than {} pieces; put it in "
                                                 "order with makedumpfile -R first",
                                                 limits::kMaxFlattenedPieces));
        }
        map.assign(begin, begin + size, at - begin);
        at += size;
    }
    auto pieces = std::make_shared<std::vector<Piece>>();
    pieces->reserve(map.size());
    map.for_each([&](std::uint64_t begin, std::uint64_t end, std::uint64_t add) {
        pieces->push_back({begin, end, begin + add});
    });
    ImageFile file(fd, pieces->empty() ? 0 : pieces->back().end);
    file.pieces_ = std::move(pieces);
    return file;
}

Result<void> ImageFile::check(std::uint64_t offset, std::uint64_t size,
                              std::string_view what) const {
    if (offset <= size_ && size <= size_ - offset) return {};
    return fail(Code::malformed,
                fmt::format("the file ends inside {} at offset {:#x}: {} of {} bytes are there",
                            what, offset, offset > size_ ? 0 : size_ - offset, size));
}

Result<void> ImageFile::read(std::uint64_t offset, MutableBytes into, std::string_view what) const {
    TRY(check(offset, into.size(), what));
    if (!pieces_) return read_plain(offset, into, what);
    auto piece = std::ranges::upper_bound(*pieces_, offset, {}, &Piece::end);
    while (!into.empty()) {
        const std::uint64_t begin = piece == pieces_->end() ? ~0ull : piece->begin;
        const bool hole = offset < begin;
        const std::uint64_t end = hole ? begin : piece->end;
        const MutableBytes part = into.first(std::min<std::uint64_t>(into.size(), end - offset));
        if (hole) {
            std::ranges::fill(part, std::byte{0});
        } else {
            TRY(read_plain(piece->file_offset + (offset - piece->begin), part, what));
            ++piece;
        }
        into = into.subspan(part.size());
        offset += part.size();
    }
    return {};
}

Result<void> ImageFile::read_plain(std::uint64_t offset, MutableBytes into,
                                   std::string_view what) const {
    while (!into.empty()) {
        const MutableBytes part = into.first(std::min(into.size(), kMaxReadBytes));
        const std::size_t got = TRY(read_at(fd_, part, offset).context(what));
        if (got != part.size()) {
            return fail(Code::os, fmt::format("the file became shorter while it was read: {} at "
                                              "offset {:#x}",
                                              what, offset));
        }
        into = into.subspan(got);
        offset += got;
    }
    return {};
}

std::vector<std::byte> ImageFile::notes(std::uint64_t offset, std::uint64_t size) const {
    if (size > limits::kMaxNoteBytes) return {};
    return copy(offset, size, "the notes").value_or(std::vector<std::byte>());
}

Result<std::vector<std::byte>> ImageFile::copy(std::uint64_t offset, std::size_t size,
                                               std::string_view what) const {
    TRY(check(offset, size, what));  // before anything is allocated
    std::vector<std::byte> bytes(size);
    TRY(read(offset, bytes, what));
    return bytes;
}

}  // namespace underseer::guest_memory
