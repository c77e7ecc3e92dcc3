// EventLoop: one thread that waits for file descriptors, signals and moments in time, and calls
// what was registered for them. BoundedQueue: what waits between two that do not keep the same
// pace.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/os.h"

namespace underseer {

class EventLoop {
  public:
    using Handler = std::function<void()>;
    using Instant = std::chrono::steady_clock::time_point;
    // Names one timer; 0 names none.
    using Timer = std::uint64_t;

    static Result<EventLoop> make();

    // Calls `ready` whenever `fd` can be read without blocking (its end and its errors count). The
    // fd stays the caller's, who must unwatch() it before closing it.
    void watch(int fd, Handler ready);
    // The same for writing; independent of watch().
    void watch_writable(int fd, Handler ready);
    void unwatch_writable(int fd);
    void unwatch(int fd);  // both

    // Blocks `signals` for this thread and calls `arrived(signal)` for each. Once per loop.
    Result<void> watch_signals(std::initializer_list<int> signals,
                               std::function<void(int)> arrived);

    Timer at(Instant when, Handler expired);
    Timer after(std::chrono::milliseconds delay, Handler expired);
    void cancel(Timer timer);

    // Runs until stop(). A handler may watch, unwatch, set and cancel as it likes, itself included.
    Result<void> run();
    // One round: waits at most `longest` for something to do, does it.
    Result<void> run_once(std::chrono::milliseconds longest);
    void stop() { stopped_ = true; }

  private:
    struct Watched {
        std::shared_ptr<Handler> readable, writable;
    };
    explicit EventLoop(Fd epoll) : epoll_(std::move(epoll)) {}
    Watched watched(int fd) const;
    void change(int fd, Watched wanted);
    void expire();
    int wait_ms(std::chrono::milliseconds longest) const;

    Fd epoll_;
    Fd signals_;
    std::unordered_map<int, Watched> watched_;
    std::map<std::pair<Instant, Timer>, Handler> timers_;
    std::unordered_map<Timer, Instant> due_;
    Timer next_timer_ = 1;
    bool stopped_ = false;
};

// First in, first out, at most `capacity` items. What does not fit is refused and counted: the
// producer's loss is known, and never the consumer's surprise. One thread.
template <typename T>
class BoundedQueue {
  public:
    explicit BoundedQueue(std::size_t capacity) : capacity_(capacity) {}

    // False when it is full; the item is counted as dropped.
    bool push(T item) {
        if (items_.size() >= capacity_) {
            ++dropped_;
            return false;
        }
        items_.push_back(std::move(item));
        return true;
    }
    std::optional<T> pop() {
        if (items_.empty()) return std::nullopt;
        std::optional<T> item(std::move(items_.front()));
        items_.pop_front();
        return item;
    }
    // How many were dropped since the last call.
    std::uint64_t take_dropped() { return std::exchange(dropped_, 0); }

    std::size_t size() const { return items_.size(); }
    bool empty() const { return items_.empty(); }

  private:
    std::size_t capacity_;
    std::deque<T> items_;
    std::uint64_t dropped_ = 0;
};

}  // namespace underseer
