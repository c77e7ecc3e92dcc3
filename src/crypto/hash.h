// SHA-256, hexadecimal text, random bytes. Wraps OpenSSL; its headers appear in this module's
// sources only.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"

namespace underseer::crypto {

using Digest = std::array<std::byte, 32>;

// SHA-256 (FIPS 180-4) of bytes that come piece by piece. One object hashes many messages: that
// saves the set-up, which costs as much as hashing 300 bytes.
class Sha256 {
  public:
    Sha256();
    Sha256(Sha256&&) noexcept;
    Sha256& operator=(Sha256&&) noexcept;
    ~Sha256();

    void update(Bytes bytes);
    Digest finish();  // the digest of all since the last finish(); the next message may follow

  private:
    struct Context;
    std::unique_ptr<Context> context_;
};

Digest sha256(Bytes bytes);

// Hashes a file from its first byte to its end, without moving the file offset. Fails with
// Code::limit when it is longer than `limit_bytes`.
Result<Digest> sha256_of_fd(int fd, std::uint64_t limit_bytes);

std::string to_hex(Bytes bytes);  // lower case

// Fills `into` from exactly twice as many lower-case hexadecimal digits.
Result<void> parse_hex(std::string_view text, MutableBytes into);

// Where keys and identifiers come from; tests put a seeded one in its place.
class Random {
  public:
    virtual ~Random() = default;
    virtual Result<void> fill(MutableBytes into) = 0;

    static Random& system();  // OpenSSL's generator, seeded by the kernel
};

void wipe(MutableBytes secret);  // zeroes; the compiler cannot remove it

}  // namespace underseer::crypto
