// Programs of the operator's own that policy has started about a finding: for tickets, calls,
// quarantine. The event is their standard input; how they end, and what they say, is logged.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"

namespace underseer::agent {

class HookPrograms {
  public:
    // What it said (its first line, bounded), or why it was not done: it could not be started,
    // ended with another status than 0, or took too long and was ended.
    using Done = std::function<void(const Result<std::string>& result)>;

    static constexpr std::size_t kMaxRunning = 8;
    static constexpr std::chrono::milliseconds kLongest{60'000};

    // `loop` must outlive this. `longest`: how long one may take.
    explicit HookPrograms(EventLoop* loop, std::chrono::milliseconds longest = kLongest);
    HookPrograms(const HookPrograms&) = delete;
    ~HookPrograms();  // ends those that run

    // Starts `path` with `input` on its standard input, PATH alone in its environment, and / as its
    // folder. `done` is called once, by the loop, after this has returned.
    void run(const std::string& path, const std::string& input, Done done);
    // Those that run are ended, and whoever waits for them is told, at once.
    void stop(const Error& why);

  private:
    struct Program;
    void finish(std::uint64_t id);

    EventLoop* loop_;
    std::chrono::milliseconds longest_;
    std::uint64_t next_ = 1;
    std::map<std::uint64_t, std::unique_ptr<Program>> running_;
};

}  // namespace underseer::agent
