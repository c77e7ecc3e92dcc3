// What commands print with: tables for people, JSON for programs.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "event/json_form.h"
#include "table.h"

namespace underseer::cli {

bool on_terminal();
bool with_colours();           // on a terminal, unless NO_COLOR is set
std::size_t terminal_width();  // 0: not a terminal, nothing is cut
void print(std::string_view text);
// Columns for prose: those of the terminal, at most 100.
std::size_t text_width();
void print_table(const Table& table);

// Bold, red, .. on a terminal; the text as it is elsewhere.
enum class Tone : std::uint8_t { plain, bold, good, warning, bad };
std::string toned(Tone tone, std::string_view text);

// "4.2 s", "3 min", "17 h", "5 d"; "12 MiB".
std::string duration_text(std::uint64_t nanoseconds);
std::string size_text(std::uint64_t bytes);
// UTC, "2026-11-24 14:03:11"; "never" for 0.
std::string time_text(std::uint64_t nanoseconds_since_epoch);

template <typename T>
void print_json(const T& value) {
    std::string text;
    json::Writer writer(&text, json::Style::pretty);
    event::JsonForm(&writer).put(value);
    fmt::print("{}\n", text);
}

}  // namespace underseer::cli
