// Processes hidden in real guests: by our own kernel module where one is built for the kernel, and
// by changing the guest's memory from outside, which is what such a module does, on every kernel.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "hidden_processes.h"
#include "outside_rootkit.h"
#include "testing/test_agent.h"

namespace underseer::testing {
namespace {

class Hiding : public HiddenProcesses {
  protected:
    void SetUp() override {
        HiddenProcesses::SetUp();
        if (!vm_) return;  // skipped or failed
        victim_ = static_cast<std::uint32_t>(
            std::stoul(vm_->output_of("/bin/workload sleeper > /dev/null & echo $!")));
        vm_->output_of("sleep 1");
    }

    void expect_found(std::string_view missing_in, bool deep = false) {
        const auto report = check(deep);
        ASSERT_EQ(report.findings.size(), 1u);
        EXPECT_EQ(report.findings[0].subject, fmt::format("workload (pid {})", victim_));
        EXPECT_EQ(report.findings[0].evidence[1].text, missing_in);
        EXPECT_EQ(report.findings[0].evidence[2].text, "/bin/workload");
    }
};
INSTANTIATE_TEST_SUITE_P(, Hiding, ::testing::ValuesIn(all_kernels()), test_name);

TEST_P(Hiding, a_task_unlinked_from_outside_is_found) {
    expect_clean();
    expect_clean(/*deep=*/true);
    OutsideRootkit rootkit(&*vm_);
    vm_->pause();
    const GuestVirt task = rootkit.task_of(victim_);
    ASSERT_TRUE(task);
    rootkit.unlink(task, "tasks");
    vm_->resume();
    expect_found("task_list");
    vm_->pause();
    rootkit.unlink_from_idr(task);
    rootkit.unlink(task, "cg_list");
    vm_->resume();
    expect_found("task_list, pid_idr, css_set");
    vm_->pause();
    rootkit.unlink(task, "sibling");
    vm_->resume();
    // Linked to nothing but its own signal_struct, and asleep: no list leads to it any more. The
    // last check has searched RAM on its own because views differed, and found something, so this
    // one does as well.
    constexpr std::string_view kEverywhere = "task_list, thread_list, pid_idr, tree, css_set";
    expect_found(kEverywhere);
    expect_found(kEverywhere, /*deep=*/true);
    // One that nothing has made suspicious does not find it, and does not claim to.
    introspector_.emplace(attach(*vm_));
    EXPECT_TRUE(check().findings.empty());
    expect_found(kEverywhere, /*deep=*/true);
}

TEST_P(Hiding, our_module_hides_and_is_found) {
    if (vm_->run("test -e /lib/modules/underseer_hide.ko").value().status != 0) {
        GTEST_SKIP() << "no hiding module is built for " << GetParam();
    }
    vm_->output_of("insmod /lib/modules/underseer_hide.ko");
    expect_clean();  // loaded idle
    const auto command = [&](const std::string& text) {
        vm_->output_of(
            fmt::format("echo '{}' > /sys/module/underseer_hide/parameters/command", text));
    };
    const std::string visible = fmt::format("ls /proc | grep -qx {}", victim_);
    command(fmt::format("1 {}", victim_));
    expect_found("task_list");
    command(fmt::format("2 {}", victim_));
    EXPECT_NE(vm_->run(visible).value().status, 0) << "the guest itself should not see it any more";
    expect_found("task_list, pid_idr");
    command(fmt::format("3 {}", victim_));
    expect_found("task_list, pid_idr, css_set");
    command("0");
    EXPECT_EQ(vm_->run(visible).value().status, 0);
    expect_clean();
}

TEST_P(Hiding, churn_makes_no_false_finding) {
    vm_->output_of(
        "/bin/workload churn > /dev/null & /bin/workload thread_churn > /dev/null & true");
    for (int round = 0; round < 10; ++round) {
        const auto report = check(/*deep=*/round % 2 == 1);
        EXPECT_NE(report.outcome, event::Outcome::finding);
        for (const event::Finding& finding : report.findings) ADD_FAILURE() << finding.subject;
    }
}

// In no list, asleep, and nobody has asked: the schedule has.
TEST(HidingAgent, a_task_that_no_list_shows_is_found_by_the_scheduled_search_and_kept) {
    auto vm = TestVm::boot({.workload = false});
    if (!vm.has_value() && vm.error().code == Code::unavailable) {
        GTEST_SKIP() << vm.error().to_text();
    }
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    const auto victim = static_cast<std::uint32_t>(
        std::stoul(vm->output_of("/bin/workload sleeper > /dev/null & echo $!")));
    TestAgent agent(
        fmt::format("[schedule]\nhidden_process = \"1s\"\ndeep_search = \"3s\"\ncpu_percent = 100\n"
                    "[instances]\nonly = [\"name:{}\"]\n",
                    vm->name()));
    agent.start();
    agent.wait_until_watched(vm->name());
    OutsideRootkit rootkit(&*vm);
    vm->pause();
    rootkit.unlink_everywhere(rootkit.task_of(victim));
    vm->resume();
    const auto uid = [](const json::Value& finding) {
        return finding.at("uid").value().as_string().value();
    };
    const auto found = agent.wait_for_finding("hidden_process");
    EXPECT_EQ(found.at("finding").value().at("subject").value().as_string().value(),
              fmt::format("workload (pid {})", victim));
    const auto wait_for_checks = [&](std::uint64_t more) {
        const auto checks = [&] {
            const auto instance = agent.instance(vm->name());
            return instance ? instance->at("checks").value().as_uint().value() : 0;
        };
        const std::uint64_t before = checks();
        agent.wait_until("more checks", [&] { return checks() >= before + more; });
    };
    // Neither a new worker nor a new agent knows what the last one has found.
    ::kill(agent.workers("introspector").front(), SIGKILL);
    wait_for_checks(4);
    agent.kill(SIGKILL);
    agent.start();
    wait_for_checks(4);
    ASSERT_EQ(agent.findings("hidden_process").size(), 1u);
    EXPECT_EQ(uid(agent.findings("hidden_process").front()), uid(found));
    EXPECT_EQ(agent.logged("Process hidden").size(), 1u);
}

// The kernel of our own has neither types nor data symbols: three views of its processes are left.
TEST(HidingOwnKernel, a_task_unlinked_from_outside_is_found) {
    if (!nightly()) GTEST_SKIP() << "in the nightly run only";
    auto vm = TestVm::boot({.kernel = "6.1-bare", .workload = false});
    if (!vm.has_value() && vm.error().code == Code::unavailable) {
        GTEST_SKIP() << vm.error().to_text();
    }
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    agent::Introspector introspector = attach(*vm);
    const auto check = [&] {
        return introspector.ask<event::CheckReport>(ask_for_hidden()).value().items.front();
    };
    const auto victim = static_cast<std::uint32_t>(
        std::stoul(vm->output_of("/bin/workload sleeper > /dev/null & echo $!")));
    vm->output_of("sleep 1");
    const auto before = check();
    EXPECT_EQ(before.outcome, event::Outcome::clean) << before.reason;
    EXPECT_GT(before.coverage.looked_at, 20u);
    EXPECT_EQ(before.coverage.unreadable, 0u);
    EXPECT_FALSE(before.coverage.gaps.empty());
    OutsideRootkit rootkit(&*vm);
    vm->pause();
    const GuestVirt task = rootkit.task_of(victim);
    ASSERT_TRUE(task);
    rootkit.unlink(task, "tasks");
    vm->resume();
    const auto after = check();
    ASSERT_EQ(after.findings.size(), 1u);
    EXPECT_EQ(after.findings[0].subject, fmt::format("workload (pid {})", victim));
    EXPECT_EQ(after.findings[0].evidence[1].text, "task_list");
}

// A report of megabytes would reach nobody: hiding much, with much to say, is no way to stay
// hidden.
TEST(HidingAgent, many_with_endless_command_lines_are_all_told) {
    auto vm = TestVm::boot({.workload = false});
    if (!vm.has_value() && vm.error().code == Code::unavailable) {
        GTEST_SKIP() << vm.error().to_text();
    }
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    constexpr std::size_t kVictims = 12;
    std::vector<std::uint32_t> victims;
    for (std::size_t i = 0; i < kVictims; ++i) {
        victims.push_back(static_cast<std::uint32_t>(
            std::stoul(vm->output_of("/bin/workload sleeper $(head -c 120000 /dev/zero | tr '\\0' "
                                     "a) > /dev/null & echo $!"))));
    }
    TestAgent agent(
        fmt::format("[schedule]\nhidden_process = \"1s\"\ncpu_percent = 100\n"
                    "[instances]\nonly = [\"name:{}\"]\n",
                    vm->name()));
    agent.start();
    agent.wait_until_watched(vm->name());
    OutsideRootkit rootkit(&*vm);
    vm->pause();
    for (const std::uint32_t victim : victims) rootkit.unlink(rootkit.task_of(victim), "tasks");
    vm->resume();
    agent.wait_until("all are found",
                     [&] { return agent.findings("hidden_process").size() == kVictims; });
    const auto finding = agent.findings("hidden_process").front().at("finding").value();
    const auto evidence = finding.at("evidence").value().elements().value().at(3);
    EXPECT_EQ(evidence.at("name").value().as_string().value(), "command line");
    const std::string text(evidence.at("text").value().as_string().value());
    EXPECT_TRUE(text.starts_with("/bin/workload sleeper aaa")) << text.substr(0, 80);
    EXPECT_TRUE(text.ends_with("aaa ..")) << text.size();
}

}  // namespace
}  // namespace underseer::testing
