// Ed25519 (RFC 8032) keys and signatures, and how they are kept in files.
//
// Files are PEM (PKCS #8 for private keys, SubjectPublicKeyInfo for public ones), so that
// `openssl pkey -in FILE -text` reads them.
#pragma once

#include <filesystem>
#include <memory>

#include "crypto/hash.h"

namespace underseer::crypto {

using PublicKey = std::array<std::byte, 32>;
using Signature = std::array<std::byte, 64>;

// Whether `signature` is `key`'s over `message`. A malformed key or signature is simply not valid.
bool is_signed_by(const PublicKey& key, Bytes message, const Signature& signature);

// Short name of a key for people and for headers: 16 hexadecimal digits of its SHA-256.
std::string key_id(const PublicKey& key);

Result<PublicKey> load_public_key(const std::filesystem::path& path);
Result<void> store_public_key(const PublicKey& key, const std::filesystem::path& path);

// A private key. Its memory is zeroed when it goes.
class SigningKey {
  public:
    static Result<SigningKey> generate(Random& random = Random::system());

    // Refuses a file that is not a regular file, that belongs to somebody else, or that others
    // may read (Code::permission).
    static Result<SigningKey> load(const std::filesystem::path& path);

    // Writes the file with mode 0600, synced. Never overwrites: a lost private key is lost.
    Result<void> store(const std::filesystem::path& path) const;

    const PublicKey& public_key() const { return public_key_; }
    Result<Signature> sign(Bytes message) const;

    SigningKey(SigningKey&&) noexcept;
    SigningKey& operator=(SigningKey&&) noexcept;
    ~SigningKey();

  private:
    struct Key;
    SigningKey(std::unique_ptr<Key> key, const PublicKey& public_key);

    std::unique_ptr<Key> key_;
    PublicKey public_key_;
};

}  // namespace underseer::crypto
