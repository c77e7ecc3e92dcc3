#include "base/event_loop.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <unistd.h>

#include <csignal>

namespace underseer {
namespace {

using namespace std::chrono_literals;

struct Pipe {
    Pipe() {
        int fds[2];
        CHECK(::pipe(fds) == 0);
        read = Fd(fds[0]);
        write = Fd(fds[1]);
    }
    void put() { CHECK(::write(write.get(), "x", 1) == 1); }
    void take() {
        char c = 0;
        CHECK(::read(read.get(), &c, 1) == 1);
    }
    Fd read, write;
};

TEST(EventLoop, calls_what_is_ready_and_nothing_else) {
    EventLoop loop = EventLoop::make().value();
    Pipe busy, quiet;
    int calls = 0;
    loop.watch(busy.read.get(), [&] {
        busy.take();
        ++calls;
    });
    loop.watch(quiet.read.get(), [&] { FAIL() << "nothing was written"; });
    busy.put();
    ASSERT_TRUE(loop.run_once(1s).has_value());
    ASSERT_TRUE(loop.run_once(0s).has_value());
    EXPECT_EQ(calls, 1);
}

TEST(EventLoop, a_handler_may_end_itself_and_others) {
    EventLoop loop = EventLoop::make().value();
    Pipe a, b;
    int calls = 0;
    const auto once = [&] {
        ++calls;
        loop.unwatch(a.read.get());
        loop.unwatch(b.read.get());
    };
    loop.watch(a.read.get(), once);
    loop.watch(b.read.get(), once);
    a.put();
    b.put();
    ASSERT_TRUE(loop.run_once(1s).has_value());
    ASSERT_TRUE(loop.run_once(0s).has_value());
    EXPECT_EQ(calls, 1);
}

TEST(EventLoop, a_closed_writer_is_an_event) {
    EventLoop loop = EventLoop::make().value();
    Pipe pipe;
    bool ended = false;
    loop.watch(pipe.read.get(), [&] { ended = true; });
    pipe.write.reset();
    ASSERT_TRUE(loop.run_once(1s).has_value());
    EXPECT_TRUE(ended);
}

TEST(EventLoop, writing_is_watched_apart_from_reading) {
    EventLoop loop = EventLoop::make().value();
    Pipe pipe;
    int writable = 0;
    loop.watch_writable(pipe.write.get(), [&] {
        ++writable;
        loop.unwatch_writable(pipe.write.get());
    });
    ASSERT_TRUE(loop.run_once(1s).has_value());
    ASSERT_TRUE(loop.run_once(0s).has_value());
    EXPECT_EQ(writable, 1);
}

TEST(EventLoop, timers_come_in_order_and_can_be_cancelled) {
    EventLoop loop = EventLoop::make().value();
    std::string order;
    const auto now = std::chrono::steady_clock::now();
    loop.at(now + 2ms, [&] { order += "b"; });
    loop.at(now + 1ms, [&] { order += "a"; });
    const auto never = loop.at(now + 3ms, [&] { order += "x"; });
    loop.at(now + 3ms, [&] { loop.stop(); });
    loop.cancel(never);
    ASSERT_TRUE(loop.run().has_value());
    EXPECT_EQ(order, "ab");
}

TEST(EventLoop, a_timer_that_sets_itself_again_does_not_starve_the_rest) {
    EventLoop loop = EventLoop::make().value();
    Pipe pipe;
    bool seen = false;
    std::function<void()> again = [&] { loop.after(0ms, again); };
    loop.after(0ms, again);
    loop.watch(pipe.read.get(), [&] {
        pipe.take();
        seen = true;
    });
    pipe.put();
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(loop.run_once(10ms).has_value());
    EXPECT_TRUE(seen);
}

TEST(EventLoop, signals_arrive_as_events) {
    EventLoop loop = EventLoop::make().value();
    int arrived = 0;
    ASSERT_TRUE(loop.watch_signals({SIGUSR1}, [&](int signal) { arrived = signal; }).has_value());
    ::raise(SIGUSR1);
    ASSERT_TRUE(loop.run_once(1s).has_value());
    EXPECT_EQ(arrived, SIGUSR1);
}

RC_GTEST_PROP(BoundedQueue, keeps_the_order_and_counts_what_it_refuses,
              (const std::vector<bool>& pushes)) {
    const auto capacity = *rc::gen::inRange<std::size_t>(0, 6);
    BoundedQueue<int> queue(capacity);
    std::deque<int> model;
    std::uint64_t refused = 0;
    int next = 0;
    for (const bool push : pushes) {
        if (push) {
            const bool fits = model.size() < capacity;
            RC_ASSERT(queue.push(next) == fits);
            if (fits) model.push_back(next);
            refused += fits ? 0 : 1;
            ++next;
        } else {
            const auto item = queue.pop();
            RC_ASSERT(item.has_value() == !model.empty());
            if (item) {
                RC_ASSERT(*item == model.front());
                model.pop_front();
            }
        }
        RC_ASSERT(queue.size() == model.size());
    }
    RC_ASSERT(queue.take_dropped() == refused);
    RC_ASSERT(queue.take_dropped() == 0u);
}

}  // namespace
}  // namespace underseer
