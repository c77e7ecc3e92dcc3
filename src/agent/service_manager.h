// The service manager that started us (systemd, as a rule), and its journal. Its protocols are
// those of sd_notify(3), sd_watchdog_enabled(3) and sd-daemon(3); without a manager nothing
// happens.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace underseer::agent {

// Levels of syslog, which the journal reads from "<N>" at the start of a line.
enum class LogLevel : std::uint8_t { critical = 2, error = 3, warning = 4, notice = 5, info = 6 };

// Sends "READY=1", "STATUS=..", several lines at once, to the socket named by NOTIFY_SOCKET.
void notify_manager(std::string_view state);
// "RELOADING=1" with the time that belongs to it; "READY=1" ends it.
void notify_reloading();

// How often the manager wants to hear "WATCHDOG=1": twice in the time that it grants. Nothing when
// it does not ask, or asks another process.
std::optional<std::chrono::milliseconds> watchdog_pace();

// Whether standard error is the stream to the journal that JOURNAL_STREAM names; a file or terminal
// that it was redirected to is not.
bool stderr_is_journal();

// One line on standard error; control characters become '?'.
void say(LogLevel level, std::string_view text);

}  // namespace underseer::agent
