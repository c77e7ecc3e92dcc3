#include "guest_linux/build_id.h"

#include <fmt/format.h>

namespace underseer::guest_linux {

namespace {

std::string hex_text(Bytes bytes) {
    std::string hex;
    for (const std::byte byte : bytes) {
        hex += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
    }
    return hex;
}

}  // namespace

Result<std::string> build_id_in(Bytes notes) {
    ByteCursor cursor(notes);
    while (cursor.remaining() >= 12) {
        const auto name_bytes = TRY(cursor.read<std::uint32_t>());
        const auto value_bytes = TRY(cursor.read<std::uint32_t>());
        const auto type = TRY(cursor.read<std::uint32_t>());
        const Bytes name = TRY(cursor.read_bytes((std::size_t{name_bytes} + 3) & ~std::size_t{3}));
        const Bytes value =
            TRY(cursor.read_bytes((std::size_t{value_bytes} + 3) & ~std::size_t{3}));
        if (type != 3 || !as_text(name).starts_with("GNU") || value_bytes > 64) continue;
        return hex_text(value.first(value_bytes));
    }
    return std::string();
}

}  // namespace underseer::guest_linux
