#include "jail/channel.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"

namespace underseer::jail {
namespace {

class ChannelPair : public testing::Test {
  protected:
    ChannelPair() : ends_(Channel::pair().value()), near(ends_.first), far(ends_.second) {}
    void raw(std::string_view bytes) {
        ASSERT_EQ(::send(far.fd(), bytes.data(), bytes.size(), 0),
                  static_cast<ssize_t>(bytes.size()));
    }

  private:
    std::pair<Channel, Channel> ends_;

  protected:
    Channel& near;
    Channel& far;
};

TEST(Channel, frames_come_back_whole_and_in_order) {
    auto [left, right] = Channel::pair().value();
    ASSERT_TRUE(left.send("one").has_value());
    ASSERT_TRUE(left.send("").has_value());
    ASSERT_TRUE(left.send(std::string(100'000, 'x')).has_value());
    EXPECT_EQ(right.receive().value(), "one");
    EXPECT_EQ(right.receive().value(), "");
    EXPECT_EQ(right.receive().value().size(), 100'000u);
    {
        Channel gone(std::move(left));
    }
    EXPECT_EQ(right.receive().error().code, Code::not_found);
}

TEST(Channel, a_length_beyond_the_bound_is_refused) {
    auto [left, right] = Channel::pair().value();
    ASSERT_EQ(::write(left.fd(), "\xff\xff\xff\x7f", 4), 4);
    EXPECT_EQ(right.receive().error().code, Code::malformed);
}

TEST(Channel, a_frame_cut_off_is_refused) {
    auto [left, right] = Channel::pair().value();
    ASSERT_EQ(::write(left.fd(), "\x08\0\0\0abc", 7), 7);
    {
        Channel gone(std::move(left));
    }
    EXPECT_EQ(right.receive().error().code, Code::malformed);
}

TEST_F(ChannelPair, without_waiting_a_frame_comes_when_it_is_whole) {
    EXPECT_TRUE(near.fill().value());
    EXPECT_FALSE(near.next().value().has_value());
    raw(std::string_view("\x03\0\0", 3));
    EXPECT_TRUE(near.fill().value());
    EXPECT_FALSE(near.next().value().has_value());
    raw(std::string_view("\0ab", 3));
    EXPECT_TRUE(near.fill().value());
    EXPECT_FALSE(near.next().value().has_value());
    raw(std::string_view("c\x01\0\0\0z", 6));
    EXPECT_TRUE(near.fill().value());
    EXPECT_EQ(near.next().value(), "abc");
    EXPECT_EQ(near.next().value(), "z");
    EXPECT_FALSE(near.next().value().has_value());
}

TEST_F(ChannelPair, a_length_beyond_the_bound_is_refused_before_anything_is_kept) {
    raw(std::string_view("\xff\xff\xff\xff", 4));
    EXPECT_TRUE(near.fill().value());
    EXPECT_EQ(near.next().error().code, Code::malformed);
}

TEST_F(ChannelPair, the_end_of_the_other_side_is_told) {
    ASSERT_TRUE(far.send("last").has_value());
    far = Channel(Fd());
    EXPECT_FALSE(near.fill().value());
    EXPECT_EQ(near.next().value(), "last");
}

TEST_F(ChannelPair, what_cannot_be_sent_yet_is_kept_and_bounded) {
    const std::string frame(limits::kMaxFrameBytes, 'x');
    ASSERT_TRUE(near.post(frame).has_value());
    EXPECT_TRUE(near.has_unsent());
    // The reader takes in one frame's worth; the writer may then go on.
    std::optional<std::string> got;
    while (!got) {
        ASSERT_TRUE(near.flush().has_value());
        ASSERT_TRUE(far.fill().value());
        got = far.next().value();
    }
    EXPECT_EQ(*got, frame);
    EXPECT_FALSE(near.has_unsent());
    Result<void> last;
    for (std::size_t i = 0; i < Channel::kMaxQueuedBytes / frame.size() + 2; ++i) {
        last = near.post(frame);
        if (!last.has_value()) break;
    }
    ASSERT_FALSE(last.has_value());
    EXPECT_EQ(last.error().code, Code::limit);
}

TEST_F(ChannelPair, writing_to_a_closed_end_is_an_error_and_no_signal) {
    far = Channel(Fd());
    EXPECT_FALSE(near.post("x").has_value());
}

}  // namespace
}  // namespace underseer::jail
