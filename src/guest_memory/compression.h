// Raw blocks of the compressions that memory images use, and the checksum beside them. Every
// decoder here fills `into` exactly or fails; none reads or writes beyond its two spans.
#pragma once

#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace underseer::guest_memory {

// The size that the head of a raw snappy block announces. `head` may be cut off after 5 bytes.
Result<std::uint32_t> snappy_length(Bytes head);
Result<void> uncompress_snappy(Bytes block, MutableBytes into);
Result<void> uncompress_zlib(Bytes block, MutableBytes into);
// LZO1X as lzo1x_1_compress writes it (bitstream version 0), with its end marker.
Result<void> uncompress_lzo(Bytes block, MutableBytes into);

// For images that are made, not read.
std::vector<std::byte> compress_snappy(Bytes plain);
std::vector<std::byte> compress_zlib(Bytes plain);

// CRC-32C (RFC 3720, appendix B.4), and the masked form that snappy's framing stores
// (framing_format.txt of snappy 1.1.9, section 3).
std::uint32_t crc32c(Bytes bytes);
std::uint32_t masked_crc32c(Bytes bytes);

}  // namespace underseer::guest_memory
