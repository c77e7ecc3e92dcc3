#include "agent/event_rules.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "base/limits.h"

namespace underseer::agent {
namespace {

class RulesOfAFolder : public testing::Test {
  protected:
    void SetUp() override {
        std::string made = std::filesystem::temp_directory_path() / "underseer-rules.XXXXXX";
        ASSERT_NE(::mkdtemp(made.data()), nullptr);
        folder_ = made;
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }

    // Those that are there need no worker: none can be read.
    LoadedRules load() const {
        const std::string paths[] = {folder_};
        auto loaded = load_event_rules(paths, RuleOwner::anybody, /*must_be_there=*/true);
        EXPECT_TRUE(loaded.has_value());
        return loaded.has_value() ? std::move(*loaded) : LoadedRules{};
    }

    std::filesystem::path folder_;
};

TEST_F(RulesOfAFolder, which_cannot_be_read_are_refused_by_name) {
    std::filesystem::create_symlink("nowhere", folder_ / "gone.yml");
    const LoadedRules loaded = load();
    ASSERT_EQ(loaded.refused.size(), 1u);
    EXPECT_EQ(loaded.refused[0].file, folder_ / "gone.yml");
}

TEST_F(RulesOfAFolder, that_are_too_many_are_told) {
    for (std::size_t i = 0; i <= limits::kMaxSigmaFiles; ++i) {
        std::ofstream(folder_ / fmt::format("{}.yml", i));
    }
    const LoadedRules loaded = load();
    ASSERT_EQ(loaded.refused.size(), 1u);
    EXPECT_EQ(loaded.refused[0].file, folder_);
    EXPECT_EQ(loaded.refused[0].message.substr(0, 29), "there are more than 8192 file");
}

}  // namespace
}  // namespace underseer::agent
