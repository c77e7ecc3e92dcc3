// What a peer that is fuzzed has to say, a piece at a time.
#pragma once

#include <algorithm>

#include "base/bytes.h"

namespace underseer {

struct PeerBytes {
    Bytes left;

    std::size_t read(MutableBytes into) {
        const std::size_t count = std::min(into.size(), left.size());
        std::copy_n(left.begin(), count, into.begin());
        left = left.subspan(count);
        return count;
    }
};

}  // namespace underseer
