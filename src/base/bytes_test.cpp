#include "base/bytes.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace underseer
