// Processes that no list shows any more but want the CPU: each queue of the scheduler in which such
// a one can wait, in real guests.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <functional>

#include "hidden_processes.h"
#include "outside_rootkit.h"

namespace underseer::testing {
namespace {

class RunQueues : public HiddenProcesses {
  protected:
    void SetUp() override {
        HiddenProcesses::SetUp();
        if (vm_) rootkit_.emplace(&*vm_);
    }

    // Starts two that want the CPU, of the workload's modes; the second is the one to hide.
    void start(std::string_view rival, std::string_view mode) {
        vm_->output_of(fmt::format("/bin/workload {} > /dev/null 2>&1 & true", rival));
        victim_ = static_cast<std::uint32_t>(std::stoul(
            vm_->output_of(fmt::format("/bin/workload {0} > /tmp/{0} 2>&1 & echo $!", mode))));
        vm_->output_of("sleep 1");
        task_ = rootkit_->task_of(victim_);
        ASSERT_TRUE(task_) << vm_->output_of(fmt::format("cat /tmp/{}", mode));
    }
    void end() { vm_->output_of("killall -9 workload; sleep 0.3; true"); }

    bool waits_for_cpu() { return value("on_rq") == 1 && value("on_cpu") == 0; }
    std::uint64_t value(std::string_view member) {
        return rootkit_->member(task_, member).value_or(0);
    }

    // Stops the guest when the victim is as `holds` says; does what a rootkit does to all lists;
    // the queue still shows it. Then all is as it was, and the guest runs on.
    void expect_found_when(
        std::string_view state, const std::function<bool()>& holds,
        const std::function<void()>& requeue = [] {}) {
        SCOPED_TRACE(fmt::format("{}: {}", GetParam(), state));
        constexpr int kTries = 400;
        int tries = 0;
        vm_->pause();
        rootkit_->kernel().new_epoch();
        for (; !holds() && tries < kTries; ++tries) {
            vm_->resume();
            ::usleep(7000);
            vm_->pause();
            rootkit_->kernel().new_epoch();
        }
        if (tries == kTries) vm_->resume();
        ASSERT_LT(tries, kTries) << "the victim is never seen in this state";
        expect_clean();
        requeue();
        rootkit_->unlink_everywhere(task_);
        const auto report = check();
        rootkit_->undo();
        vm_->resume();
        ASSERT_EQ(report.findings.size(), 1u)
            << report.reason
            << fmt::format("; {} tasks looked at, gaps: {}; at the {}. pause",
                           report.coverage.looked_at, fmt::join(report.coverage.gaps, ", "),
                           tries + 1);
        EXPECT_EQ(report.findings[0].subject, fmt::format("workload (pid {})", victim_));
        const std::string& shown_by = report.findings[0].evidence[0].text;
        EXPECT_NE(shown_by.find("run_queue"), std::string::npos) << shown_by;
        expect_clean();
    }

    std::optional<OutsideRootkit> rootkit_;
    GuestVirt task_;
};
// The oldest and the newest scheduler; all of them in the nightly run.
INSTANTIATE_TEST_SUITE_P(, RunQueues,
                         ::testing::ValuesIn(nightly() ? all_kernels()
                                                       : std::vector<std::string>{"5.10-cloud",
                                                                                  "7.2-cloud"}),
                         test_name);

TEST_P(RunQueues, fair) {
    start("busy_fair", "busy_fair");
    expect_clean();
    expect_found_when("waiting", [&] { return waits_for_cpu(); });
    end();
    start("busy_throttled", "busy_throttled");
    expect_clean();
    // The task itself is marked since 6.18, its queue before.
    expect_found_when("throttled", [&] {
        if (const auto throttled = rootkit_->member(task_, "throttled")) return *throttled != 0;
        auto& kernel = rootkit_->kernel();
        const GuestVirt queue{value("se.cfs_rq")};
        return kernel.read(queue, kernel.field("cfs_rq", "throttle_count")).value() != 0;
    });
}

TEST_P(RunQueues, real_time) {
    start("busy_rt", "busy_rt");
    expect_clean();
    expect_found_when("waiting", [&] { return waits_for_cpu(); });
}

TEST_P(RunQueues, deadline) {
    start("urgent_deadline", "busy_deadline");
    for (int i = 0; i < 3; ++i) expect_clean();
    const auto throttled = [&] { return value("dl.dl_throttled") == 1; };
    expect_found_when("waiting", [&] { return waits_for_cpu() && !throttled(); });
    expect_found_when("throttled", [&] { return waits_for_cpu() && throttled(); });
    expect_found_when("running", [&] { return value("on_cpu") == 1; });
    // And while it goes from one to the other. For that moment it is in no queue at all: who is not
    // seen in a first look is asked for once more.
    vm_->pause();
    rootkit_->unlink_everywhere(task_);
    vm_->resume();
    for (int i = 0; i < 3; ++i) {
        auto report = check();
        if (report.findings.empty()) report = check();
        ASSERT_EQ(report.findings.size(), 1u) << report.reason;
        EXPECT_EQ(report.findings[0].subject, fmt::format("workload (pid {})", victim_));
    }
}

// No scheduler of sched_ext is loaded: a process that waits in the fair queue is moved, from
// outside, to the list in which it would wait for one.
TEST_P(RunQueues, sched_ext) {
    auto& kernel = rootkit_->kernel();
    if (!kernel.field("rq", "scx.runnable_list").known()) {
        GTEST_SKIP() << GetParam() << " has no sched_ext";
    }
    start("busy_fair", "busy_fair");
    expect_found_when(
        "waiting", [&] { return waits_for_cpu(); },
        [&] {
            const GuestVirt rq = kernel.per_cpu(kernel.symbol("runqueues").value(), 0).value();
            rootkit_->unlink(task_, "se.group_node");
            rootkit_->link(task_, "scx.runnable_node",
                           rq + kernel.field("rq", "scx.runnable_list").offset);
        });
}

// The timers of a CPU lead to where no memory is: what they would have shown is a gap, and the
// other queues are looked into all the same.
TEST_P(RunQueues, one_that_cannot_be_read_is_a_gap) {
    start("busy_fair", "busy_fair");
    vm_->pause();
    while (!waits_for_cpu()) {
        vm_->resume();
        ::usleep(7000);
        vm_->pause();
        rootkit_->kernel().new_epoch();
    }
    expect_clean();
    auto& kernel = rootkit_->kernel();
    const GuestVirt bases = kernel.per_cpu(kernel.symbol("hrtimer_bases").value(), 0).value();
    const GuestVirt clock = bases + kernel.field("hrtimer_cpu_base", "clock_base").offset;
    rootkit_->write(
        clock + kernel.field("hrtimer_clock_base", "active.rb_root.rb_root.rb_node").offset, 8);
    const auto blind = check();
    EXPECT_TRUE(blind.findings.empty());
    ASSERT_EQ(blind.coverage.gaps.size(), 1u);
    EXPECT_TRUE(blind.coverage.gaps[0].starts_with("run_queue: ")) << blind.coverage.gaps[0];
    rootkit_->unlink_everywhere(task_);
    const auto report = check();
    EXPECT_EQ(report.findings.size(), 1u) << report.reason;
    rootkit_->undo();
    expect_clean();
    vm_->resume();
}

}  // namespace
}  // namespace underseer::testing
