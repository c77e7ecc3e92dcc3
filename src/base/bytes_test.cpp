#include "base/bytes.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <span>
#include <vector>

namespace underseer {
namespace {

TEST(ByteCursor, a_read_past_the_end_fails_and_leaves_the_cursor_alone) {
    const std::byte raw[3] = {std::byte{1}, std::byte{2}, std::byte{3}};
    ByteCursor cursor{Bytes(raw)};
    ASSERT_EQ(cursor.read<std::uint16_t>().value(), 0x0201);
    EXPECT_EQ(cursor.read<std::uint32_t>().error().code, Code::malformed);
    EXPECT_EQ(cursor.position(), 2u);
    EXPECT_EQ(cursor.read<std::uint8_t>().value(), 3);
    EXPECT_TRUE(cursor.at_end());
}

// Whatever is asked of it: the cursor gives exactly the bytes at its position, moves by what it
// gave, and stays where it was when it cannot.
RC_GTEST_PROP(ByteCursor, never_leaves_its_bytes, (const std::vector<std::uint8_t>& input)) {
    const Bytes bytes = std::as_bytes(std::span(input));
    ByteCursor cursor(bytes);
    std::size_t expected = 0;
    for (const auto& [what, amount] : *rc::gen::container<std::vector<std::pair<int, unsigned>>>(
             rc::gen::pair(rc::gen::inRange(0, 5), rc::gen::inRange(0u, 12u)))) {
        const std::size_t left = bytes.size() - expected;
        switch (what) {
            case 0: {
                const auto value = cursor.read<std::uint16_t>();
                RC_ASSERT(value.has_value() == (left >= 2));
                if (!value.has_value()) break;
                RC_ASSERT(*value == (input[expected] | input[expected + 1] << 8));
                expected += 2;
                break;
            }
            case 1: {
                const auto some = cursor.read_bytes(amount);
                RC_ASSERT(some.has_value() == (left >= amount));
                if (!some.has_value()) break;
                RC_ASSERT(some->size() == amount);
                RC_ASSERT(some->data() == bytes.data() + expected);
                expected += amount;
                break;
            }
            case 2: {
                const bool skipped = cursor.skip(amount).has_value();
                RC_ASSERT(skipped == (left >= amount));
                if (skipped) expected += amount;
                break;
            }
            case 3: {
                const bool moved = cursor.seek(amount).has_value();
                RC_ASSERT(moved == (amount <= bytes.size()));
                if (moved) expected = amount;
                break;
            }
            default: {
                const auto text = cursor.read_cstring();
                const auto rest = bytes.subspan(expected);
                const auto nul = std::ranges::find(rest, std::byte{0});
                RC_ASSERT(text.has_value() == (nul != rest.end()));
                if (!text.has_value()) break;
                RC_ASSERT(text->size() == static_cast<std::size_t>(nul - rest.begin()));
                expected += text->size() + 1;
            }
        }
        RC_ASSERT(cursor.position() == expected);
        RC_ASSERT(cursor.remaining() == bytes.size() - expected);
    }
}

RC_GTEST_PROP(ByteCursor, load_le_is_bounded_by_its_bytes,
              (const std::vector<std::uint8_t>& input, std::size_t offset)) {
    const Bytes bytes = std::as_bytes(std::span(input));
    const auto value = load_le<std::uint32_t>(bytes, offset);
    RC_ASSERT(value.has_value() == (bytes.size() >= 4 && offset <= bytes.size() - 4));
}

}  // namespace
}  // namespace underseer
