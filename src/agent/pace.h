// How often something is looked at, within its share of a core.
#pragma once

#include <time.h>

#include <algorithm>
#include <chrono>

namespace underseer::agent {

// When to look again: each period, or less often where the share of a core is used up.
class Pace {
  public:
    // `share` of a core: not 0.
    Pace(std::chrono::nanoseconds period, double share)
        : period_(period), share_(share), due_(Clock::now()), paid_(cpu_time()) {}

    void wait(bool suspicion = false) {
        const bool hurries = suspicion && hurried_ < kSuspicionLasts;
        if (hurries) hurried_ += kHurriedPeriod;
        // What a look costs is averaged over a few: the clock has its own grain.
        if (++looks_ == kAverageOf) {
            const nanoseconds now = cpu_time();
            const double cost = static_cast<double>((now - paid_).count()) / kAverageOf;
            afforded_ = nanoseconds(static_cast<std::int64_t>(cost / share_));
            paid_ = now;
            looks_ = 0;
        }
        const nanoseconds step =
            hurries ? std::min(period_, kHurriedPeriod) : std::max(period_, afforded_);
        due_ = std::max(due_ + step, Clock::now());
        const nanoseconds rest = due_ - Clock::now();
        if (rest > nanoseconds(0)) sleep(rest);
    }

    // Until a time, and not for one: what the kernel restarts when the worker was stopped is then
    // the same system call, and not one that the jail forbids.
    static void sleep(std::chrono::nanoseconds time) {
        const auto until = (std::chrono::steady_clock::now() + time).time_since_epoch().count();
        const timespec spec{until / 1'000'000'000, until % 1'000'000'000};
        ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &spec, nullptr);
    }

  private:
    using Clock = std::chrono::steady_clock;
    using nanoseconds = std::chrono::nanoseconds;
    static constexpr unsigned kAverageOf = 16;
    // On suspicion, so often, whatever it costs; in one watch at most so long.
    static constexpr nanoseconds kHurriedPeriod{1'000'000};
    static constexpr std::chrono::milliseconds kSuspicionLasts{2'000};

    static nanoseconds cpu_time() {
        timespec now{};
        ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
        return std::chrono::seconds(now.tv_sec) + nanoseconds(now.tv_nsec);
    }

    nanoseconds period_, afforded_{0}, hurried_{0};
    double share_;
    Clock::time_point due_;
    nanoseconds paid_;
    unsigned looks_ = 0;
};

}  // namespace underseer::agent
