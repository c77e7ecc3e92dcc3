#include "detect/moment_text.h"

#include <fmt/format.h>

namespace underseer::detect {

// By hand: the C library would look for the host's time zone, which a jail forbids.
std::string time_text(std::chrono::system_clock::time_point when) {
    const auto ms = std::chrono::floor<std::chrono::milliseconds>(when);
    const auto day = std::chrono::floor<std::chrono::days>(ms);
    const std::chrono::year_month_day date(day);
    const std::chrono::hh_mm_ss time(ms - day);
    return fmt::format("{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}", static_cast<int>(date.year()),
                       static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                       time.hours().count(), time.minutes().count(), time.seconds().count(),
                       time.subseconds().count());
}

std::string ms_text(std::chrono::nanoseconds time) {
    return fmt::format("{:.1f} ms", static_cast<double>(time.count()) / 1e6);
}

}  // namespace underseer::detect
