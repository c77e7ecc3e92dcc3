// Tables for people: aligned columns, nothing in a cell that could steer the terminal.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace underseer::cli {

// The text with every byte that a terminal could obey made visible: "\x1b", "\n"; what is no valid
// UTF-8 becomes "\xNN" too. Other characters stay.
std::string printable(std::string_view text);

// The same for several lines: newlines stay.
std::string printable_lines(std::string_view text);

enum class Align : std::uint8_t { left, right };
struct Column {
    std::string title;
    Align align = Align::left;
};

class Table {
  public:
    explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

    // One cell a column; cells are made printable here.
    void add(std::vector<std::string> cells);
    // With `width` > 0 long texts are cut so that lines have at most that many columns; `bold`
    // marks the titles.
    std::string render(std::size_t width, bool bold) const;

    bool empty() const { return rows_.empty(); }

  private:
    void fit(std::vector<std::size_t>& widths, std::size_t width) const;

    std::vector<Column> columns_;
    std::vector<std::vector<std::string>> rows_;
};

}  // namespace underseer::cli
