// Typed addresses, and bounded reading of little-endian bytes that somebody else wrote.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

#include "base/result.h"

namespace underseer {

using Bytes = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;

// An address in one address space. Two spaces do not mix: GuestVirt + GuestPhys does not compile.
// Arithmetic wraps like the machine's; range checks belong to whoever dereferences.
template <typename Space>
struct Address {
    std::uint64_t value = 0;

    constexpr auto operator<=>(const Address&) const = default;
    constexpr Address operator+(std::uint64_t bytes) const { return {value + bytes}; }
    constexpr Address operator-(std::uint64_t bytes) const { return {value - bytes}; }
    constexpr std::uint64_t operator-(Address other) const { return value - other.value; }
    constexpr explicit operator bool() const { return value != 0; }
};
using GuestPhys = Address<struct GuestPhysSpace>;  // what the guest calls a physical address
using GuestVirt = Address<struct GuestVirtSpace>;  // a virtual address of the guest
using HostVirt = Address<struct HostVirtSpace>;    // an address in the VMM process

inline constexpr std::uint64_t kPageSize = 4096;
inline constexpr std::uint64_t kPageMask = ~(kPageSize - 1);

// Little-endian integer at `offset`; nothing when it does not lie wholly inside `bytes`.
template <typename T>
    requires std::is_integral_v<T>
constexpr std::optional<T> load_le(Bytes bytes, std::size_t offset) {
    if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof value);  // both supported targets are LE
    return value;
}

// The byte at `offset`, which lies inside `bytes`.
constexpr std::uint8_t byte_at(Bytes bytes, std::size_t offset) {
    return std::to_integer<std::uint8_t>(bytes[offset]);
}

inline Bytes as_bytes(std::string_view text) {
    return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view as_text(Bytes bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Reads forward through bytes of a foreign format. Every read is bounded; the first that does not
// fit fails with the position, and the cursor stays where it was.
class ByteCursor {
  public:
    explicit ByteCursor(Bytes bytes) : bytes_(bytes) {}

    template <typename T>
        requires std::is_integral_v<T>
    Result<T> read() {
        const auto value = load_le<T>(bytes_, position_);
        if (!value) return too_short(sizeof(T));
        position_ += sizeof(T);
        return *value;
    }
    Result<Bytes> read_bytes(std::size_t count);  // a view into the input
    Result<std::string_view> read_cstring();      // up to and without the NUL
    Result<void> skip(std::size_t count);
    Result<void> seek(std::size_t position);  // absolute; the end itself is allowed

    std::size_t position() const { return position_; }
    std::size_t remaining() const { return bytes_.size() - position_; }
    bool at_end() const { return remaining() == 0; }

  private:
    Unexpected too_short(std::size_t wanted) const;

    Bytes bytes_;
    std::size_t position_ = 0;
};

// Length of the UTF-8 sequence at the beginning of `text` (Unicode 15, table 3-7), 0 when it is
// none: overlong forms, surrogates and code points above U+10FFFF are none.
std::size_t utf8_sequence_bytes(std::string_view text);
// How much of `text` is valid UTF-8, from its beginning.
std::size_t utf8_prefix_bytes(std::string_view text);

}  // namespace underseer

template <typename Space>
struct std::hash<underseer::Address<Space>> {
    std::size_t operator()(underseer::Address<Space> address) const noexcept {
        return std::hash<std::uint64_t>()(address.value);
    }
};
