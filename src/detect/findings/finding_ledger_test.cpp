#include "detect/findings/finding_ledger.h"

#include <gtest/gtest.h>

namespace underseer::detect {
namespace {

using event::Change;
using event::CheckReport;
using event::Outcome;

constexpr std::uint64_t kSecond = 1'000'000'000;

event::Finding hidden(const std::string& key, const std::string& missing = "task_list") {
    return {.rule = "hidden_process",
            .severity = event::Severity::critical,
            .subject = "sleep (pid " + key + ")",
            .key = key,
            .evidence = {{"missing in", missing, 0, {}}}};
}
CheckReport found(std::vector<event::Finding> findings) {
    return {.check = "hidden_process", .outcome = Outcome::finding, .findings = findings};
}
const CheckReport kClean{.check = "hidden_process", .outcome = Outcome::clean};

TEST(FindingLedger, a_condition_that_lasts_is_one_finding) {
    FindingLedger ledger;
    const auto first = ledger.report("vm", found({hidden("7")}), kSecond);
    ASSERT_EQ(first.size(), 1u);
    EXPECT_EQ(first[0].change, Change::opened);
    for (unsigned i = 2; i < 100; ++i) {
        EXPECT_TRUE(ledger.report("vm", found({hidden("7")}), i * kSecond).empty());
    }
    ASSERT_EQ(ledger.open().size(), 1u);
    EXPECT_EQ(ledger.open()[0].count, 99u);
    EXPECT_EQ(ledger.open()[0].first_seen, kSecond);
    EXPECT_EQ(ledger.open()[0].last_seen, 99 * kSecond);
}

TEST(FindingLedger, it_is_updated_when_it_changes_and_once_an_hour) {
    FindingLedger ledger;
    const auto opened = ledger.report("vm", found({hidden("7")}), kSecond);
    const auto more = ledger.report("vm", found({hidden("7", "task_list, pid_idr")}), 2 * kSecond);
    ASSERT_EQ(more.size(), 1u);
    EXPECT_EQ(more[0].change, Change::updated);
    EXPECT_EQ(more[0].open.uid, opened[0].open.uid);
    const auto later = ledger.report("vm", found({hidden("7", "task_list, pid_idr")}),
                                     2 * kSecond + FindingLedger::kRepeatNs);
    ASSERT_EQ(later.size(), 1u);
    EXPECT_EQ(later[0].open.count, 3u);
}

TEST(FindingLedger, it_is_closed_after_two_complete_looks_without_it) {
    FindingLedger ledger;
    ledger.report("vm", found({hidden("7")}), kSecond);
    EXPECT_TRUE(ledger.report("vm", kClean, 2 * kSecond).empty());
    EXPECT_TRUE(ledger.report("vm", found({hidden("7")}), 3 * kSecond).empty());
    EXPECT_TRUE(ledger.report("vm", kClean, 4 * kSecond).empty());
    const auto closed = ledger.report("vm", kClean, 5 * kSecond);
    ASSERT_EQ(closed.size(), 1u);
    EXPECT_EQ(closed[0].change, Change::closed);
    EXPECT_TRUE(ledger.open().empty());
    // Back again, it is another finding.
    const auto again = ledger.report("vm", found({hidden("7")}), 6 * kSecond);
    ASSERT_EQ(again.size(), 1u);
    EXPECT_NE(again[0].open.uid, closed[0].open.uid);
}

TEST(FindingLedger, a_look_at_what_has_changed_closes_nothing) {
    FindingLedger ledger;
    ledger.report("vm", found({hidden("7")}), kSecond);
    CheckReport partial = kClean;
    partial.partial = true;
    for (unsigned i = 2; i < 10; ++i) {
        EXPECT_TRUE(ledger.report("vm", partial, i * kSecond).empty());
    }
    partial = found({hidden("8")});
    partial.partial = true;
    const auto opened = ledger.report("vm", partial, 10 * kSecond);
    ASSERT_EQ(opened.size(), 1u);
    EXPECT_EQ(opened[0].change, Change::opened);
    EXPECT_EQ(ledger.open().size(), 2u);
}

TEST(FindingLedger, what_is_informational_may_come_and_go_for_an_hour) {
    FindingLedger ledger;
    const auto debugged = [](const std::string& whom) {
        event::Finding finding = hidden("gdb", whom);
        finding.severity = event::Severity::informational;
        return found({finding});
    };
    EXPECT_EQ(ledger.report("vm", debugged("a"), kSecond).size(), 1u);
    std::uint64_t now = kSecond;
    for (unsigned i = 0; i < 100; ++i) {
        EXPECT_TRUE(ledger.report("vm", kClean, now += 10 * kSecond).empty());
        EXPECT_TRUE(ledger.report("vm", kClean, now += 10 * kSecond).empty());
        EXPECT_TRUE(ledger.report("vm", debugged("b"), now += 10 * kSecond).empty());
    }
    EXPECT_EQ(ledger.open()[0].count, 101u);
    EXPECT_TRUE(ledger.report("vm", kClean, now + kSecond).empty());
    const auto closed = ledger.report("vm", kClean, now + FindingLedger::kRepeatNs);
    ASSERT_EQ(closed.size(), 1u);
    EXPECT_EQ(closed[0].change, Change::closed);
}

TEST(FindingLedger, not_seeing_is_not_knowing) {
    FindingLedger ledger;
    ledger.report("vm", found({hidden("7")}), kSecond);
    CheckReport blind{.check = "hidden_process", .outcome = Outcome::unavailable, .reason = "x"};
    CheckReport torn = kClean;
    torn.coverage.gaps = {"tree: torn"};
    CheckReport other{.check = "another_check", .outcome = Outcome::clean};
    for (unsigned i = 2; i < 10; ++i) {
        EXPECT_TRUE(ledger.report("vm", blind, i * kSecond).empty());
        EXPECT_TRUE(ledger.report("vm", torn, i * kSecond).empty());
        EXPECT_TRUE(ledger.report("vm", other, i * kSecond).empty());
    }
    EXPECT_EQ(ledger.open().size(), 1u);
}

TEST(FindingLedger, what_cannot_be_said_keeps_nothing_open) {
    FindingLedger ledger;
    ledger.report("vm", found({hidden("7")}), kSecond);
    CheckReport limited = kClean;
    limited.coverage.limits = {"pid 8: its arguments are paged out"};
    EXPECT_TRUE(ledger.report("vm", limited, 2 * kSecond).empty());
    EXPECT_EQ(ledger.report("vm", limited, 3 * kSecond).size(), 1u);
}

TEST(FindingLedger, instances_do_not_mix) {
    FindingLedger ledger;
    ledger.report("a", found({hidden("7")}), kSecond);
    ledger.report("b", found({hidden("7")}), kSecond);
    const auto ended = ledger.end("a", "the VM has ended", 2 * kSecond);
    ASSERT_EQ(ended.size(), 1u);
    EXPECT_EQ(ended[0].reason, "the VM has ended");
    ASSERT_EQ(ledger.open().size(), 1u);
    EXPECT_EQ(ledger.open()[0].instance_id, "b");
}

TEST(FindingLedger, a_restored_finding_goes_on_under_its_uid) {
    FindingLedger before;
    before.report("vm", found({hidden("7")}), kSecond);
    FindingLedger after;
    for (const auto& open : before.open()) after.restore(open);
    EXPECT_TRUE(after.report("vm", found({hidden("7")}), 2 * kSecond).empty());
    EXPECT_EQ(after.open()[0].uid, before.open()[0].uid);
    EXPECT_EQ(after.open()[0].count, 2u);
}

TEST(FindingLedger, a_flood_is_one_finding_more_and_no_end) {
    FindingLedger ledger;
    std::vector<event::Finding> many;
    for (unsigned i = 0; i < 5000; ++i) many.push_back(hidden(std::to_string(i)));
    const auto changes = ledger.report("vm", found(many), kSecond);
    EXPECT_EQ(changes.size(), FindingLedger::kMaxOpenOfInstance + 1);
    EXPECT_EQ(changes.back().open.finding.rule, "finding_flood");
    ledger.report("vm", kClean, 2 * kSecond);
    EXPECT_EQ(ledger.report("vm", kClean, 3 * kSecond).size(), changes.size());
}

}  // namespace
}  // namespace underseer::detect
