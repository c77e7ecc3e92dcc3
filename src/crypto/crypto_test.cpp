#include <fcntl.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "base/os.h"
#include "crypto/hash.h"
#include "crypto/signing.h"

namespace underseer::crypto {
namespace {

class TemporaryDirectory {
  public:
    TemporaryDirectory() {
        std::string form = (std::filesystem::temp_directory_path() / "crypto_XXXXXX").string();
        CHECK(::mkdtemp(form.data()) != nullptr);
        path_ = form;
    }
    ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
    std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

  private:
    std::filesystem::path path_;
};

template <std::size_t Size>
std::array<std::byte, Size> hex(std::string_view text) {
    std::array<std::byte, Size> bytes;
    CHECK(parse_hex(text, bytes).has_value());
    return bytes;
}

// FIPS 180-4 examples: the empty message and "abc".
TEST(Sha256, gives_the_published_digests) {
    EXPECT_EQ(to_hex(sha256({})),
              "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    EXPECT_EQ(to_hex(sha256(as_bytes("abc"))),
              "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

RC_GTEST_PROP(Sha256, pieces_and_reuse_give_the_digest_of_the_whole, (std::string text)) {
    static Sha256 reused;
    const std::size_t cut = *rc::gen::inRange<std::size_t>(0, text.size() + 1);
    reused.update(as_bytes(text).first(cut));
    reused.update(as_bytes(text).subspan(cut));
    RC_ASSERT(reused.finish() == sha256(as_bytes(text)));
}

TEST(Sha256, of_a_file_is_that_of_its_bytes_and_has_a_bound) {
    TemporaryDirectory directory;
    const std::string text(700'000, 'x');
    std::ofstream(directory / "file") << text;
    const Fd fd = open_file(directory / "file", O_RDONLY).value();
    EXPECT_EQ(sha256_of_fd(fd.get(), 1 << 20).value(), sha256(as_bytes(text)));
    EXPECT_EQ(sha256_of_fd(fd.get(), 699'999).error().code, Code::limit);
}

RC_GTEST_PROP(Hex, comes_back, (std::string text)) {
    std::string back(text.size(), '\0');
    RC_ASSERT(
        parse_hex(to_hex(as_bytes(text)), {reinterpret_cast<std::byte*>(back.data()), back.size()})
            .has_value());
    RC_ASSERT(back == text);
}

TEST(Hex, one_value_has_one_spelling) {
    std::array<std::byte, 1> byte;
    EXPECT_TRUE(parse_hex("af", byte).has_value());
    EXPECT_FALSE(parse_hex("AF", byte).has_value());
    EXPECT_FALSE(parse_hex("a", byte).has_value());
    EXPECT_FALSE(parse_hex("0g", byte).has_value());
}

// RFC 8032 section 7.1, test 3.
TEST(Ed25519, gives_the_published_signature) {
    struct Seed final : Random {
        Result<void> fill(MutableBytes into) override {
            return parse_hex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                             into);
        }
    } seed;
    const SigningKey key = SigningKey::generate(seed).value();
    EXPECT_EQ(to_hex(key.public_key()),
              "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025");
    const auto message = hex<2>("af82");
    const Signature signature = key.sign(message).value();
    EXPECT_EQ(to_hex(signature),
              "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
              "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a");
    EXPECT_TRUE(is_signed_by(key.public_key(), message, signature));
}

RC_GTEST_PROP(Ed25519, any_changed_bit_is_not_signed, (std::string message)) {
    static const SigningKey key = SigningKey::generate().value();
    Signature signature = key.sign(as_bytes(message)).value();
    PublicKey other = key.public_key();
    RC_ASSERT(is_signed_by(other, as_bytes(message), signature));
    const auto bit = *rc::gen::inRange<std::size_t>(0, 512);
    signature[bit / 8] ^= std::byte(1u << (bit % 8));
    RC_ASSERT(!is_signed_by(other, as_bytes(message), signature));
    signature[bit / 8] ^= std::byte(1u << (bit % 8));
    RC_ASSERT(!is_signed_by(other, as_bytes(message + "x"), signature));
    other[bit / 16] ^= std::byte(1u << (bit % 8));
    RC_ASSERT(!is_signed_by(other, as_bytes(message), signature));
}

TEST(SigningKey, comes_back_from_its_file_which_only_its_owner_may_read) {
    TemporaryDirectory directory;
    const SigningKey key = SigningKey::generate().value();
    ASSERT_TRUE(key.store(directory / "key").has_value());
    struct stat status{};
    ASSERT_EQ(::stat((directory / "key").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0600u);
    const SigningKey back = SigningKey::load(directory / "key").value();
    EXPECT_EQ(back.public_key(), key.public_key());
    EXPECT_TRUE(is_signed_by(key.public_key(), as_bytes("m"), back.sign(as_bytes("m")).value()));
}

TEST(SigningKey, a_file_is_never_overwritten) {
    TemporaryDirectory directory;
    const SigningKey first = SigningKey::generate().value();
    ASSERT_TRUE(first.store(directory / "key").has_value());
    EXPECT_EQ(SigningKey::generate().value().store(directory / "key").error().os_errno, EEXIST);
    EXPECT_EQ(SigningKey::load(directory / "key").value().public_key(), first.public_key());
}

TEST(SigningKey, a_file_that_others_may_read_or_a_link_is_refused) {
    TemporaryDirectory directory;
    ASSERT_TRUE(SigningKey::generate().value().store(directory / "key").has_value());
    std::filesystem::create_symlink(directory / "key", directory / "link");
    EXPECT_FALSE(SigningKey::load(directory / "link").has_value());
    ASSERT_EQ(::chmod((directory / "key").c_str(), 0640), 0);
    EXPECT_EQ(SigningKey::load(directory / "key").error().code, Code::permission);
    ASSERT_EQ(::mkfifo((directory / "fifo").c_str(), 0600), 0);
    EXPECT_EQ(SigningKey::load(directory / "fifo").error().code, Code::permission);
}

TEST(SigningKey, a_file_with_something_else_is_refused) {
    TemporaryDirectory directory;
    std::ofstream(directory / "key")
        << "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    ASSERT_EQ(::chmod((directory / "key").c_str(), 0600), 0);
    EXPECT_EQ(SigningKey::load(directory / "key").error().code, Code::malformed);
    EXPECT_EQ(load_public_key(directory / "key").error().code, Code::malformed);
}

TEST(PublicKey, comes_back_from_its_file) {
    TemporaryDirectory directory;
    const PublicKey key = SigningKey::generate().value().public_key();
    ASSERT_TRUE(store_public_key(key, directory / "key.pub").has_value());
    EXPECT_EQ(load_public_key(directory / "key.pub").value(), key);
    EXPECT_EQ(key_id(key).size(), 16u);
}

}  // namespace
}  // namespace underseer::crypto
