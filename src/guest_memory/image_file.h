// The bytes of an image file by offset, with every read checked against the file's size: a worker
// in its jail may not even try to read beyond it.
//
// A *flattened* dump (makedumpfile -F, QEMU's kdump formats without "raw") is a file written to a
// pipe: pieces, each with the offset where it belongs. Offsets here are those of the file it stands
// for; what no piece covers is zeros.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace underseer::guest_memory {

class ImageFile {
  public:
    // `fd` is borrowed.
    ImageFile(int fd, std::uint64_t file_bytes) : fd_(fd), size_(file_bytes) {}

    // Walks the pieces of a flattened dump once and keeps where each lies. TRUST: hostile bytes.
    static Result<ImageFile> open_flattened(int fd, std::uint64_t file_bytes);

    std::uint64_t size() const { return size_; }

    // All of `into`, or Code::malformed naming `what`, where, and how much there is.
    Result<void> read(std::uint64_t offset, MutableBytes into, std::string_view what) const;
    // The same as a copy. REQUIRES: `size` is bounded by the caller.
    Result<std::vector<std::byte>> copy(std::uint64_t offset, std::size_t size,
                                        std::string_view what) const;
    // The same of ELF notes, which an image is good without: empty when they are not all there or
    // longer than limits::kMaxNoteBytes.
    std::vector<std::byte> notes(std::uint64_t offset, std::uint64_t size) const;

  private:
    Result<void> check(std::uint64_t offset, std::uint64_t size, std::string_view what) const;

    Result<void> read_plain(std::uint64_t offset, MutableBytes into, std::string_view what) const;

    struct Piece {
        std::uint64_t begin = 0, end = 0;
        std::uint64_t file_offset = 0;
    };
    int fd_;
    std::uint64_t size_;
    std::shared_ptr<const std::vector<Piece>> pieces_;  // of a flattened dump; sorted, disjoint
};

}  // namespace underseer::guest_memory
