// What tests of actions share: one guest, an agent that watches it alone, and orders to it.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "guests.h"
#include "testing/test_agent.h"

namespace underseer::testing {

class ActedUponVm : public ::testing::Test {
  protected:
    virtual VmSpec spec() const { return {.workload = false}; }

    void SetUp() override {
        auto booted = TestVm::boot(spec());
        if (!booted.has_value() && booted.error().code == Code::unavailable) {
            GTEST_SKIP() << booted.error().to_text();
        }
        ASSERT_TRUE(booted.has_value()) << booted.error().to_text();
        vm_.emplace(std::move(*booted));
    }
    void start_agent(const std::string& policy = {}) {
        agent_.emplace(fmt::format("{}\n[instances]\nonly = [\"name:{}\"]\n", policy, vm_->name()));
        agent_->start();
        agent_->wait_until_watched(vm_->name());
    }
    // underseer act VM ACTION OPTIONS
    RunResult act(const std::string& action, std::vector<std::string> options = {},
                  unsigned user = 0) {
        options.insert(options.begin(), {"act", vm_->name(), action});
        return agent_->cli(options, user);
    }

    std::optional<TestVm> vm_;
    std::optional<TestAgent> agent_;
};

}  // namespace underseer::testing
