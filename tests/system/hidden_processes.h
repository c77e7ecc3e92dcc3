// What tests of hidden processes share: a guest of each kernel, and the check asked of it.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "guests.h"

namespace underseer::testing {

class HiddenProcesses : public ::testing::TestWithParam<std::string> {
  protected:
    void SetUp() override {
        auto booted = TestVm::boot({.kernel = GetParam(), .workload = false});
        if (!booted.has_value() && booted.error().code == Code::unavailable) {
            GTEST_SKIP() << booted.error().to_text();
        }
        ASSERT_TRUE(booted.has_value()) << booted.error().to_text();
        vm_.emplace(std::move(*booted));
        introspector_.emplace(attach(*vm_));
    }

    event::CheckReport check(bool deep = false) {
        auto answer = introspector_->ask<event::CheckReport>(ask_for_hidden(deep));
        EXPECT_TRUE(answer.has_value()) << answer.error().to_text();
        return answer.has_value() ? answer->items.front() : event::CheckReport{};
    }
    void expect_clean(bool deep = false) {
        const auto report = check(deep);
        EXPECT_EQ(report.outcome, event::Outcome::clean) << report.reason;
        for (const event::Finding& finding : report.findings) {
            ADD_FAILURE() << finding.subject << ", shown by " << finding.evidence[0].text
                          << ", missing in " << finding.evidence[1].text;
        }
        // The search of RAM must have worked, or its silence says nothing.
        for (const std::string& gap : report.coverage.gaps) ADD_FAILURE() << gap;
    }

    std::optional<TestVm> vm_;
    std::optional<agent::Introspector> introspector_;
    std::uint32_t victim_ = 0;
};

}  // namespace underseer::testing
