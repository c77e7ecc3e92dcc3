// JSON output: keys in the order written, strings always valid UTF-8, big numbers exact.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace underseer::json {

// Builds one JSON value. Calls must nest properly (CHECKed): value, or begin_object, key, value,
// .., end_object, or begin_array, value, .., end_array.
class Writer {
  public:
    // Spaces per level; 0: one line.
    explicit Writer(unsigned indent = 0) : indent_(indent) {}

    void begin_object();
    void end_object();
    void begin_array();
    void end_array();
    void key(std::string_view name);

    // Bytes that are no UTF-8 become U+FFFD each; control characters are escaped.
    void string(std::string_view text);
    void number(std::int64_t value);
    // Beyond 2^53, where many readers lose digits, the number is written as a string.
    void number(std::uint64_t value);
    void real(double value);
    void boolean(bool value);
    void null();

    const std::string& text() const { return out_; }
    std::string take() { return std::move(out_); }

  private:
    void before_value();
    void new_line();

    std::string out_;
    unsigned indent_;
    std::vector<bool> has_items_;  // one per open object or array
    bool after_key_ = false;
};

// `text` as JSON string content, without the quotes.
void append_escaped(std::string& out, std::string_view text);

}  // namespace underseer::json
