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
            inspection_.check_every[std::string(kind.name)] = std::nullopt;
        }
        inspection_.check_every["hidden_process"] = 10s;
        inspection_.check_every["credentials"] = 30s;
        schedule_.follow(inspection_);
        schedule_.begin(at(0s));
    }
    static CheckSchedule::Instant at(std::chrono::milliseconds time) {
        return CheckSchedule::Instant() + 1h + time;
    }

    using Names = std::vector<std::string>;
    policy::Inspection inspection_;
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

TEST_F(Schedule, leaves_a_part_of_the_share_to_others) {
    schedule_.leave(0.5);
    EXPECT_EQ(schedule_.afforded(10ms), 2s);
    schedule_.leave(7);
    EXPECT_EQ(schedule_.afforded(10ms), 2s) << "but half at most";
    schedule_.leave(0);
    EXPECT_EQ(schedule_.afforded(10ms), 1s);
}

TEST_F(Schedule, shares_a_bound_with_others_and_counts_how_late_it_is) {
    schedule_.bound(0.1);
    EXPECT_EQ(schedule_.afforded(10ms), 10s);
    schedule_.made({"hidden_process"}, at(0s), 50ms);
    EXPECT_EQ(schedule_.next(), at(50s));
    EXPECT_EQ(schedule_.late("hidden_process"), 0s);
    schedule_.made({"hidden_process"}, at(50s), 1ms);
    EXPECT_EQ(schedule_.late("hidden_process"), 40s);
    EXPECT_EQ(schedule_.late("credentials"), 0s);
    schedule_.bound(100);
    EXPECT_EQ(schedule_.afforded(10ms), 1s) << "the policy's word for one VM holds all the same";
}

TEST_F(Schedule, makes_at_once_what_is_needed_whatever_it_has_paid_for) {
    constexpr std::string_view kWanted[] = {"credentials"};
    schedule_.made({"hidden_process", "credentials"}, at(0s), 500ms);
    schedule_.hurry(kWanted, at(3s));
    EXPECT_EQ(schedule_.next(), at(3s));
    EXPECT_EQ(schedule_.due(at(3s)), Names{"credentials"});
    schedule_.made({"credentials"}, at(3s), 1ms);
    EXPECT_TRUE(schedule_.due(at(4s)).empty());
    // A look that was being taken has seen nothing of it.
    schedule_.hurry(kWanted, at(6s));
    schedule_.made({"credentials"}, at(5s), 1ms);
    EXPECT_EQ(schedule_.due(at(6s)), Names{"credentials"});
}

TEST_F(Schedule, looks_soon_after_a_sign) {
    schedule_.made({"hidden_process", "credentials"}, at(0s), 1ms);
    schedule_.stir(guest_linux::kSignOfModules, at(2s));
    EXPECT_EQ(schedule_.next(), at(10s)) << "neither of them judges modules";
    schedule_.stir(guest_linux::kSignOfTasks, at(3s));
    schedule_.stir(guest_linux::kSignOfTasks, at(3'200ms));
    EXPECT_EQ(schedule_.next(), at(3'250ms));
    EXPECT_EQ(schedule_.due(at(3'250ms)), (Names{"hidden_process", "credentials"}));
    schedule_.stir(guest_linux::kSignOfTasks, at(3'300ms));
    schedule_.made({"hidden_process", "credentials"}, at(3'250ms), 1ms);
    EXPECT_EQ(schedule_.next(), at(13'250ms)) << "the sign was told before the look's answer";
    schedule_.stir(guest_linux::kSignOfTasks, at(3'900ms));
    EXPECT_EQ(schedule_.next(), at(4'250ms)) << "a second later at the earliest";
    schedule_.made({"hidden_process", "credentials"}, at(4'250ms), 1ms);
    EXPECT_EQ(schedule_.next(), at(14'250ms)) << "and from then on as before";
    EXPECT_EQ(schedule_.late("credentials"), 0s);
}

TEST_F(Schedule, does_not_take_a_look_that_comes_too_early_for_that_of_a_sign) {
    schedule_.made({"hidden_process", "credentials"}, at(0s), 1ms);
    schedule_.stir(guest_linux::kSignOfTasks, at(9'900ms));
    EXPECT_EQ(schedule_.due(at(9'900ms)), Names{"hidden_process"}) << "it is nearly due";
    schedule_.made({"hidden_process"}, at(9'900ms), 1ms);
    EXPECT_EQ(schedule_.due(at(10'150ms)), (Names{"hidden_process", "credentials"}));
}

TEST_F(Schedule, a_look_out_of_turn_does_not_stand_for_one_that_is_due) {
    schedule_.made({"hidden_process", "credentials"}, at(0s), 1ms);
    for (auto now = 0s; now < 30s; now += 1s) {
        schedule_.stir(guest_linux::kSignOfTasks, at(now));
        const auto when = at(now + 250ms);
        EXPECT_EQ(schedule_.is_out_of_turn(when), now != 10s && now != 20s) << now.count();
        schedule_.made(schedule_.due(when), when, 1ms, schedule_.is_out_of_turn(when));
    }
    EXPECT_FALSE(schedule_.is_out_of_turn(at(30'250ms)));
}

TEST_F(Schedule, pays_for_what_signs_ask_for) {
    schedule_.made({"hidden_process", "credentials"}, at(0s), 1ms);
    // A minute of rest is worth 600 ms, and another one as much again.
    auto now = at(1h);
    std::chrono::milliseconds spent{0};
    const auto end = now + 60s;
    while (now < end) {
        schedule_.stir(guest_linux::kSignOfTasks, now);
        now = std::max(now, *schedule_.next());
        const auto due = schedule_.due(now);
        EXPECT_FALSE(due.empty());
        schedule_.made(due, now, 30ms);
        spent += 30ms;
    }
    EXPECT_GE(spent, 1'100ms);
    EXPECT_LE(spent, 1'250ms);
}

TEST_F(Schedule, a_check_that_is_off_stays_off_whatever_happens) {
    schedule_.stir(guest_linux::kAllSigns, at(1s));
    EXPECT_EQ(schedule_.due(at(20s)), (Names{"hidden_process", "credentials"}));
}

TEST_F(Schedule, makes_nothing_that_is_off) {
    EXPECT_EQ(schedule_.period("process_names"), std::nullopt);
    inspection_.check_every["hidden_process"] = inspection_.check_every["credentials"] =
        std::nullopt;
    schedule_.follow(inspection_);
    EXPECT_EQ(schedule_.next(), std::nullopt);
    EXPECT_TRUE(schedule_.due(at(1h)).empty());
}

TEST_F(Schedule, keeps_its_times_when_the_policy_changes) {
    schedule_.made({"hidden_process", "credentials"}, at(0s), 1ms);
    inspection_.check_every["hidden_process"] = 5s;
    schedule_.follow(inspection_);
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
    EXPECT_EQ(policy->inspection.check_every.size(), detect::all_checks().size());
    for (const detect::CheckKind& kind : detect::all_checks()) {
        EXPECT_EQ(policy->inspection.period_of(kind.name, 7ms), kind.every) << kind.name;
    }
}

}  // namespace
}  // namespace underseer::agent
