// Moments of watches, for people.
#pragma once

#include <chrono>
#include <string>

namespace underseer::detect {

// The time of day of a moment that was seen; `wall_now` is that of `now`.
inline std::chrono::system_clock::time_point wall_of(std::chrono::steady_clock::time_point when,
                                                     std::chrono::system_clock::time_point wall_now,
                                                     std::chrono::steady_clock::time_point now) {
    return wall_now - std::chrono::duration_cast<std::chrono::system_clock::duration>(now - when);
}
// "2026-05-17 12:00:00.008", in UTC.
std::string time_text(std::chrono::system_clock::time_point when);
// "8.0 ms"
std::string ms_text(std::chrono::nanoseconds time);

}  // namespace underseer::detect
