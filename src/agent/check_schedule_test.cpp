#include "agent/check_schedule.h"

#include <gtest/gtest.h>

#include <sstream>

#include "base/os.h"
#include "detect/check.h"

namespace underseer::agent {
namespace {

using namespace std::chrono_literals;

class Schedule : public testing::Test {
  protected:
    Schedule() {
        for (const detect::CheckKind& kind : detect::all_checks()) {
            policy_.check_every[std::string(kind.name)] = std::nullopt;
        }
        policy_.check_every["hidden_process"] = 10s;
        policy_.check_every["credentials"] = 30s;
        schedule_.follow(policy_);
        schedule_.begin(at(0s));
    }
    static CheckSchedule::Instant at(std::chrono::milliseconds time) {
        return CheckSchedule::Instant() + 1h + time;
    }

    using Names = std::vector<std::string>;
    policy::Policy policy_;
    CheckSchedule schedule_;
};

TEST_F(Schedule, makes_each_check_when_it_is_due) {
    EXPECT_EQ(schedule_.next(), at(0s));
    EXPECT_EQ(schedule_.due(at(0s)), (Names{"hidden_process", "credentials"}));
    schedule_.made({"hidden_process", "credentials"}, at(0s), 1ms);
    EXPECT_EQ(schedule_.next(), at(10s));
    EXPECT_TRUE(schedule_.due(at(5s)).empty());
    EXPECT_EQ(schedule_.due(at(10s)), Names{"hidden_process"});
    schedule_.made({"hidden_process"}, at(10s), 1ms);
    schedule_.made({"hidden_process"}, at(20s), 1ms);
    EXPECT_EQ(schedule_.due(at(29'800ms)), (Names{"hidden_process", "credentials"}))
        << "what is nearly due is made in the same look";
}

TEST_F(Schedule, spaces_looks_by_what_they_cost) {
    // 1 % of a core: 500 ms may come every 50 s.
    schedule_.made({"hidden_process", "credentials"}, at(0s), 500ms);
    EXPECT_EQ(schedule_.next(), at(50s));
    EXPECT_TRUE(schedule_.due(at(49s)).empty());
    EXPECT_EQ(schedule_.due(at(50s)).size(), 2u);
    EXPECT_EQ(schedule_.period("hidden_process"), 50s);
    schedule_.made({"hidden_process"}, at(50s), 10ms);
    EXPECT_EQ(schedule_.period("hidden_process"), 10s);
    EXPECT_EQ(schedule_.period("credentials"), 50s);
}

TEST_F(Schedule, makes_nothing_that_is_off) {
    EXPECT_EQ(schedule_.period("process_names"), std::nullopt);
    policy_.check_every["hidden_process"] = policy_.check_every["credentials"] = std::nullopt;
    schedule_.follow(policy_);
    EXPECT_EQ(schedule_.next(), std::nullopt);
    EXPECT_TRUE(schedule_.due(at(1h)).empty());
}

TEST_F(Schedule, keeps_its_times_when_the_policy_changes) {
    schedule_.made({"hidden_process", "credentials"}, at(0s), 1ms);
    policy_.check_every["hidden_process"] = 5s;
    schedule_.follow(policy_);
    EXPECT_EQ(schedule_.next(), at(10s));
    schedule_.made({"hidden_process"}, at(10s), 1ms);
    EXPECT_EQ(schedule_.next(), at(15s));
}

// The installed file names every check, and says how often it is made without it.
TEST(CheckKeys, stand_in_the_installed_policy) {
    std::string set;
    std::istringstream lines(
        read_file(UNDERSEER_SOURCE_DIR "/packaging/policy.toml", 1u << 20).value());
    for (std::string line; std::getline(lines, line) && !line.starts_with("#[[suppress]]");) {
        set += (line.starts_with("#") && !line.starts_with("# ") ? line.substr(1) : line) + "\n";
    }
    const auto policy = policy::parse(set, "policy.toml", detect::check_names());
    ASSERT_TRUE(policy.has_value()) << policy.error().to_text();
    EXPECT_EQ(policy->check_every.size(), detect::all_checks().size());
    for (const detect::CheckKind& kind : detect::all_checks()) {
        EXPECT_EQ(policy->period_of(kind.name, 7ms), kind.every) << kind.name;
    }
}

}  // namespace
}  // namespace underseer::agent
