#include <zlib.h>

#include "guest_memory/compression.h"

namespace underseer::guest_memory {

Result<void> uncompress_zlib(Bytes block, MutableBytes into) {
    uLongf size = into.size();
    const int outcome = ::uncompress(reinterpret_cast<Bytef*>(into.data()), &size,
                                     reinterpret_cast<const Bytef*>(block.data()), block.size());
    if (outcome == Z_MEM_ERROR) return fail(Code::limit, "no memory to uncompress a zlib block");
    if (outcome != Z_OK || size != into.size()) {
        return fail(Code::malformed, "a zlib block is damaged");
    }
    return {};
}

std::vector<std::byte> compress_zlib(Bytes plain) {
    uLongf size = ::compressBound(plain.size());
    std::vector<std::byte> block(size);
    CHECK(::compress2(reinterpret_cast<Bytef*>(block.data()), &size,
                      reinterpret_cast<const Bytef*>(plain.data()), plain.size(),
                      Z_BEST_SPEED) == Z_OK);
    block.resize(size);
    return block;
}

}  // namespace underseer::guest_memory
