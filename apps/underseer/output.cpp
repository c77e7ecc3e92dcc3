#include "output.h"

#include <fmt/chrono.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>

namespace underseer::cli {

bool on_terminal() {
    return ::isatty(STDOUT_FILENO) != 0;
}

// https://no-color.org
bool with_colours() {
    const char* refused = std::getenv("NO_COLOR");
    return on_terminal() && (refused == nullptr || *refused == '\0');
}

std::size_t terminal_width() {
    winsize size{};
    if (!on_terminal() || ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) return 0;
    return size.ws_col;
}

std::size_t text_width() {
    const std::size_t width = terminal_width();
    return width == 0 ? 80 : std::clamp<std::size_t>(width, 40, 100);
}

void print(std::string_view text) {
    fmt::print("{}", text);
}

void print_table(const Table& table) {
    print(table.render(terminal_width(), with_colours()));
}

std::string toned(Tone tone, std::string_view text) {
    if (!with_colours() || tone == Tone::plain) return std::string(text);
    const std::string_view code = tone == Tone::bold      ? "1"
                                  : tone == Tone::good    ? "32"
                                  : tone == Tone::warning ? "33"
                                                          : "1;31";
    return fmt::format("\x1b[{}m{}\x1b[0m", code, text);
}

std::string duration_text(std::uint64_t nanoseconds) {
    const double seconds = static_cast<double>(nanoseconds) / 1e9;
    if (seconds < 0.001) return fmt::format("{:.0f} us", seconds * 1e6);
    if (seconds < 1) return fmt::format("{:.1f} ms", seconds * 1e3);
    if (seconds < 120) return fmt::format("{:.1f} s", seconds);
    if (seconds < 7200) return fmt::format("{:.0f} min", seconds / 60);
    if (seconds < 172'800) return fmt::format("{:.0f} h", seconds / 3600);
    return fmt::format("{:.0f} d", seconds / 86'400);
}

std::string size_text(std::uint64_t bytes) {
    if (bytes < 10 << 10) return fmt::format("{} B", bytes);
    if (bytes < 10 << 20) return fmt::format("{} KiB", bytes >> 10);
    return fmt::format("{} MiB", bytes >> 20);
}

std::string time_text(std::uint64_t nanoseconds_since_epoch) {
    if (nanoseconds_since_epoch == 0) return "never";
    const auto seconds = static_cast<std::time_t>(nanoseconds_since_epoch / 1'000'000'000);
    return fmt::format("{:%Y-%m-%d %H:%M:%S}", fmt::gmtime(seconds));
}

}  // namespace underseer::cli
