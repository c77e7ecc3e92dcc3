#include "base/bytes.h"

#include <fmt/format.h>

namespace underseer {

Unexpected ByteCursor::too_short(std::size_t wanted) const {
    return fail(Code::malformed, fmt::format("{} bytes wanted at offset {}, only {} are left",
                                             wanted, position_, remaining()));
}

Result<Bytes> ByteCursor::read_bytes(std::size_t count) {
    if (count > remaining()) return too_short(count);
    const Bytes taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
}

Result<std::string_view> ByteCursor::read_cstring() {
    const std::string_view rest = as_text(bytes_.subspan(position_));
    const std::size_t end = rest.find('\0');
    if (end == std::string_view::npos) {
        return fail(Code::malformed, fmt::format("string at offset {} has no end", position_));
    }
    position_ += end + 1;
    return rest.substr(0, end);
}

Result<void> ByteCursor::skip(std::size_t count) {
    if (count > remaining()) return too_short(count);
    position_ += count;
    return {};
}

Result<void> ByteCursor::seek(std::size_t position) {
    if (position > bytes_.size()) {
        return fail(Code::malformed, fmt::format("offset {} lies behind the end of {} bytes",
                                                 position, bytes_.size()));
    }
    position_ = position;
    return {};
}

std::size_t utf8_sequence_bytes(std::string_view text) {
    const auto at = [&](std::size_t i) {
        return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
    };
    const auto follows = [&](std::size_t i) { return (at(i) & 0xc0u) == 0x80u; };
    const unsigned first = at(0);
    if (first < 0x80) return 1;
    if (first < 0xc2 || first > 0xf4) return 0;
    if (first < 0xe0) return follows(1) ? 2 : 0;
    const unsigned second = at(1);
    if (first < 0xf0) {
        if (first == 0xe0 && second < 0xa0) return 0;
        if (first == 0xed && second >= 0xa0) return 0;
        return follows(1) && follows(2) ? 3 : 0;
    }
    if (first == 0xf0 && second < 0x90) return 0;
    if (first == 0xf4 && second >= 0x90) return 0;
    return follows(1) && follows(2) && follows(3) ? 4 : 0;
}

std::size_t utf8_prefix_bytes(std::string_view text) {
    std::size_t at = 0;
    while (at < text.size()) {
        const std::size_t length = utf8_sequence_bytes(text.substr(at));
        if (length == 0) break;
        at += length;
    }
    return at;
}

}  // namespace underseer
