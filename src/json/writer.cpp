#include "json/writer.h"

#include <fmt/format.h>

#include <cmath>
#include <iterator>

#include "base/bytes.h"
#include "base/result.h"

namespace underseer::json {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

bool is_plain(char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\';
}

// One character that needs care; returns how many bytes of `text` it took.
std::size_t append_escaped(std::string& out, std::string_view text) {
    switch (text[0]) {
        case '"':
            out += "\\\"";
            return 1;
        case '\\':
            out += "\\\\";
            return 1;
        case '\n':
            out += "\\n";
            return 1;
        case '\r':
            out += "\\r";
            return 1;
        case '\t':
            out += "\\t";
            return 1;
        default:
            break;
    }
    const std::size_t length = utf8_sequence_bytes(text);
    const auto first = static_cast<unsigned char>(text[0]);
    const bool c1 = length == 2 && first == 0xc2 && static_cast<unsigned char>(text[1]) < 0xa0;
    if (length == 0) {
        out += kReplacement;
        return 1;
    }
    if (length == 1 || c1) {
        const unsigned code = c1 ? static_cast<unsigned char>(text[1]) : first;
        fmt::format_to(std::back_inserter(out), "\\u{:04x}", code);
        return length;
    }
    out += text.substr(0, length);
    return length;
}

}  // namespace

void append_string(std::string& out, std::string_view text) {
    out += '"';
    while (!text.empty()) {
        std::size_t plain = 0;
        while (plain < text.size() && is_plain(text[plain])) ++plain;
        out += text.substr(0, plain);
        text.remove_prefix(plain);
        if (!text.empty()) text.remove_prefix(append_escaped(out, text));
    }
    out += '"';
}

void Writer::new_line() {
    if (style_ == Style::compact) return;
    *out_ += '\n';
    out_->append(2 * open_.size(), ' ');
}

void Writer::next_element() {
    if (!open_.back().empty) *out_ += ',';
    open_.back().empty = false;
    new_line();
}

void Writer::before_value() {
    if (std::exchange(after_key_, false) || open_.empty()) return;
    CHECK(open_.back().closing == ']');
    next_element();
}

Writer& Writer::key(std::string_view name) {
    CHECK(!open_.empty() && open_.back().closing == '}' && !after_key_);
    next_element();
    append_string(*out_, name);
    *out_ += style_ == Style::pretty ? ": " : ":";
    after_key_ = true;
    return *this;
}

Writer& Writer::begin(char opening, char closing) {
    before_value();
    *out_ += opening;
    open_.push_back({closing});
    return *this;
}

Writer& Writer::end(char closing) {
    CHECK(!open_.empty() && open_.back().closing == closing && !after_key_);
    const bool empty = open_.back().empty;
    open_.pop_back();
    if (!empty) new_line();
    *out_ += closing;
    return *this;
}

Writer& Writer::value(std::string_view text) {
    before_value();
    append_string(*out_, text);
    return *this;
}

Writer& Writer::integer(std::int64_t number) {
    return raw(fmt::format_int(number).c_str());
}

Writer& Writer::integer(std::uint64_t number) {
    return raw(fmt::format_int(number).c_str());
}

Writer& Writer::value(double number) {
    if (!std::isfinite(number)) return raw("null");
    return raw(fmt::format("{}", number));  // the shortest text that reads back the same
}

Writer& Writer::big(std::uint64_t number) {
    return value(std::string_view(fmt::format_int(number).c_str()));
}

Writer& Writer::raw(std::string_view json) {
    before_value();
    *out_ += json;
    return *this;
}

}  // namespace underseer::json
