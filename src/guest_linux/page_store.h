// Pages as they once were, kept small: a look compares hashes, and the bytes, which only a
// difference asks for, are compressed.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

using PageBytes = std::span<const std::byte, kPageSize>;

// Who wants other bytes to have the same has to guess a secret of this process: 1 in 2^32, and a
// wrong guess is an alteration that is seen.
std::uint64_t page_hash(PageBytes bytes);

// What lies in a stretch of the kernel's memory at one moment.
struct PageHashes {
    GuestVirt begin;  // of a page
    std::uint64_t size_bytes = 0;
    std::vector<std::optional<std::uint64_t>> of;  // by page; nothing: it cannot be read

    std::size_t bytes_of(std::size_t page) const;  // the last one may be cut
};
PageHashes hash_pages(Kernel& kernel, GuestVirt begin, std::uint64_t size_bytes);

class PageStore {
  public:
    explicit PageStore(std::size_t pages) : hashes_(pages) {}

    std::size_t size() const { return hashes_.size(); }
    // Nothing: there is no such page yet.
    const std::optional<std::uint64_t>& hash(std::size_t page) const { return hashes_[page]; }
    // A page that there was none of.
    void keep(std::size_t page, PageBytes bytes);
    // Of a page that there is; until the next call of bytes(), keep() or close().
    PageBytes bytes(std::size_t page);
    // To be called when no more is asked for the time being: all is compressed then.
    void close();

  private:
    std::byte* open(std::size_t page);

    std::vector<std::optional<std::uint64_t>> hashes_;
    std::vector<std::vector<std::byte>> blocks_;  // of some pages each, compressed
    std::vector<std::byte> raw_;                  // the one that is open; empty: none
    std::size_t opened_ = 0;
    bool is_changed_ = false;
};

}  // namespace underseer::guest_linux
