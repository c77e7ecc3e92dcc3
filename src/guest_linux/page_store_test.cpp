#include "guest_linux/page_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>

namespace underseer::guest_linux {
namespace {

using Bytes4K = std::array<std::byte, kPageSize>;

Bytes4K page_of(unsigned seed) {
    std::minstd_rand random(seed + 1);
    Bytes4K bytes;
    std::ranges::generate(bytes, [&] { return static_cast<std::byte>(random() % 7); });
    return bytes;
}

TEST(PageStore, gives_each_page_back_in_any_order) {
    PageStore store(100);
    for (unsigned i = 0; i < 100; i += 3) store.keep(i, page_of(i));
    for (unsigned i = 1; i < 100; i += 3) store.keep(i, page_of(i));  // into blocks that are closed
    for (unsigned i = 0; i < 100; ++i) {
        if (i % 3 == 2) continue;
        ASSERT_TRUE(store.hash(i));
        EXPECT_TRUE(std::ranges::equal(store.bytes(i), page_of(i))) << i;
        EXPECT_EQ(store.hash(i), page_hash(page_of(i)));
    }
    EXPECT_FALSE(store.hash(2));
}

TEST(PageHash, differs_with_each_bit) {
    const Bytes4K kept = page_of(0);
    for (std::size_t bit = 0; bit < 8 * kPageSize; bit += 61) {
        Bytes4K other = kept;
        other[bit / 8] ^= std::byte{1} << (bit % 8);
        EXPECT_NE(page_hash(other), page_hash(kept)) << bit;
    }
}

}  // namespace
}  // namespace underseer::guest_linux
