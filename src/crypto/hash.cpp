#include "crypto/hash.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <algorithm>
#include <vector>

#include "base/os.h"

namespace underseer::crypto {
namespace {

// Fetched once: EVP_sha256() would be looked up in the provider at each initialisation.
const EVP_MD* sha256_algorithm() {
    static EVP_MD* const algorithm = EVP_MD_fetch(nullptr, "SHA256", nullptr);
    CHECK(algorithm != nullptr);
    return algorithm;
}

}  // namespace

struct Sha256::Context {
    EVP_MD_CTX* state = EVP_MD_CTX_new();

    Context() {
        CHECK(state != nullptr);
        restart(sha256_algorithm());
    }
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;
    ~Context() { EVP_MD_CTX_free(state); }

    // No algorithm: the one already set, without looking it up again.
    void restart(const EVP_MD* algorithm) {
        CHECK(EVP_DigestInit_ex2(state, algorithm, nullptr) == 1);
    }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {}
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;
Sha256::~Sha256() = default;

void Sha256::update(Bytes bytes) {
    CHECK(EVP_DigestUpdate(context_->state, bytes.data(), bytes.size()) == 1);
}

Digest Sha256::finish() {
    Digest digest;
    CHECK(EVP_DigestFinal_ex(context_->state, reinterpret_cast<unsigned char*>(digest.data()),
                             nullptr) == 1);
    context_->restart(nullptr);
    return digest;
}

Digest sha256(Bytes bytes) {
    Sha256 hash;
    hash.update(bytes);
    return hash.finish();
}

Result<Digest> sha256_of_fd(int fd, std::uint64_t limit_bytes) {
    Sha256 hash;
    std::vector<std::byte> buffer(1u << 18);
    std::uint64_t offset = 0;
    for (;;) {
        const std::size_t got = TRY(read_at(fd, buffer, offset).context("hashing a file"));
        hash.update(Bytes(buffer).first(got));
        offset += got;
        if (offset > limit_bytes) {
            return fail(Code::limit,
                        fmt::format("hashing a file: it is longer than {} bytes", limit_bytes));
        }
        if (got < buffer.size()) return hash.finish();
    }
}

std::string to_hex(Bytes bytes) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string text;
    text.reserve(bytes.size() * 2);
    for (const std::byte byte : bytes) {
        text += kDigits[std::to_integer<unsigned>(byte >> 4)];
        text += kDigits[std::to_integer<unsigned>(byte & std::byte{15})];
    }
    return text;
}

namespace {
// Upper case is refused: one value has one spelling, so that no byte of a signed text is free.
std::optional<unsigned> hex_digit(char digit) {
    if (digit >= '0' && digit <= '9') return static_cast<unsigned>(digit - '0');
    if (digit >= 'a' && digit <= 'f') return static_cast<unsigned>(digit - 'a') + 10;
    return std::nullopt;
}
}  // namespace

Result<void> parse_hex(std::string_view text, MutableBytes into) {
    if (text.size() != into.size() * 2) {
        return fail(Code::malformed, fmt::format("{} hexadecimal digits where {} must stand",
                                                 text.size(), into.size() * 2));
    }
    for (std::size_t i = 0; i < into.size(); ++i) {
        const auto high = hex_digit(text[2 * i]);
        const auto low = hex_digit(text[2 * i + 1]);
        if (!high || !low) {
            return fail(Code::malformed,
                        fmt::format("no lower-case hexadecimal digit at character {}", 2 * i));
        }
        into[i] = static_cast<std::byte>(*high << 4 | *low);
    }
    return {};
}

namespace {
class SystemRandom final : public Random {
  public:
    Result<void> fill(MutableBytes into) override {
        constexpr std::size_t kChunk = 1u << 20;  // RAND_bytes takes an int
        while (!into.empty()) {
            const MutableBytes part = into.first(std::min(into.size(), kChunk));
            if (RAND_bytes(reinterpret_cast<unsigned char*>(part.data()),
                           static_cast<int>(part.size())) != 1) {
                return fail(Code::unavailable, "the system's random generator gives no bytes");
            }
            into = into.subspan(part.size());
        }
        return {};
    }
};
}  // namespace

Random& Random::system() {
    static SystemRandom random;
    return random;
}

void wipe(MutableBytes secret) {
    OPENSSL_cleanse(secret.data(), secret.size());
}

}  // namespace underseer::crypto
