// Writes JSON (RFC 8259) straight into a string: members stand in the order in which they are
// written, so output is stable.
//
// Text may come from a guest. It is escaped so that the result is valid UTF-8 and harmless on a
// terminal: control characters (C0, DEL, C1) become \u00XX, each byte that belongs to no valid
// UTF-8 sequence becomes U+FFFD. Whoever needs the exact bytes writes them in hexadecimal beside.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace underseer::json {

enum class Style : std::uint8_t { compact, pretty };

// Calls in the wrong order (a value without its key, an end too many) are our own bugs: CHECK.
class Writer {
  public:
    // Appends to `out`, which must outlive the writer.
    explicit Writer(std::string* out, Style style = Style::compact) : out_(out), style_(style) {}

    Writer& begin_object() { return begin('{', '}'); }
    Writer& end_object() { return end('}'); }
    Writer& begin_array() { return begin('[', ']'); }
    Writer& end_array() { return end(']'); }
    Writer& key(std::string_view name);

    Writer& value(std::string_view text);
    Writer& value(const char* text) { return value(std::string_view(text)); }
    Writer& value(std::nullptr_t) { return raw("null"); }
    Writer& value(std::same_as<bool> auto flag) { return raw(flag ? "true" : "false"); }
    Writer& value(std::signed_integral auto number) { return integer(std::int64_t{number}); }
    Writer& value(std::unsigned_integral auto number)
        requires(!std::same_as<decltype(number), bool>)
    {
        return integer(std::uint64_t{number});
    }
    Writer& value(double number);  // null when it is not finite: JSON has no word for it

    // A number that may pass 2^53, where JavaScript loses digits: always a string of decimal
    // digits, so that the type of a field does not depend on its value.
    Writer& big(std::uint64_t number);

    // Text that is JSON already; the caller answers for it.
    Writer& raw(std::string_view json);

    template <typename T>
    Writer& member(std::string_view name, const T& content) {
        return key(name).value(content);
    }

    bool complete() const { return open_.empty(); }

  private:
    struct Level {
        char closing;
        bool empty = true;
    };

    Writer& begin(char opening, char closing);
    Writer& end(char closing);
    Writer& integer(std::int64_t number);
    Writer& integer(std::uint64_t number);
    void before_value();
    void next_element();
    void new_line();

    std::string* out_;
    Style style_;
    std::vector<Level> open_;
    bool after_key_ = false;
};

// Appends `text` in quotes, escaped as above.
void append_string(std::string& out, std::string_view text);

}  // namespace underseer::json
