#include "crypto/signing.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/os.h"

namespace underseer::crypto {
namespace {

constexpr std::size_t kMaxKeyFileBytes = 16384;  // an Ed25519 PEM has 119 bytes

template <auto Free>
struct FreeWith {
    void operator()(auto* object) const { Free(object); }
};
using KeyHandle = std::unique_ptr<EVP_PKEY, FreeWith<EVP_PKEY_free>>;
using ContextHandle = std::unique_ptr<EVP_MD_CTX, FreeWith<EVP_MD_CTX_free>>;
using BioHandle = std::unique_ptr<BIO, FreeWith<BIO_free_all>>;

unsigned char* raw(std::byte* bytes) {
    return reinterpret_cast<unsigned char*>(bytes);
}
const unsigned char* raw(const std::byte* bytes) {
    return reinterpret_cast<const unsigned char*>(bytes);
}

// OpenSSL's newest reason for people; empties its queue.
std::string openssl_reason() {
    char text[256] = "unknown";
    if (const unsigned long code = ERR_peek_last_error())
        ERR_error_string_n(code, text, sizeof text);
    ERR_clear_error();
    return text;
}

// Keys are Ed25519 or nothing: an RSA key in the file must not silently change the format.
Result<PublicKey> public_part(const EVP_PKEY* key, std::string_view what) {
    PublicKey bytes;
    std::size_t size = bytes.size();
    if (EVP_PKEY_get_id(key) != EVP_PKEY_ED25519 ||
        EVP_PKEY_get_raw_public_key(key, raw(bytes.data()), &size) != 1 || size != bytes.size()) {
        ERR_clear_error();
        return fail(Code::malformed, fmt::format("{} is no Ed25519 key", what));
    }
    return bytes;
}

// Without a terminal question for a passphrase: OpenSSL asks when there is no callback.
int no_passphrase(char*, int, int, void*) {
    return -1;
}

// Temporary file beside `path`, synced, then linked into place: never half a key, never a key over
// another one.
Result<void> store_new_file(const std::filesystem::path& path, Bytes content, mode_t mode) {
    const std::string temporary = fmt::format("{}.new.{}", path.string(), ::getpid());
    {
        const Fd fd = TRY(open_file(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode));
        auto stored = write_all(fd.get(), content);
        if (stored && ::fsync(fd.get()) != 0) stored = fail(os_error("syncing"));
        if (!stored) {
            ::unlink(temporary.c_str());
            return std::move(stored).context(temporary);
        }
    }
    const int linked = ::link(temporary.c_str(), path.c_str());
    const int error_number = errno;
    ::unlink(temporary.c_str());
    if (linked != 0) {
        return fail(os_error(
            fmt::format("storing {} (an existing key is never overwritten)", path.string()),
            error_number));
    }
    const auto parent = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
    const Fd directory = TRY(open_file(parent, O_RDONLY | O_DIRECTORY));
    if (::fsync(directory.get()) != 0) return fail(os_error("syncing " + parent.string()));
    return {};
}

Result<Bytes> content_of(BIO* bio) {
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio, &data);
    if (size <= 0) return fail(Code::unavailable, "OpenSSL wrote no key: " + openssl_reason());
    return underseer::as_bytes(std::string_view(data, static_cast<std::size_t>(size)));
}

}  // namespace

bool is_signed_by(const PublicKey& key, Bytes message, const Signature& signature) {
    const KeyHandle handle(
        EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, raw(key.data()), key.size()));
    const ContextHandle context(EVP_MD_CTX_new());
    CHECK(context != nullptr);
    const bool valid =
        handle &&
        EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, handle.get()) == 1 &&
        EVP_DigestVerify(context.get(), raw(signature.data()), signature.size(),
                         raw(message.data()), message.size()) == 1;
    ERR_clear_error();
    return valid;
}

std::string key_id(const PublicKey& key) {
    return to_hex(Bytes(sha256(key)).first(8));
}

Result<PublicKey> load_public_key(const std::filesystem::path& path) {
    const std::string text = TRY(read_file(path, kMaxKeyFileBytes).context("reading a public key"));
    const BioHandle bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
    CHECK(bio != nullptr);
    const KeyHandle key(PEM_read_bio_PUBKEY(bio.get(), nullptr, no_passphrase, nullptr));
    if (!key) {
        ERR_clear_error();
        return fail(Code::malformed,
                    fmt::format("{} holds no public key in PEM form (give the file "
                                "that begins with BEGIN PUBLIC KEY)",
                                path.string()));
    }
    return public_part(key.get(), path.string());
}

Result<void> store_public_key(const PublicKey& key, const std::filesystem::path& path) {
    const KeyHandle handle(
        EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, raw(key.data()), key.size()));
    const BioHandle bio(BIO_new(BIO_s_mem()));
    if (!handle || !bio || PEM_write_bio_PUBKEY(bio.get(), handle.get()) != 1) {
        return fail(Code::invalid_argument, "encoding a public key: " + openssl_reason());
    }
    return store_new_file(path, TRY(content_of(bio.get())), 0644);
}

// OpenSSL zeroes the private part of an Ed25519 EVP_PKEY when it frees it.
struct SigningKey::Key {
    KeyHandle handle;
};

SigningKey::SigningKey(std::unique_ptr<Key> key, const PublicKey& public_key)
    : key_(std::move(key)), public_key_(public_key) {}
SigningKey::SigningKey(SigningKey&&) noexcept = default;
SigningKey& SigningKey::operator=(SigningKey&&) noexcept = default;
SigningKey::~SigningKey() = default;

Result<SigningKey> SigningKey::generate(Random& random) {
    std::array<std::byte, 32> seed;
    TRY(random.fill(seed).context("generating a key"));
    KeyHandle handle(
        EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, raw(seed.data()), seed.size()));
    wipe(seed);
    if (!handle) return fail(Code::unavailable, "generating a key: " + openssl_reason());
    const PublicKey public_key = TRY(public_part(handle.get(), "the new key"));
    return SigningKey(std::make_unique<Key>(Key{std::move(handle)}), public_key);
}

Result<SigningKey> SigningKey::load(const std::filesystem::path& path) {
    // O_NONBLOCK: a FIFO in the file's place must not hang us before it is refused.
    const Fd fd = TRY(open_file(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
    struct stat status{};
    if (::fstat(fd.get(), &status) != 0) return fail(os_error("examining " + path.string()));
    if (!S_ISREG(status.st_mode) || (status.st_mode & 077) != 0 || status.st_uid != ::geteuid()) {
        return fail(Code::permission,
                    fmt::format("private key {} must be a regular file of user {} that nobody else "
                                "may read: chown it and `chmod 600` it",
                                path.string(), ::geteuid()));
    }
    std::array<std::byte, kMaxKeyFileBytes> buffer;
    const auto got = read_at(fd.get(), buffer, 0);
    if (!got) {
        wipe(buffer);
        return fail(Error(got.error()).with_context(path.string()));
    }
    const BioHandle bio(BIO_new_mem_buf(buffer.data(), static_cast<int>(*got)));
    CHECK(bio != nullptr);
    KeyHandle handle(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, nullptr));
    wipe(buffer);
    if (!handle) {
        ERR_clear_error();
        return fail(
            Code::malformed,
            fmt::format("{} holds no private key in PEM form without a passphrase", path.string()));
    }
    const PublicKey public_key = TRY(public_part(handle.get(), path.string()));
    return SigningKey(std::make_unique<Key>(Key{std::move(handle)}), public_key);
}

Result<void> SigningKey::store(const std::filesystem::path& path) const {
    const BioHandle bio(BIO_new(BIO_s_secmem()));  // zeroed when freed
    if (!bio || PEM_write_bio_PrivateKey(bio.get(), key_->handle.get(), nullptr, nullptr, 0,
                                         nullptr, nullptr) != 1) {
        return fail(Code::unavailable, "encoding a private key: " + openssl_reason());
    }
    return store_new_file(path, TRY(content_of(bio.get())), 0600);
}

Result<Signature> SigningKey::sign(Bytes message) const {
    const ContextHandle context(EVP_MD_CTX_new());
    CHECK(context != nullptr);
    Signature signature;
    std::size_t size = signature.size();
    if (EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key_->handle.get()) != 1 ||
        EVP_DigestSign(context.get(), raw(signature.data()), &size, raw(message.data()),
                       message.size()) != 1 ||
        size != signature.size()) {
        return fail(Code::unavailable, "signing: " + openssl_reason());
    }
    return signature;
}

}  // namespace underseer::crypto
