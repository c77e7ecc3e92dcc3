#include "event_log/signed_bundle.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/os.h"

namespace underseer::event_log {
namespace {

class Evidence : public testing::Test {
  protected:
    void SetUp() override {
        std::string form = (std::filesystem::temp_directory_path() / "evidence_XXXXXX").string();
        ASSERT_NE(::mkdtemp(form.data()), nullptr);
        root_ = form;
        folder_ = root_ / "bundle";
        std::filesystem::create_directory(folder_);
        bundle_.made_ns = 1'800'000'000'000'000'000;
        bundle_.about = {{"instance", "web-1"}, {"because", "user 0 wants it"}};
        add("processes.json", "[]\n");
        add("process-7.core", std::string(3 << 20, '\0') + "at its end");
        bundle_.files.push_back({.name = "sockets.json",
                                 .kind = "sockets",
                                 .why_not = "the kernel has no such table",
                                 .gaps = {}});
        digest_ = bundle_.store(folder_, key_).value();
    }
    void TearDown() override { std::filesystem::remove_all(root_); }

    void write(const std::string& name, const std::string& text) {
        std::ofstream(folder_ / name) << text;
    }
    void add(const std::string& name, const std::string& text) {
        write(name, text);
        bundle_.files.push_back({.name = name,
                                 .kind = "a kind",
                                 .bytes = text.size(),
                                 .sha256 = crypto::to_hex(crypto::sha256(as_bytes(text))),
                                 .why_not = {},
                                 .gaps = {"one page: swapped out"}});
    }
    Result<SignedBundle> load() { return SignedBundle::load(folder_, key_.public_key()); }
    // "processes.json changed; .."
    std::string mismatches() {
        std::string text;
        for (const auto& one : load().value().compare(folder_)) {
            text += (text.empty() ? "" : "; ") + one.name + ' ' + one.what;
        }
        return text;
    }

    std::filesystem::path root_, folder_;
    SignedBundle bundle_;
    std::string digest_;
    crypto::SigningKey key_ = crypto::SigningKey::generate().value();
};

TEST_F(Evidence, is_what_was_signed) {
    const auto bundle = load().value();
    EXPECT_EQ(bundle.made_ns, bundle_.made_ns);
    ASSERT_NE(bundle.find("instance"), nullptr);
    EXPECT_EQ(*bundle.find("instance"), "web-1");
    EXPECT_EQ(bundle.find("tenant"), nullptr);
    ASSERT_EQ(bundle.files.size(), 3u);
    EXPECT_EQ(bundle.files[1].bytes, (3u << 20) + 10);
    EXPECT_EQ(bundle.files[1].gaps, bundle_.files[1].gaps);
    EXPECT_EQ(bundle.files[2].why_not, "the kernel has no such table");
    EXPECT_EQ(mismatches(), "");
    const std::string text = read_file(folder_ / SignedBundle::kFileName, 1u << 20).value();
    EXPECT_EQ(digest_, crypto::to_hex(crypto::sha256(as_bytes(text))));
}

TEST_F(Evidence, that_was_touched_is_named) {
    write("processes.json", "[ ]");  // as long as before
    EXPECT_EQ(mismatches(), "processes.json changed");
    write("processes.json", "longer than before");
    EXPECT_EQ(mismatches(), "processes.json changed");
    std::filesystem::remove(folder_ / "processes.json");
    write("sockets.json", "[]");
    EXPECT_EQ(mismatches(), "processes.json missing; sockets.json not in the bundle");
    std::filesystem::remove(folder_ / "sockets.json");
    std::filesystem::create_symlink("process-7.core", folder_ / "processes.json");
    EXPECT_NE(mismatches(), "");
}

TEST_F(Evidence, whose_list_was_changed_or_signed_by_another_is_not_believed) {
    const auto path = folder_ / SignedBundle::kFileName;
    const std::string text = read_file(path, 1u << 20).value();
    EXPECT_EQ(SignedBundle::load(folder_, crypto::SigningKey::generate().value().public_key())
                  .error()
                  .code,
              Code::permission);
    for (std::size_t at = 0; at < text.size(); at += 7) {
        std::string changed = text;
        changed[at] = changed[at] == 'x' ? 'y' : 'x';
        std::ofstream(path, std::ios::trunc) << changed;
        EXPECT_FALSE(load().has_value()) << "byte " << at;
    }
    std::ofstream(path, std::ios::trunc) << text.substr(text.find('\n') + 1);
    EXPECT_EQ(load().error().code, Code::permission);
    std::ofstream(path, std::ios::trunc) << "";
    EXPECT_EQ(load().error().code, Code::permission);
    std::filesystem::remove(path);
    EXPECT_EQ(load().error().code, Code::not_found);
}

// The list is not written twice: what was signed first stays.
TEST_F(Evidence, is_not_signed_again) {
    EXPECT_FALSE(bundle_.store(folder_, key_).has_value());
}

}  // namespace
}  // namespace underseer::event_log
