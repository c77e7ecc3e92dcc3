// What takes over a second shows how far it is.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace underseer::cli {

// One line on standard error, drawn again ten times a second; nothing when that is no terminal.
class ProgressBar {
  public:
    ProgressBar();
    ~ProgressBar();
    ProgressBar(const ProgressBar&) = delete;

    // `text` stands beside the bar.
    void show(std::uint64_t done, std::uint64_t all, const std::string& text);
    double seconds() const;  // since it began

  private:
    using Clock = std::chrono::steady_clock;
    bool shown_, drawn_ = false;
    Clock::time_point start_ = Clock::now(), latest_;
};

}  // namespace underseer::cli
