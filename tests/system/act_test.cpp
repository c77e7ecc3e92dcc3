// What is done to real VMs: by hand, and by policy about a finding.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "acted_vm.h"
#include "outside_rootkit.h"

namespace underseer::testing {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

class Actions : public ActedUponVm {
  protected:
    VmSpec spec() const override { return {.mac = "52:54:00:5e:00:01", .workload = false}; }
    void expect_done(const std::string& action, const std::string& result) {
        const RunResult ran = act(action);
        EXPECT_EQ(ran.status, 0) << ran.output;
        EXPECT_EQ(ran.output, fmt::format("{}: {}\n", vm_->name(), result));
    }
    std::string seen_by_the_agent() {
        return agent_->instance(vm_->name())->at("vm_state").value().as_string().value();
    }
    // Its link, as the guest sees it.
    std::string carrier() { return vm_->output_of("cat /sys/class/net/eth0/carrier").substr(0, 1); }
};

TEST_F(Actions, pause_and_resume_a_vm_and_are_logged) {
    start_agent();
    const RunResult dry = act("pause", {"--dry-run"});
    EXPECT_EQ(dry.output, fmt::format("{}: would be paused: it is running\n", vm_->name()));
    EXPECT_EQ(vm_->state(), "running");
    EXPECT_TRUE(agent_->logged("pause " + vm_->name()).empty());

    expect_done("pause", "paused");
    EXPECT_EQ(vm_->state(), "paused");
    expect_done("pause", "it was paused already");
    agent_->wait_until("the agent knows", [&] { return seen_by_the_agent() == "paused"; });
    expect_done("resume", "resumed");
    EXPECT_EQ(vm_->output_of("echo here"), "here\n");
    agent_->wait_until("the agent knows", [&] { return seen_by_the_agent() == "running"; });

    const auto logged = agent_->logged(fmt::format("pause {}: paused", vm_->name()));
    ASSERT_EQ(logged.size(), 1u);
    EXPECT_EQ(logged[0].at("class_uid").value().as_uint().value(), 7001u);
    EXPECT_EQ(
        logged[0].at("actor").value().at("user").value().at("uid").value().as_string().value(),
        std::to_string(::geteuid()));
    EXPECT_EQ(agent_->logged(fmt::format("resume {}: resumed", vm_->name())).size(), 1u);
}

TEST_F(Actions, take_the_network_and_give_it_back) {
    if (vm_->run("ip link set eth0 up").value().status != 0) GTEST_SKIP() << "it has no card";
    start_agent();
    ASSERT_EQ(carrier(), "1");
    const RunResult cut = act("isolate");
    EXPECT_EQ(cut.status, 0) << cut.output;
    EXPECT_NE(cut.output.find("cut off: "), std::string::npos) << cut.output;
    agent_->wait_until("the guest has no link", [&] { return carrier() == "0"; });
    EXPECT_EQ(act("reconnect").status, 0);
    agent_->wait_until("the guest has its link again", [&] { return carrier() == "1"; });
}

TEST_F(Actions, are_for_who_may_and_for_vms_that_there_are) {
    start_agent();
    EXPECT_EQ(act("pause", {}, kNobody).status, 5);
    EXPECT_EQ(act("pause", {"--dry-run"}, kNobody).status, 5);
    EXPECT_EQ(vm_->state(), "running");
    EXPECT_EQ(agent_->logged("was refused 'pause'").size(), 2u);
    EXPECT_EQ(agent_->cli({"act", "nobody-here", "pause"}).status, 3);
    EXPECT_EQ(act("explode").status, 2);
}

TEST_F(Actions, end_a_vm) {
    start_agent();
    expect_done("kill", "ended");
    agent_->wait_until("it has ended", [&] { return !agent_->instance(vm_->name()); });
    EXPECT_EQ(agent_->logged(fmt::format("kill {}: ended", vm_->name())).size(), 1u);
}

// From the write into its memory to the VM that stands still.
TEST_F(Actions, stop_a_vm_whose_watched_memory_changes) {
    start_agent(
        "[schedule]\nwatch = \"2ms\"\ncpu_percent = 100\n"
        "[[act]]\nrule = \"watched_memory_changed\"\ndo = [\"pause\"]\n");
    agent_->wait_until("its memory is watched", [&] {
        const auto checks = agent_->instance(vm_->name())->at("each").value().elements().value();
        return std::ranges::any_of(checks, [](const json::Value& one) {
            return one.at("check").value().as_string().value() == "watched_memory" &&
                   one.at("outcome").value().as_string().value() == "clean";
        });
    });
    OutsideRootkit rootkit(&*vm_);
    const auto written = Clock::now();
    rootkit.write(rootkit.kernel().symbol("sys_call_table").value() + 8 * 180,
                  0xffff'ffff'8000'1230);
    agent_->wait_until("it stands still", [&] { return vm_->state() == "paused"; });
    fmt::print(
        "paused after {} ms at most\n",
        std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - written).count());
    const auto finding = agent_->wait_for_finding("watched_memory_changed");
    agent_->wait_until("it is logged", [&] {
        return !agent_->logged(fmt::format("pause {}: paused", vm_->name())).empty();
    });
    const auto logged = agent_->logged(fmt::format("pause {}: paused", vm_->name()));
    ASSERT_EQ(logged.size(), 1u);
    EXPECT_EQ(logged[0].at("unmapped").value().at("finding_uid").value().as_string().value(),
              finding.at("uid").value().as_string().value());
    // It stays so until somebody lets it go on, and the same finding does not stop it again.
    EXPECT_EQ(act("resume").status, 0);
    std::this_thread::sleep_for(1s);
    EXPECT_EQ(vm_->state(), "running");
    EXPECT_EQ(agent_->logged(fmt::format("pause {}: paused", vm_->name())).size(), 1u);
    rootkit.undo();
}

}  // namespace
}  // namespace underseer::testing
