#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace underseer::cli {

ProgressBar::ProgressBar() : shown_(::isatty(STDERR_FILENO) != 0) {}

ProgressBar::~ProgressBar() {
    if (drawn_) fmt::print(stderr, "\r\x1b[K");
}

double ProgressBar::seconds() const {
    return std::chrono::duration<double>(Clock::now() - start_).count();
}

void ProgressBar::show(std::uint64_t done, std::uint64_t all, const std::string& text) {
    const Clock::time_point now = Clock::now();
    if (!shown_ || now - latest_ < std::chrono::milliseconds(100)) return;
    latest_ = now;
    constexpr std::uint64_t kWidth = 30;
    const std::uint64_t full = all == 0 ? kWidth : std::min(done, all) * kWidth / all;
    fmt::print(stderr, "\r\x1b[K[{:#<{}}{:.<{}}] {}", "", full, "", kWidth - full, text);
    std::fflush(stderr);
    drawn_ = true;
}

}  // namespace underseer::cli
