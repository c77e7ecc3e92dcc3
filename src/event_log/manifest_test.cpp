#include "event_log/manifest.h"

#include <gtest/gtest.h>

#include <fstream>

#include "event_log/log_fixture.h"

namespace underseer::event_log {
namespace {

class ManifestOfADirectory : public testing::Test {
  protected:
    void SetUp() override {
        std::string form = (std::filesystem::temp_directory_path() / "manifest_XXXXXX").string();
        ASSERT_NE(::mkdtemp(form.data()), nullptr);
        root_ = form;
        std::filesystem::create_directories(root_ / "bin/sub");
        write("bin/agent", "program");
        write("bin/sub/policy.toml", "policy");
        const auto manifest = Manifest::of({root_ / "bin"}).value();
        ASSERT_EQ(manifest.entries.size(), 2u);
        ASSERT_TRUE(manifest.store(root_ / "manifest", key_).has_value());
    }
    void TearDown() override { std::filesystem::remove_all(root_); }

    void write(const std::string& name, const std::string& text) {
        std::ofstream(root_ / name) << text;
    }
    std::vector<Manifest::Mismatch> mismatches() {
        return Manifest::load(root_ / "manifest", key_.public_key())
            .value()
            .compare({root_ / "bin"});
    }

    std::filesystem::path root_;
    crypto::SigningKey key_ = crypto::SigningKey::generate().value();
};

TEST_F(ManifestOfADirectory, unchanged_files_match) {
    EXPECT_TRUE(mismatches().empty());
}

TEST_F(ManifestOfADirectory, a_changed_a_missing_and_a_new_file_are_named) {
    write("bin/agent", "programme");
    std::filesystem::remove(root_ / "bin/sub/policy.toml");
    write("bin/new", "x");
    const auto found = mismatches();
    ASSERT_EQ(found.size(), 3u);
    EXPECT_EQ(found[0].path, root_ / "bin/agent");
    EXPECT_EQ(found[0].what, "changed");
    EXPECT_EQ(found[1].path, root_ / "bin/sub/policy.toml");
    EXPECT_EQ(found[1].what, "missing");
    EXPECT_EQ(found[2].path, root_ / "bin/new");
    EXPECT_EQ(found[2].what, "not in the manifest");
}

TEST_F(ManifestOfADirectory, a_link_in_the_place_of_a_file_is_a_mismatch) {
    std::filesystem::rename(root_ / "bin/agent", root_ / "elsewhere");
    std::filesystem::create_symlink(root_ / "elsewhere", root_ / "bin/agent");
    EXPECT_EQ(mismatches().size(), 1u);
}

TEST_F(ManifestOfADirectory, any_changed_byte_of_the_manifest_is_refused) {
    const std::string good = read_file(root_ / "manifest", 1 << 20).value();
    const std::size_t signature_line = good.rfind('\n', good.size() - 2) + 1;
    const std::size_t key_text = good.find("\",\"signature", signature_line);
    for (std::size_t i = 0; i < good.size(); ++i) {
        if (i >= signature_line && i < key_text) continue;  // names the key, for people
        std::string bad = good;
        bad[i] = static_cast<char>(bad[i] ^ 1);
        write("manifest", bad);
        const auto loaded = Manifest::load(root_ / "manifest", key_.public_key());
        ASSERT_FALSE(loaded.has_value()) << i;
        EXPECT_EQ(loaded.error().code, Code::permission);
    }
    for (const std::size_t size :
         {std::size_t{0}, std::size_t{1}, good.size() / 2, signature_line}) {
        write("manifest", good.substr(0, size));
        EXPECT_FALSE(Manifest::load(root_ / "manifest", key_.public_key()).has_value()) << size;
    }
}

TEST_F(ManifestOfADirectory, another_key_is_refused) {
    const auto other = crypto::SigningKey::generate().value();
    EXPECT_EQ(Manifest::load(root_ / "manifest", other.public_key()).error().code,
              Code::permission);
}

}  // namespace
}  // namespace underseer::event_log
