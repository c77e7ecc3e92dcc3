// Whether words are as they were: FNV-1a by words, with its upper half folded in. Whoever could
// make two of them collide on purpose could as well leave the words alone.
#pragma once

#include <cstdint>

namespace underseer::guest_linux {

class Fingerprint {
  public:
    void add(std::uint64_t word) {
        value_ = (value_ ^ word) * 0x100'0000'01b3;
        value_ ^= value_ >> 32;
    }
    std::uint64_t value() const { return value_; }

  private:
    std::uint64_t value_ = 0xcbf2'9ce4'8422'2325;
};

}  // namespace underseer::guest_linux
