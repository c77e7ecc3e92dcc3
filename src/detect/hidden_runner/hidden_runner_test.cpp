#include "detect/hidden_runner/hidden_runner.h"

#include <gtest/gtest.h>

#include "guest_linux/fake_guest.h"

namespace underseer::detect {
namespace {

using event::Outcome;
using guest_linux::FakeGuest;
using namespace std::chrono_literals;

constexpr std::uint64_t kPfExiting = 4, kSomeMm = 0xffff'8880'0000'1000;

class HiddenRunner : public ::testing::Test {
  protected:
    HiddenRunner() : fake_({}) {
        init_ = fake_.add_task(1, 1, "init", fake_.init_task());
        shell_ = fake_.add_task(7, 7, "sh", init_);
        thread_ = fake_.add_task(8, 7, "sh-worker", shell_);
        fake_.add_cpu();
        limit_ = fake_.allocate(8);
        fake_.write(limit_, std::uint64_t{32768});
        fake_.add_symbol("pid_max", 'D', limit_.value);
        fake_.finish();
        count_to(9);
        guest_ = guest_linux::Guest::attach(&fake_).value();
        watch_ = std::make_unique<HiddenRunnerWatch>(guest_.get(), &fake_);
        watch_->begin(now_);
    }

    void count_to(std::uint32_t next) {
        fake_.write(fake_.init_pid_ns() + fake_.offset("pid_namespace", "idr") +
                        fake_.offset("idr", "idr_next"),
                    next);
    }
    void set(GuestVirt task, std::string_view member, std::uint64_t value) {
        fake_.write(task + fake_.offset("task_struct", member), value);
    }
    // It runs when it is looked at, and has run since.
    bool sample(GuestVirt task, bool works = true) {
        fake_.run(task);
        if (works) {
            const GuestVirt at = task + fake_.offset("task_struct", "se") +
                                 fake_.offset("sched_entity", "sum_exec_runtime");
            fake_.write(at, fake_.read_back<std::uint64_t>(at) + 1'000'000);
        }
        return watch_->sample(now_ += 8ms);
    }
    event::CheckReport report() {
        auto report = watch_->report(std::chrono::system_clock::now(), now_);
        watch_->begin(now_);
        return report;
    }
    static std::string evidence(const event::Finding& finding, std::string_view name) {
        for (const event::Evidence& item : finding.evidence) {
            if (item.name == name) return item.text;
        }
        return "";
    }
    void expect_found(GuestVirt task, const std::string& subject, const std::string& missing) {
        EXPECT_FALSE(sample(task));
        EXPECT_TRUE(watch_->suspects());
        EXPECT_FALSE(sample(task));
        EXPECT_TRUE(sample(task));
        const auto found = report();
        ASSERT_EQ(found.findings.size(), 1u) << found.reason;
        EXPECT_EQ(found.findings[0].rule, "hidden_process_ran");
        EXPECT_EQ(found.findings[0].subject, subject);
        EXPECT_EQ(evidence(found.findings[0], "missing in"), missing);
    }

    FakeGuest fake_;
    GuestVirt init_, shell_, thread_, limit_;
    std::unique_ptr<guest_linux::Guest> guest_;
    std::unique_ptr<HiddenRunnerWatch> watch_;
    HiddenRunnerWatch::Moment now_ = HiddenRunnerWatch::Moment() + 1h;
};

TEST_F(HiddenRunner, whoever_is_in_all_lists_is_clean) {
    for (const GuestVirt task : {init_, shell_, thread_, init_, shell_, thread_}) {
        EXPECT_FALSE(sample(task));
    }
    EXPECT_FALSE(watch_->suspects());
    const auto clean = report();
    EXPECT_EQ(clean.outcome, Outcome::clean) << clean.reason;
    EXPECT_EQ(clean.coverage.looked_at, 3u);
    EXPECT_TRUE(clean.coverage.gaps.empty()) << clean.coverage.gaps.front();
}

TEST_F(HiddenRunner, one_that_the_task_list_lacks_is_told) {
    fake_.unlink_from_task_list(shell_);
    expect_found(shell_, "sh (pid 7)", "task_list");
}

TEST_F(HiddenRunner, one_that_the_numbers_lack_is_told) {
    fake_.unlink_from_pid_idr(7);
    expect_found(shell_, "sh (pid 7)", "pid_idr");
}

TEST_F(HiddenRunner, one_that_its_parent_and_its_cgroup_lack_is_told) {
    fake_.unlink_from_tree(shell_);
    fake_.unlink_from_css_set(shell_);
    expect_found(shell_, "sh (pid 7)", "tree, css_set");
}

TEST_F(HiddenRunner, a_thread_that_its_process_lacks_is_told) {
    fake_.list_remove(thread_ + fake_.offset("task_struct", "thread_node"));
    expect_found(thread_, "sh-worker (pid 8)", "thread_list");
}

TEST_F(HiddenRunner, one_that_is_taken_out_while_it_runs_is_told) {
    for (int i = 0; i < 3; ++i) EXPECT_FALSE(sample(shell_));
    fake_.unlink_from_task_list(shell_);
    bool told = false;
    for (int i = 0; i < 10; ++i) told |= sample(shell_);
    EXPECT_TRUE(told);
    EXPECT_EQ(report().findings.size(), 1u);
    EXPECT_EQ(report().outcome, Outcome::clean) << "it has not run since";
}

// A CPU that the host does not run may stand still in the middle of a list's change.
TEST_F(HiddenRunner, one_that_gets_no_time_is_not_told) {
    fake_.unlink_from_task_list(shell_);
    for (int i = 0; i < 20; ++i) EXPECT_FALSE(sample(shell_, /*works=*/false));
    EXPECT_EQ(report().outcome, Outcome::clean);
}

TEST_F(HiddenRunner, one_that_is_linked_again_is_no_suspect_any_more) {
    const GuestVirt node = shell_ + fake_.offset("task_struct", "tasks");
    const auto next = fake_.read_back<GuestVirt>(node),
               previous = fake_.read_back<GuestVirt>(node + 8);
    fake_.unlink_from_task_list(shell_);
    EXPECT_FALSE(sample(shell_));
    EXPECT_FALSE(sample(shell_));
    fake_.write(node, next), fake_.write(node + 8, previous);
    fake_.write(previous, node), fake_.write(next + 8, node);
    EXPECT_FALSE(sample(shell_));
    EXPECT_FALSE(watch_->suspects());
    EXPECT_EQ(report().outcome, Outcome::clean);
}

TEST_F(HiddenRunner, one_that_ends_has_left_the_lists_as_it_should) {
    fake_.unlink_from_task_list(shell_);
    fake_.unlink_from_pid_idr(7);
    fake_.write(shell_ + fake_.offset("task_struct", "flags"),
                static_cast<std::uint32_t>(kPfExiting));
    set(shell_, "mm", 0);
    for (int i = 0; i < 5; ++i) EXPECT_FALSE(sample(shell_));
    EXPECT_EQ(report().outcome, Outcome::clean);
    // Who has its memory still is not that far, whatever it says.
    set(shell_, "mm", kSomeMm);
    expect_found(shell_, "sh (pid 7)", "task_list, pid_idr");
}

TEST_F(HiddenRunner, pids_that_nobody_saw_are_counted) {
    sample(shell_);
    count_to(19);
    sample(shell_);
    (void)watch_->report(std::chrono::system_clock::now(), now_);
    EXPECT_EQ(watch_->tally().samples, 2u);
    EXPECT_EQ(watch_->tally().pids_used, 10u);
    EXPECT_EQ(watch_->tally().pids_unseen, 10u);
    // Nobody looks between two reports, and the kernel counts on.
    count_to(25);
    watch_->begin(now_);
    (void)watch_->report(std::chrono::system_clock::now(), now_);
    EXPECT_EQ(watch_->tally().pids_used, 6u);
    EXPECT_EQ(watch_->tally().pids_unseen, 6u);
    count_to(32'700);
    (void)watch_->report(std::chrono::system_clock::now(), now_);
    // They start over at 300.
    watch_->begin(now_);
    count_to(310);
    (void)watch_->report(std::chrono::system_clock::now(), now_);
    EXPECT_EQ(watch_->tally().pids_used, 78u);
}

// The guest's words: whatever they are, it ends, and is not clean.
TEST_F(HiddenRunner, lists_that_lead_nowhere_are_not_clean) {
    set(shell_, "thread_pid", 0xffff'0000'dead'0000);
    EXPECT_FALSE(sample(shell_));
    const auto report_now = report();
    EXPECT_EQ(report_now.outcome, Outcome::unavailable);
    fake_.is_hole = [](GuestPhys) { return true; };
    EXPECT_FALSE(sample(shell_));
    EXPECT_EQ(report().outcome, Outcome::unavailable);
}

}  // namespace
}  // namespace underseer::detect
