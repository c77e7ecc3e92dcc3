#include "detect/findings/odd_one_out.h"

#include <gtest/gtest.h>

namespace underseer::detect {
namespace {

using event::CheckReport;
using event::Outcome;

const Reference kSeenInA{"b1-v1", "a", "web-1", 1'000'000'000};

event::Finding differs_at(const std::string& offset) {
    return {.rule = "code_unlike_first_seen",
            .severity = event::Severity::high,
            .subject = "do_exit+0x" + offset,
            .key = offset,
            .evidence = {{"as first seen", "nop", 0x1000, "\x90"}, {"now", "ret", 0x1000, "\xc3"}}};
}

class OddOnes : public testing::Test {
  protected:
    // What is told of the guest, whose code differs at these places from what was first seen in A.
    std::vector<event::Finding> look(const std::string& guest, std::vector<std::string> places = {},
                                     const Reference& reference = kSeenInA) {
        CheckReport report{.check = "kernel_code", .outcome = Outcome::clean};
        for (const std::string& place : places) report.findings.push_back(differs_at(place));
        if (!places.empty()) report.outcome = Outcome::finding;
        odd_.judge(guest, reference, report);
        EXPECT_EQ(report.outcome == Outcome::finding, !report.findings.empty());
        return report.findings;
    }
    static std::string compared(const event::Finding& finding) {
        for (const event::Evidence& item : finding.evidence) {
            if (item.name == "compared") return item.text;
        }
        return "";
    }

    OddOneOut odd_;
};

TEST_F(OddOnes, there_are_none_among_guests_that_are_alike) {
    EXPECT_TRUE(look("a").empty());
    EXPECT_TRUE(look("b").empty());
    EXPECT_TRUE(look("c").empty());
}

TEST_F(OddOnes, are_those_that_differ_from_the_others) {
    look("a"), look("b");
    const auto told = look("c", {"10"});
    ASSERT_EQ(told.size(), 1u);
    EXPECT_EQ(told[0].subject, "do_exit+0x10");
    EXPECT_EQ(compared(told[0]), "1 guest like this, 2 guests not");
    EXPECT_TRUE(look("a").empty());
    EXPECT_TRUE(look("b").empty());
}

TEST_F(OddOnes, of_two_that_differ_it_is_the_later_one) {
    look("a");
    const auto told = look("b", {"10"});
    ASSERT_EQ(told.size(), 1u);
    EXPECT_EQ(compared(told[0]), "1 guest like this, 1 guest not");
    EXPECT_EQ(told[0].evidence.back().text, "web-1, 1970-01-01 00:00:01.000 UTC");
}

TEST_F(OddOnes, are_found_even_if_it_is_the_first) {
    look("a");
    look("b", {"10"});
    EXPECT_TRUE(look("c", {"10"}).empty());
    EXPECT_TRUE(look("b", {"10"}).empty());
    const auto told = look("a");
    ASSERT_EQ(told.size(), 1u);
    EXPECT_EQ(told[0].key, "10");
    EXPECT_EQ(compared(told[0]), "1 guest like this, 2 guests not");
    EXPECT_EQ(told[0].evidence[0].name, "as in other guests");
    EXPECT_EQ(told[0].evidence[0].bytes, "\xc3");
    EXPECT_EQ(told[0].evidence[1].name, "now");
    EXPECT_EQ(told[0].evidence[1].bytes, "\x90");
    EXPECT_EQ(told[0].evidence[1].address, 0u);  // another guest's
}

// It has started anew, and what it is compared with is what it was before.
TEST_F(OddOnes, are_those_that_differ_from_what_they_were) {
    EXPECT_TRUE(look("a").empty());
    EXPECT_EQ(look("a", {"10"}).size(), 1u);
}

TEST_F(OddOnes, are_counted_for_each_place) {
    look("a"), look("b", {"10"}), look("c", {"10", "20"});
    const auto told = look("c", {"10", "20"});
    ASSERT_EQ(told.size(), 1u);
    EXPECT_EQ(told[0].key, "20");
}

TEST_F(OddOnes, are_of_guests_that_are_there) {
    look("a"), look("b", {"10"}), look("c", {"10"});
    odd_.forget("c");
    EXPECT_TRUE(look("a").empty());
    EXPECT_EQ(look("b", {"10"}).size(), 1u);
}

TEST_F(OddOnes, are_of_one_build) {
    const Reference other{"b2-v1", "d", "web-4", 1};
    look("a"), look("b", {"10"}), look("d", {}, other), look("e", {"10"}, other);
    EXPECT_EQ(look("b", {"10"}).size(), 1u);
    EXPECT_TRUE(look("a").empty());
}

TEST_F(OddOnes, leave_what_else_was_found) {
    look("a"), look("b", {"10"});
    CheckReport report{.check = "kernel_code",
                       .outcome = Outcome::finding,
                       .findings = {{.rule = "patched_code", .severity = event::Severity::critical},
                                    differs_at("10")}};
    odd_.judge("c", kSeenInA, report);
    ASSERT_EQ(report.findings.size(), 1u);
    EXPECT_EQ(report.findings[0].rule, "patched_code");
    EXPECT_EQ(report.outcome, Outcome::finding);
}

TEST_F(OddOnes, leave_a_doubt_a_doubt) {
    look("a"), look("b", {"10"});
    CheckReport report{.check = "kernel_code",
                       .outcome = Outcome::finding,
                       .reason = "a list is broken",
                       .findings = {differs_at("10")}};
    odd_.judge("c", kSeenInA, report);
    EXPECT_EQ(report.outcome, Outcome::unavailable);
}

// A guest that could not be seen says nothing for anybody.
TEST_F(OddOnes, are_not_counted_among_those_that_were_not_seen) {
    look("a"), look("b", {"10"}), look("c", {"10"});
    CheckReport unseen{.check = "kernel_code", .outcome = Outcome::unavailable};
    odd_.judge("d", kSeenInA, unseen);
    EXPECT_EQ(look("a").size(), 1u);
}

}  // namespace
}  // namespace underseer::detect
