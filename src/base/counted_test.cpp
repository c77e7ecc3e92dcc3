#include "base/counted.h"

#include <gtest/gtest.h>

namespace underseer {
namespace {

TEST(Counted, only_one_is_one) {
    EXPECT_EQ(counted(0, "finding"), "0 findings");
    EXPECT_EQ(counted(1, "finding"), "1 finding");
    EXPECT_EQ(counted(2, "finding"), "2 findings");
    EXPECT_EQ(counted(1, "entry", "entries"), "1 entry");
    EXPECT_EQ(counted(21, "entry", "entries"), "21 entries");
}

}  // namespace
}  // namespace underseer
