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

}  // namespace underseer
