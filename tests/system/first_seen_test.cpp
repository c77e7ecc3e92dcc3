// Kernels against what another guest of the same build was first seen to run: of those that differ,
// the odd one is told.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <set>

#include "guests.h"
#include "outside_rootkit.h"
#include "testing/test_agent.h"

namespace underseer::testing {
namespace {

std::string field_text(const json::Value& object, std::string_view key) {
    return object.at(key).value().as_string().value();
}

constexpr const char* kRule = "code_unlike_first_seen";

class FirstSeen : public ::testing::Test {
  protected:
    // Null where the kernel is not at hand: the test is skipped then.
    TestVm* boot(VmSpec spec) {
        spec.workload = false;
        auto booted = TestVm::boot(spec);
        if (!booted.has_value() && booted.error().code == Code::unavailable) {
            why_not_ = booted.error().to_text();
            return nullptr;
        }
        CHECK(booted.has_value());
        return &vms_.emplace_back(std::move(*booted));
    }
    void watch_all() {
        std::string names;
        for (const TestVm& vm : vms_) names += fmt::format("\"name:{}\", ", vm.name());
        const std::string policy = fmt::format(
            "[schedule]\nkernel_code = \"2s\"\ncpu_percent = 50.0\n"
            "[instances]\nonly = [{}]\n",
            names);
        if (agent_) {
            agent_->write_policy(policy);
            agent_->signal(SIGHUP);
        } else {
            agent_.emplace(policy);
            agent_->start();
        }
        for (const TestVm& vm : vms_) agent_->wait_until_watched(vm.name());
    }
    std::string compared_with(const TestVm& vm) {
        const auto instance = agent_->instance(vm.name());
        return instance ? field_text(*instance, "baseline") : std::string();
    }
    void wait_until_compared() {
        agent_->wait_until("all are compared with what was first seen", [&] {
            return std::ranges::all_of(
                vms_, [&](const TestVm& vm) { return compared_with(vm).size() > 41; });
        });
        const auto now = looks();
        agent_->wait_until("all have been looked at since", [&] {
            const auto later = looks();
            return std::ranges::all_of(vms_, [&](const TestVm& vm) {
                return later.at(vm.name()) >= now.at(vm.name()) + 2;
            });
        });
    }
    // Of kernel_code, by VM.
    std::map<std::string, std::int64_t> looks() {
        std::map<std::string, std::int64_t> made;
        for (const TestVm& vm : vms_) {
            const auto instance = agent_->instance(vm.name());
            const auto checks = instance->at("each").value().elements().value();
            for (const json::Value& check : checks) {
                if (field_text(check, "check") != "kernel_code") continue;
                made[vm.name()] = check.at("made").value().as_int().value();
            }
        }
        return made;
    }
    std::set<std::string> odd_ones() {
        std::set<std::string> names;
        const auto told = agent_->findings(kRule);
        for (const TestVm& vm : vms_) {
            const auto instance = agent_->instance(vm.name())->at("instance").value();
            const std::string id = field_text(instance, "id");
            if (std::ranges::any_of(told, [&](const json::Value& one) {
                    return field_text(one, "instance_id") == id;
                })) {
                names.insert(vm.name());
            }
        }
        return names;
    }
    // The first bytes of a function that nothing in the guest calls meanwhile.
    static void alter_kernel(TestVm* vm) {
        vm->pause();
        OutsideRootkit rootkit(vm);
        const GuestVirt at = rootkit.kernel().symbol("__x64_sys_acct").value() + 16;
        rootkit.write(at, 0xcccc'cccc'cccc'cccc);
        vm->resume();
    }

    std::list<TestVm> vms_;
    std::optional<TestAgent> agent_;
    std::string why_not_;
};

class FirstSeenKernels : public FirstSeen, public ::testing::WithParamInterface<std::string> {};
INSTANTIATE_TEST_SUITE_P(FirstSeenKernels, FirstSeenKernels, ::testing::ValuesIn(all_kernels()),
                         test_name);

TEST_P(FirstSeenKernels, are_alike_in_guests_that_are_not) {
    if (!nightly() && GetParam() != "6.1-cloud" && GetParam() != "7.2-cloud") {
        GTEST_SKIP() << "in the nightly run only";
    }
    if (boot({.kernel = GetParam()}) == nullptr) GTEST_SKIP() << why_not_;
    boot({.kernel = GetParam(), .memory_mib = 1024, .vcpus = 2});
    if (nightly()) {
        boot({.kernel = GetParam(),
              .memory_mib = 2048,
              .vcpus = 3,
              .numa_nodes = 2,
              .mac = "52:54:00:00:00:07"});
    }
    watch_all();
    wait_until_compared();
    EXPECT_EQ(compared_with(vms_.front()), compared_with(vms_.back()));
    EXPECT_EQ(odd_ones(), std::set<std::string>{});
    const auto listed = agent_->cli({"baseline", "ls"});
    EXPECT_NE(listed.output.find("first seen in"), std::string::npos) << listed.output;
}

TEST_F(FirstSeen, is_what_a_guest_is_compared_with_when_it_starts_anew) {
    TestVm* vm = boot({});
    if (vm == nullptr) GTEST_SKIP() << why_not_;
    watch_all();
    wait_until_compared();
    EXPECT_EQ(agent_->kill(SIGTERM), 0);
    vm->reset();
    ASSERT_TRUE(vm->wait_until_ready().has_value());
    alter_kernel(vm);
    agent_->start();
    const auto finding = agent_->wait_for_finding(kRule);
    EXPECT_EQ(field_text(finding.at("finding").value(), "subject"), "__x64_sys_acct+0x10");
    EXPECT_TRUE(agent_->findings("code_unlike_baseline").empty());
}

TEST_F(FirstSeen, tells_the_odd_one_of_three) {
    if (!nightly()) GTEST_SKIP() << "in the nightly run only; the next one has three guests too";
    TestVm* first = boot({});
    if (first == nullptr) GTEST_SKIP() << why_not_;
    TestVm* second = boot({});
    watch_all();
    wait_until_compared();
    TestVm* odd = boot({});
    alter_kernel(odd);
    watch_all();
    agent_->wait_for_finding(kRule);
    wait_until_compared();
    EXPECT_EQ(odd_ones(), std::set<std::string>{odd->name()}) << first->name() << second->name();
}

// Nobody has looked at it before it was altered, and it is what the others are compared with.
TEST_F(FirstSeen, tells_the_odd_one_though_it_was_the_first) {
    TestVm* odd = boot({});
    if (odd == nullptr) GTEST_SKIP() << why_not_;
    alter_kernel(odd);
    watch_all();
    wait_until_compared();
    EXPECT_EQ(odd_ones(), std::set<std::string>{});
    boot({}), boot({});
    watch_all();
    wait_until_compared();
    agent_->wait_until("the first one is told, and it alone",
                       [&] { return odd_ones() == std::set<std::string>{odd->name()}; });
}

// Its own file says what is right, whatever was seen.
TEST_F(FirstSeen, gives_way_to_how_the_kernel_was_built) {
    TestVm* vm = boot({});
    if (vm == nullptr) GTEST_SKIP() << why_not_;
    alter_kernel(vm);
    watch_all();
    wait_until_compared();
    const auto made =
        agent_->cli({"baseline", "make", TestVm::kernel_path("6.1-cloud") + "/vmlinuz"});
    ASSERT_EQ(made.status, 0) << made.output;
    agent_->wait_for_finding("code_unlike_baseline");
    EXPECT_EQ(compared_with(*vm).size(), 40u);
    ASSERT_EQ(agent_->cli({"baseline", "rm", compared_with(*vm)}).status, 0);
    agent_->wait_until("it is compared with what was seen again",
                       [&] { return compared_with(*vm).size() > 41; });
}

}  // namespace
}  // namespace underseer::testing
