#include "guest_linux/page_store.h"

#include <gtest/gtest.h>

#include <algorithm>
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
        ASSERT_TRUE(store.has(i));
        EXPECT_TRUE(std::ranges::equal(store.bytes(i), page_of(i))) << i;
        EXPECT_TRUE(store.is_same(i, page_of(i)));
    }
    EXPECT_FALSE(store.has(2));
}

TEST(PageStore, sees_each_bit_that_differs) {
    PageStore store(1);
    const Bytes4K kept = page_of(0);
    store.keep(0, kept);
    for (std::size_t bit = 0; bit < 8 * kPageSize; bit += 61) {
        Bytes4K other = kept;
        other[bit / 8] ^= std::byte{1} << (bit % 8);
        EXPECT_FALSE(store.is_same(0, other)) << bit;
    }
}

}  // namespace
}  // namespace underseer::guest_linux
