// Pages as they once were, kept small: a look compares hashes, and the bytes, which only a
// difference asks for, are compressed.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"

namespace underseer::guest_linux {

using PageBytes = std::span<const std::byte, kPageSize>;

class PageStore {
  public:
    explicit PageStore(std::size_t pages) : hashes_(pages) {}

    std::size_t size() const { return hashes_.size(); }
    bool has(std::size_t page) const { return hashes_[page].has_value(); }
    // A page that there was none of.
    void keep(std::size_t page, PageBytes bytes);
    // Of a page that there is. Who writes other bytes that seem to be the same has guessed a secret
    // of this process: 1 in 2^64.
    bool is_same(std::size_t page, PageBytes bytes) const;
    // Of a page that there is; until the next call of bytes() or keep().
    PageBytes bytes(std::size_t page);
    // All is compressed, from now until then.
    void close();

  private:
    using Hash = std::array<std::uint64_t, 2>;
    std::byte* open(std::size_t page);

    std::vector<std::optional<Hash>> hashes_;
    std::vector<std::vector<std::byte>> blocks_;  // of some pages each, compressed
    std::vector<std::byte> raw_;                  // the one that is open; empty: none
    std::size_t opened_ = 0;
    bool is_changed_ = false;
};

}  // namespace underseer::guest_linux
