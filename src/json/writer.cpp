#include "json/writer.h"

#include <fmt/format.h>

#include <cmath>

#include "base/result.h"

namespace underseer::json {

namespace {

constexpr std::uint64_t kExactDouble = 1ull << 53;

// Length of the UTF-8 sequence that begins at text[at], 0 when it is not well-formed (RFC 3629: no
// overlong forms, no surrogates, nothing above U+10FFFF).
std::size_t utf8_length(std::string_view text, std::size_t at) {
    const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
    const std::uint8_t first = byte(at);
    const std::size_t length = first < 0x80   ? 1
                               : first < 0xc2 ? 0
                               : first < 0xe0 ? 2
                               : first < 0xf0 ? 3
                               : first < 0xf5 ? 4
                                              : 0;
    if (length == 0 || text.size() - at < length) return 0;
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte(at + i) & 0xc0) != 0x80) return 0;
    }
    if (length == 3 && first == 0xe0 && byte(at + 1) < 0xa0) return 0;
    if (length == 3 && first == 0xed && byte(at + 1) >= 0xa0) return 0;
    if (length == 4 && first == 0xf0 && byte(at + 1) < 0x90) return 0;
    if (length == 4 && first == 0xf4 && byte(at + 1) >= 0x90) return 0;
    return length;
}

}  // namespace

void append_escaped(std::string& out, std::string_view text) {
    for (std::size_t at = 0; at < text.size();) {
        const char c = text[at];
        const std::size_t length = utf8_length(text, at);
        if (length == 0) {
            out += "\xef\xbf\xbd";  // U+FFFD
            ++at;
            continue;
        }
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (c == '\n') {
            out += "\\n";
        } else if (c == '\t') {
            out += "\\t";
        } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
            out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else if (length == 2 && c == '\xc2' && static_cast<std::uint8_t>(text[at + 1]) < 0xa0) {
            // C1 controls: a terminal that reads UTF-8 obeys them like an escape sequence.
            out += fmt::format("\\u{:04x}", static_cast<std::uint8_t>(text[at + 1]));
        } else {
            out.append(text, at, length);
        }
        at += length;
    }
}

void Writer::new_line() {
    if (indent_ == 0) return;
    out_ += '\n';
    out_.append(indent_ * has_items_.size(), ' ');
}

void Writer::before_value() {
    if (after_key_) {
        after_key_ = false;
        return;
    }
    if (has_items_.empty()) return;
    if (has_items_.back()) out_ += ',';
    has_items_.back() = true;
    new_line();
}

void Writer::begin_object() {
    before_value();
    out_ += '{';
    has_items_.push_back(false);
}
void Writer::begin_array() {
    before_value();
    out_ += '[';
    has_items_.push_back(false);
}
void Writer::end_object() {
    CHECK(!has_items_.empty() && !after_key_);
    const bool any = has_items_.back();
    has_items_.pop_back();
    if (any) new_line();
    out_ += '}';
}
void Writer::end_array() {
    CHECK(!has_items_.empty());
    const bool any = has_items_.back();
    has_items_.pop_back();
    if (any) new_line();
    out_ += ']';
}
void Writer::key(std::string_view name) {
    CHECK(!after_key_);
    before_value();
    out_ += '"';
    append_escaped(out_, name);
    out_ += indent_ == 0 ? "\":" : "\": ";
    after_key_ = true;
}
void Writer::string(std::string_view text) {
    before_value();
    out_ += '"';
    append_escaped(out_, text);
    out_ += '"';
}
void Writer::number(std::int64_t value) {
    const std::uint64_t size =
        value < 0 ? 0 - static_cast<std::uint64_t>(value) : static_cast<std::uint64_t>(value);
    if (size > kExactDouble) return string(fmt::format("{}", value));
    before_value();
    out_ += fmt::format("{}", value);
}
void Writer::number(std::uint64_t value) {
    if (value > kExactDouble) return string(fmt::format("{}", value));
    before_value();
    out_ += fmt::format("{}", value);
}
void Writer::real(double value) {
    before_value();
    out_ += std::isfinite(value) ? fmt::format("{}", value) : "null";
}
void Writer::boolean(bool value) {
    before_value();
    out_ += value ? "true" : "false";
}
void Writer::null() {
    before_value();
    out_ += "null";
}

}  // namespace underseer::json
