#include <fmt/format.h>
#include <snappy-c.h>

#include "guest_memory/compression.h"

namespace underseer::guest_memory {

namespace {
const char* chars(Bytes bytes) {
    return reinterpret_cast<const char*>(bytes.data());
}
}  // namespace

// A base-128 number of at most 5 bytes, least significant first (format_description.txt of snappy
// 1.1.9, section 1). Read here because the library wants the whole block for it.
Result<std::uint32_t> snappy_length(Bytes head) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < head.size() && i < 5; ++i) {
        const auto byte = std::to_integer<std::uint64_t>(head[i]);
        value |= (byte & 0x7f) << (7 * i);
        if (byte < 0x80 && value <= ~0u) return static_cast<std::uint32_t>(value);
        if (byte < 0x80) break;
    }
    return fail(Code::malformed, "a snappy block begins with no length");
}

Result<void> uncompress_snappy(Bytes block, MutableBytes into) {
    const std::uint32_t length = TRY(snappy_length(block));
    if (length != into.size()) {
        return fail(Code::malformed, fmt::format("a snappy block holds {} bytes, and {} were due",
                                                 length, into.size()));
    }
    std::size_t size = into.size();
    if (::snappy_uncompress(chars(block), block.size(), reinterpret_cast<char*>(into.data()),
                            &size) != SNAPPY_OK ||
        size != into.size()) {
        return fail(Code::malformed, "a snappy block is damaged");
    }
    return {};
}

std::vector<std::byte> compress_snappy(Bytes plain) {
    std::size_t size = ::snappy_max_compressed_length(plain.size());
    std::vector<std::byte> block(size);
    CHECK(::snappy_compress(chars(plain), plain.size(), reinterpret_cast<char*>(block.data()),
                            &size) == SNAPPY_OK);
    block.resize(size);
    return block;
}

}  // namespace underseer::guest_memory
