#include "table.h"

#include <fmt/format.h>

#include <algorithm>

namespace underseer::cli {

namespace {

// Bytes of the well-formed, harmless UTF-8 character at text[at]; 0 when it is none. U+0080..U+009F
// are controls; others turn the writing direction around (U+202E, U+2066..) or are not seen at all
// (U+200B, U+2060.., the tags of U+E0000..): with those two names look alike that are not.
std::size_t plain_length(std::string_view text, std::size_t at) {
    const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
    const std::uint8_t first = byte(at);
    if (first < 0x80) return first >= 0x20 && first != 0x7f ? 1 : 0;
    const std::size_t length = first >= 0xc3 && first < 0xe0   ? 2
                               : first == 0xc2                 ? 2
                               : first >= 0xe0 && first < 0xf0 ? 3
                               : first >= 0xf0 && first < 0xf5 ? 4
                                                               : 0;
    if (length == 0 || text.size() - at < length) return 0;
    std::uint32_t point = first & (0x7fu >> length);
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte(at + i) & 0xc0) != 0x80) return 0;
        point = point << 6 | (byte(at + i) & 0x3fu);
    }
    constexpr std::uint32_t kSmallest[] = {0, 0, 0xa0, 0x800, 0x10000};
    if (point < kSmallest[length] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000))
        return 0;
    const auto within = [&](std::uint32_t first_of, std::uint32_t last_of) {
        return point >= first_of && point <= last_of;
    };
    const bool unseen = point == 0xad || point == 0x61c || point == 0x180e ||
                        within(0x200b, 0x200f) || within(0x2028, 0x202e) ||
                        within(0x2060, 0x206f) || point == 0xfeff || within(0xfff9, 0xfffb) ||
                        within(0xe0000, 0xe007f);
    return unseen ? 0 : length;
}

// Characters, as a terminal counts most of them: one column each.
std::size_t columns_of(std::string_view text) {
    return static_cast<std::size_t>(std::ranges::count_if(
        text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

std::string cut(std::string text, std::size_t width) {
    if (columns_of(text) <= width) return text;
    std::size_t seen = 0, at = 0;
    for (; at < text.size(); ++at) {
        if ((static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) continue;
        if (++seen == width) break;
    }
    return text.substr(0, at) + "…";
}

}  // namespace

std::string printable_lines(std::string_view text) {
    std::string result;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = std::min(text.find('\n', at), text.size());
        result += printable(text.substr(at, end - at)) + '\n';
        at = end + 1;
    }
    return result;
}

std::string printable(std::string_view text) {
    std::string result;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t length = plain_length(text, at);
        if (length == 0) {
            result += fmt::format("\\x{:02x}", static_cast<std::uint8_t>(text[at]));
            ++at;
            continue;
        }
        result.append(text, at, length);
        at += length;
    }
    return result;
}

void Table::add(std::vector<std::string> cells) {
    for (std::string& cell : cells) cell = printable(cell);
    cells.resize(columns_.size());
    rows_.push_back(std::move(cells));
}

// Takes from the widest columns of text until the line fits. Numbers stay whole.
void Table::fit(std::vector<std::size_t>& widths, std::size_t width) const {
    constexpr std::size_t kNarrowest = 10;
    std::size_t line = 2 * (widths.size() - 1);
    for (const std::size_t one : widths) line += one;
    while (line > width) {
        std::size_t widest = widths.size(), second = kNarrowest;
        for (std::size_t i = 0; i < widths.size(); ++i) {
            if (columns_[i].align == Align::right) continue;
            if (widest == widths.size() || widths[i] > widths[widest]) {
                if (widest != widths.size()) second = std::max(second, widths[widest]);
                widest = i;
            } else {
                second = std::max(second, widths[i]);
            }
        }
        if (widest == widths.size() || widths[widest] <= kNarrowest) return;
        const std::size_t spare = std::max<std::size_t>(1, widths[widest] - second);
        const std::size_t taken = std::min(spare, line - width);
        widths[widest] -= taken;
        line -= taken;
    }
}

std::string Table::render(std::size_t width, bool bold) const {
    std::vector<std::size_t> widths;
    for (const Column& column : columns_) widths.push_back(columns_of(column.title));
    for (const auto& row : rows_) {
        for (std::size_t i = 0; i < row.size(); ++i) {
            widths[i] = std::max(widths[i], columns_of(row[i]));
        }
    }
    if (width != 0) fit(widths, width);
    const auto line_of = [&](const std::vector<std::string>& cells) {
        std::string line;
        for (std::size_t i = 0; i < cells.size(); ++i) {
            const std::string cell = cut(cells[i], widths[i]);
            const std::string fill(widths[i] - columns_of(cell), ' ');
            const bool last = i + 1 == cells.size();
            line += columns_[i].align == Align::right ? fill + cell : last ? cell : cell + fill;
            if (!last) line += "  ";
        }
        return width == 0 ? line : cut(std::move(line), width);
    };
    std::vector<std::string> titles;
    for (const Column& column : columns_) titles.push_back(column.title);
    std::string text = bold ? "\x1b[1m" + line_of(titles) + "\x1b[0m\n" : line_of(titles) + "\n";
    for (const auto& row : rows_) text += line_of(row) + "\n";
    return text;
}

}  // namespace underseer::cli
