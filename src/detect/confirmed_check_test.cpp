#include "detect/confirmed_check.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "guest_linux/fake_guest.h"

namespace underseer::detect {
namespace {

using event::Outcome;

constexpr Rule kRule{
    .id = "rule", .title = "A thing", .severity = event::Severity::high, .subject_kind = "process"};
constexpr Rule kRemark{.id = "remark", .title = "A thing to know", .subject_kind = "process"};

// What the looks show, one after the other; the last one for good.
std::vector<event::CheckReport> script;
std::size_t looked = 0;

event::CheckReport of(std::initializer_list<std::string> keys) {
    event::CheckReport report{.outcome = Outcome::clean};
    for (const std::string& key : keys) add_finding(report, kRule.about(key, key));
    return report;
}
event::CheckReport blind() {
    return {.outcome = Outcome::unavailable, .reason = "for a test"};
}

class Confirmed : public testing::Test {
  protected:
    Confirmed() : fake_({}) {
        fake_.add_system();
        fake_.finish();
        guest_ = guest_linux::Guest::attach(&fake_).value();
    }
    event::CheckReport check(std::vector<event::CheckReport> looks) {
        script = std::move(looks);
        looked = 0;
        std::vector<std::unique_ptr<Check>> checks;
        checks.push_back(std::make_unique<ConfirmedCheck>(
            "name", [](Snapshot&) { return script[std::min(looked++, script.size() - 1)]; }));
        return run(checks, *guest_, [this](auto pause) { waited_ += pause; }).front();
    }

    guest_linux::FakeGuest fake_;
    std::unique_ptr<guest_linux::Guest> guest_;
    std::chrono::milliseconds waited_{0};
};

TEST_F(Confirmed, one_look_that_shows_nothing_is_enough) {
    const auto report = check({of({})});
    EXPECT_EQ(report.outcome, Outcome::clean);
    EXPECT_EQ(report.check, "name");
    EXPECT_EQ(looked, 1u);
    EXPECT_EQ(waited_.count(), 0);
}

TEST_F(Confirmed, what_every_look_shows_is_told) {
    const auto report = check({of({"a", "b"}), of({"b", "c"}), of({"c", "b"})});
    ASSERT_EQ(report.outcome, Outcome::finding);
    ASSERT_EQ(report.findings.size(), 1u);
    EXPECT_EQ(report.findings[0].key, "b");
    EXPECT_EQ(waited_, 2 * ConfirmedCheck::kPause);
}

TEST_F(Confirmed, what_is_gone_at_the_next_look_is_not_told) {
    EXPECT_EQ(check({of({"a"}), of({})}).outcome, Outcome::clean);
    EXPECT_EQ(check({of({"a"}), of({"b"})}).outcome, Outcome::clean);
    EXPECT_EQ(looked, 2u);
}

TEST_F(Confirmed, a_look_that_cannot_be_made_neither_confirms_nor_clears) {
    const auto report = check({of({"a"}), blind(), of({"a"}), blind(), of({"a"})});
    ASSERT_EQ(report.findings.size(), 1u);
    EXPECT_EQ(looked, 5u);
    EXPECT_EQ(check({blind(), of({})}).outcome, Outcome::clean);
}

TEST_F(Confirmed, where_looks_cannot_be_made_the_answer_is_not_clean) {
    const auto never = check({blind()});
    EXPECT_EQ(never.outcome, Outcome::unavailable);
    EXPECT_EQ(never.reason, "for a test");
    const auto once = check({of({"a"}), blind()});
    EXPECT_EQ(once.outcome, Outcome::unavailable);
    EXPECT_EQ(once.reason, "what was seen could be looked at in 1 of 3 looks");
    EXPECT_TRUE(once.findings.empty());
}

TEST_F(Confirmed, a_doubt_stays_when_what_stood_beside_it_is_gone) {
    event::CheckReport doubtful = of({"a"});
    doubtful.reason = "a list is broken";
    event::CheckReport other = of({"b"});
    other.reason = "a list is broken";
    const auto report = check({doubtful, other});
    EXPECT_EQ(report.outcome, Outcome::unavailable);
    EXPECT_EQ(report.reason, "a list is broken");
    const auto confirmed = check({doubtful});
    EXPECT_EQ(confirmed.outcome, Outcome::finding);
    EXPECT_EQ(confirmed.reason, "a list is broken")
        << "whoever takes the finding away again must not leave a clean report";
}

TEST_F(Confirmed, what_is_only_informational_covers_no_doubt) {
    event::CheckReport report{.outcome = Outcome::clean};
    add_finding(report, kRemark.about("a", "a"));
    EXPECT_EQ(check({report}).outcome, Outcome::finding);
    settle_doubt(report, "a list is broken");
    EXPECT_EQ(report.outcome, Outcome::unavailable);
    const auto answer = check({report});
    EXPECT_EQ(answer.outcome, Outcome::unavailable);
    EXPECT_EQ(answer.reason, "a list is broken");
    EXPECT_TRUE(answer.findings.empty());
}

TEST_F(Confirmed, a_flood_is_told_as_far_as_a_report_goes) {
    event::CheckReport flood{.outcome = Outcome::clean};
    for (int i = 0; i < 2000; ++i) {
        add_finding(flood, kRule.about("many", std::to_string(i)));
        add_gap(flood, fmt::format("gap {}", i));
    }
    EXPECT_LT(flood.coverage.gaps.size(), 100u);
    flood.coverage.gaps.clear();
    const auto report = check({flood});
    EXPECT_EQ(report.findings.size(), limits::kMaxFindingsOfReport);
    EXPECT_EQ(report.coverage.gaps.back(), "1000 findings: the first 100 are told");
}

}  // namespace
}  // namespace underseer::detect
