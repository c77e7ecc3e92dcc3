#include "detect/hidden_process/hidden_process.h"

#include <gtest/gtest.h>

#include "guest_linux/fake_guest.h"

namespace underseer::detect {
namespace {

using guest_linux::FakeGuest;
using guest_linux::Guest;

void look(Check& check, Guest& guest) {
    Snapshot snapshot(&guest);
    check.look(snapshot);
}

class HiddenProcess : public testing::Test {
  protected:
    HiddenProcess() : fake_({}) {
        init_ = fake_.add_task(1, 1, "init", fake_.init_task());
        shell_ = fake_.add_task(7, 7, "sh", init_);
        thread_ = fake_.add_task(8, 7, "sh-worker", shell_);
        fake_.add_cpu();
        fake_.finish();
        guest_ = Guest::attach(&fake_).value();
    }

    event::CheckReport check(bool search_ram = false) {
        using SearchRam = HiddenProcessCheck::SearchRam;
        HiddenProcessCheck check(search_ram ? SearchRam::always : SearchRam::never);
        for (unsigned i = 0; !check.done(); ++i) {
            look(check, *guest_);
            if (between_looks) between_looks(i);
        }
        return check.report(*guest_);
    }

    FakeGuest fake_;
    GuestVirt init_, shell_, thread_;
    std::unique_ptr<Guest> guest_;
    std::function<void(unsigned)> between_looks;
};

std::string evidence(const event::Finding& finding, std::string_view name) {
    for (const event::Evidence& item : finding.evidence) {
        if (item.name == name) return item.text;
    }
    return "no such evidence";
}

TEST_F(HiddenProcess, a_clean_guest_is_clean) {
    const auto report = check();
    EXPECT_EQ(report.outcome, event::Outcome::clean) << report.reason;
    EXPECT_EQ(report.coverage.looked_at, 3u);
}

TEST_F(HiddenProcess, unlinked_from_the_task_list_is_found) {
    fake_.unlink_from_task_list(shell_);
    const auto report = check();
    ASSERT_EQ(report.outcome, event::Outcome::finding);
    ASSERT_EQ(report.findings.size(), 1u);
    EXPECT_EQ(report.findings[0].subject, "sh (pid 7)");
    EXPECT_EQ(evidence(report.findings[0], "missing in"), "task_list");
}

TEST_F(HiddenProcess, unlinked_from_list_and_idr_is_found) {
    fake_.unlink_from_task_list(shell_);
    fake_.unlink_from_pid_idr(7);
    const auto report = check();
    ASSERT_EQ(report.findings.size(), 1u);
    EXPECT_EQ(evidence(report.findings[0], "missing in"), "task_list, pid_idr");
}

TEST_F(HiddenProcess, unlinked_from_list_idr_and_css_set_is_found) {
    fake_.unlink_from_task_list(shell_);
    fake_.unlink_from_pid_idr(7);
    fake_.unlink_from_css_set(shell_);
    ASSERT_EQ(check().findings.size(), 1u);
}

TEST_F(HiddenProcess, a_hidden_thread_is_found) {
    fake_.unlink_from_pid_idr(8);
    const auto report = check();
    ASSERT_EQ(report.findings.size(), 1u);
    EXPECT_EQ(report.findings[0].subject, "sh-worker (pid 8)");
}

TEST_F(HiddenProcess, what_no_list_leads_to_is_found_in_ram_when_asked) {
    EXPECT_EQ(check(/*search_ram=*/true).outcome, event::Outcome::clean);
    const GuestVirt orphan = fake_.add_task(9, 9, "orphan", init_);
    fake_.unlink_from_task_list(orphan);
    fake_.unlink_from_pid_idr(9);
    fake_.unlink_from_css_set(orphan);
    fake_.unlink_from_tree(orphan);
    EXPECT_EQ(check().outcome, event::Outcome::clean);
    const auto report = check(/*search_ram=*/true);
    ASSERT_EQ(report.findings.size(), 1u);
    EXPECT_EQ(report.findings[0].subject, "orphan (pid 9)");
    EXPECT_EQ(evidence(report.findings[0], "shown by"), "ram_scan");
    EXPECT_EQ(evidence(report.findings[0], "missing in"),
              "task_list, thread_list, pid_idr, tree, css_set");
}

TEST_F(HiddenProcess, who_is_marked_as_exiting_but_has_its_memory_still_is_found) {
    fake_.unlink_from_pid_idr(7);
    fake_.write(shell_ + fake_.offset("task_struct", "exit_state"), std::uint32_t{0x20});
    fake_.write(shell_ + fake_.offset("task_struct", "mm"), init_.value);
    EXPECT_EQ(check().findings.size(), 1u);
}

TEST_F(HiddenProcess, a_difference_that_ends_is_no_finding) {
    fake_.unlink_from_pid_idr(8);
    bool once = false;
    between_looks = [&](unsigned) {
        if (once) return;
        once = true;
        fake_.add_task(9, 9, "late", init_);
        // Linked at last, as a fork in progress is.
        fake_.write(thread_ + fake_.offset("task_struct", "flags"), std::uint32_t{4});
    };
    EXPECT_EQ(check().outcome, event::Outcome::clean);
}

TEST_F(HiddenProcess, another_process_at_the_same_address_is_another_process) {
    fake_.unlink_from_pid_idr(8);
    between_looks = [&](unsigned look) {
        fake_.write(thread_ + fake_.offset("task_struct", "start_boottime"),
                    std::uint64_t{5'000'000} + look);
    };
    EXPECT_EQ(check().outcome, event::Outcome::clean);
}

TEST_F(HiddenProcess, an_exiting_process_is_no_finding) {
    fake_.unlink_from_pid_idr(7);
    fake_.write(shell_ + fake_.offset("task_struct", "exit_state"), std::uint32_t{0x20});
    EXPECT_EQ(check().outcome, event::Outcome::clean);
}

// Reaped by its parent, on its way to its last switch: where others have the CPU for seconds, it is
// in a run queue for as long.
TEST_F(HiddenProcess, an_exiting_process_that_waits_for_a_cpu_is_no_finding) {
    fake_.unlink_from_task_list(shell_);
    fake_.unlink_from_pid_idr(7);
    fake_.unlink_from_tree(shell_);
    fake_.unlink_from_css_set(shell_);
    fake_.write(shell_ + fake_.offset("task_struct", "exit_state"), std::uint32_t{0x10});
    fake_.run(shell_);
    EXPECT_EQ(check().outcome, event::Outcome::clean);
    EXPECT_EQ(check(/*search_ram=*/true).outcome, event::Outcome::clean);
    // It is given the CPU once, and that is not enough.
    const GuestVirt runtime = shell_ + fake_.offset("task_struct", "se") +
                              fake_.offset("sched_entity", "sum_exec_runtime");
    between_looks = [&](unsigned look) {
        if (look == 1) fake_.write(runtime, std::uint64_t{4'000'000});
    };
    EXPECT_EQ(check().outcome, event::Outcome::clean);
}

TEST_F(HiddenProcess, who_is_being_forked_is_no_finding_before_it_runs) {
    fake_.unlink_from_css_set(shell_);
    fake_.write(shell_ + fake_.offset("task_struct", "__state"), std::uint32_t{0x800});
    EXPECT_EQ(check().outcome, event::Outcome::clean);
    fake_.run(shell_);
    EXPECT_EQ(check().outcome, event::Outcome::finding);
}

// It has the CPU in the first look, and sleeps in all that follow.
TEST_F(HiddenProcess, who_is_in_no_list_is_found_though_it_runs_once_only) {
    const GuestVirt lone = fake_.add_task(9, 9, "lone", init_);
    fake_.unlink_from_task_list(lone);
    fake_.unlink_from_pid_idr(9);
    fake_.unlink_from_tree(lone);
    fake_.unlink_from_css_set(lone);
    fake_.run(lone);
    between_looks = [&](unsigned) { fake_.run(fake_.init_task()); };
    const auto report = check();
    ASSERT_EQ(report.findings.size(), 1u) << report.reason;
    EXPECT_EQ(report.findings[0].subject, "lone (pid 9)");
    EXPECT_EQ(evidence(report.findings[0], "shown by"), "thread_list, current");

    // It has ended since: what is left of it in freed memory says so.
    fake_.run(lone);
    between_looks = [&](unsigned) {
        fake_.run(fake_.init_task());
        fake_.write(lone + fake_.offset("task_struct", "exit_state"), std::uint32_t{0x10});
    };
    EXPECT_EQ(check().outcome, event::Outcome::clean);
}

TEST_F(HiddenProcess, who_is_marked_as_exiting_but_runs_on_and_on_is_found) {
    fake_.unlink_from_pid_idr(7);
    fake_.write(shell_ + fake_.offset("task_struct", "exit_state"), std::uint32_t{0x10});
    fake_.run(shell_);
    const GuestVirt runtime = shell_ + fake_.offset("task_struct", "se") +
                              fake_.offset("sched_entity", "sum_exec_runtime");
    between_looks = [&](unsigned look) {
        fake_.write(runtime, std::uint64_t{4'000'000} * (look + 1));
    };
    const auto report = check();
    ASSERT_EQ(report.findings.size(), 1u);
    EXPECT_EQ(evidence(report.findings[0], "missing in"), "pid_idr");
}

TEST_F(HiddenProcess, a_broken_view_accuses_nobody_and_is_not_clean) {
    // The task list leads into itself: nothing can be missing there, and who hides behind it may.
    const GuestVirt node = shell_ + fake_.offset("task_struct", "tasks");
    fake_.write(node, node.value);
    const auto report = check();
    EXPECT_EQ(report.outcome, event::Outcome::unavailable);
    EXPECT_TRUE(report.reason.starts_with("task_list: a kernel list is cyclic")) << report.reason;
    EXPECT_TRUE(report.findings.empty());
}

TEST_F(HiddenProcess, a_guest_that_says_it_has_no_cpu_is_not_clean) {
    fake_.write(fake_.cpu_mask(), std::uint64_t{0});
    const auto report = check();
    EXPECT_EQ(report.outcome, event::Outcome::unavailable);
    EXPECT_NE(report.reason.find("says that it has no CPU"), std::string::npos) << report.reason;
}

TEST_F(HiddenProcess, a_broken_view_hides_nothing_from_the_others) {
    const GuestVirt node = shell_ + fake_.offset("task_struct", "tasks");
    fake_.write(node, node.value);
    fake_.unlink_from_pid_idr(7);
    const auto report = check();
    ASSERT_EQ(report.findings.size(), 1u);
    EXPECT_EQ(evidence(report.findings[0], "missing in"), "pid_idr");
}

TEST_F(HiddenProcess, a_view_that_is_broken_for_a_moment_hides_nothing_and_nobody_is_accused) {
    const auto tasks = fake_.offset("task_struct", "tasks");
    const GuestVirt node = init_ + tasks;
    const auto next = fake_.read_back<std::uint64_t>(node);
    fake_.write(node, node.value);
    unsigned looks = 0;
    between_looks = [&](unsigned look) {
        looks = look + 1;
        if (look == 1) fake_.write(node, next);
    };
    EXPECT_EQ(check().outcome, event::Outcome::clean);
    EXPECT_EQ(looks, 3u) << "until it was whole";

    // And who is in none but the lists that were broken at first.
    fake_.unlink_from_task_list(shell_);
    const auto beside = fake_.read_back<std::uint64_t>(node);
    fake_.write(node, node.value);
    between_looks = [&](unsigned look) {
        if (look == 1) fake_.write(node, beside);
    };
    const auto report = check();
    ASSERT_EQ(report.findings.size(), 1u);
    EXPECT_EQ(evidence(report.findings[0], "missing in"), "task_list");
}

TEST_F(HiddenProcess, a_task_that_moves_under_the_walk_leaves_no_gap) {
    // A task is in a ring that the list's head is not in, as one that moves to another list is.
    const GuestVirt node = shell_ + fake_.offset("task_struct", "tasks");
    const auto next = fake_.read_back<std::uint64_t>(node);
    fake_.write(node, node.value);
    std::uint64_t visits = 0;
    fake_.before_read = [&](FakeGuest& fake, GuestPhys at) {
        // When the walk comes by for the fourth time, the task is back where it belongs.
        if (at == fake.phys(node) && ++visits == 4) fake.write(node, next);
    };
    HiddenProcessCheck check;
    look(check, *guest_);
    const auto report = check.report(*guest_);
    EXPECT_GE(visits, 4u);
    // (The fake guest has no run queues.)
    for (const std::string& gap : report.coverage.gaps) {
        EXPECT_FALSE(gap.starts_with("task_list")) << gap;
    }
}

TEST_F(HiddenProcess, where_no_task_can_be_read_the_answer_is_not_clean) {
    fake_.unlink_from_task_list(shell_);
    fake_.is_hole = [&](GuestPhys at) {
        const auto start = fake_.offset("task_struct", "start_boottime");
        return at == fake_.phys(init_ + start) || at == fake_.phys(shell_ + start) ||
               at == fake_.phys(thread_ + start);
    };
    const auto report = check();
    EXPECT_EQ(report.outcome, event::Outcome::unavailable);
    EXPECT_EQ(report.reason, "none of the tasks could be read");
    EXPECT_EQ(report.coverage.unreadable, 3u);
}

TEST(HiddenProcessFlood, is_told_as_far_as_a_report_goes_and_says_how_much_is_left) {
    FakeGuest fake({});
    const GuestVirt init = fake.add_task(1, 1, "init", fake.init_task());
    for (std::uint32_t pid = 1000; pid < 1105; ++pid) fake.add_task(pid, pid, "many", init);
    fake.finish();
    const auto guest = Guest::attach(&fake).value();
    HiddenProcessCheck check;
    while (!check.done()) look(check, *guest);
    const auto report = check.report(*guest);
    EXPECT_EQ(report.outcome, event::Outcome::finding);
    EXPECT_EQ(report.findings.size(), limits::kMaxFindingsOfReport);
    ASSERT_FALSE(report.coverage.gaps.empty());
    EXPECT_EQ(report.coverage.gaps.back(), "5 more hidden tasks: the first 100 are told");
}

TEST_F(HiddenProcess, too_few_looks_are_unavailable_and_not_clean) {
    fake_.unlink_from_task_list(shell_);
    HiddenProcessCheck check;
    look(check, *guest_);
    EXPECT_FALSE(check.done());
    EXPECT_EQ(check.report(*guest_).outcome, event::Outcome::unavailable);
}

// A kernel without BTF: start time, exit state and address space of a task are not known.
TEST(HiddenProcessWithoutTypes, is_found_by_the_views_that_there_are) {
    FakeGuest fake({.btf = false});
    const GuestVirt init = fake.add_system().init;
    const GuestVirt hidden = fake.add_task(40, 40, "hidden", init);
    const GuestVirt ending = fake.add_task(41, 41, "ending", init);
    fake.finish();
    const auto guest = Guest::attach(&fake).value();
    const auto check = [&] {
        HiddenProcessCheck looks;
        while (!looks.done()) look(looks, *guest);
        return looks.report(*guest);
    };
    const auto before = check();
    EXPECT_EQ(before.outcome, event::Outcome::clean) << before.reason;
    EXPECT_EQ(before.coverage.unreadable, 0u);
    fake.unlink_from_task_list(hidden);
    fake.unlink_from_task_list(ending);
    fake.write(ending + fake.offset("task_struct", "flags"), std::uint32_t{4});  // PF_EXITING
    const auto after = check();
    ASSERT_EQ(after.findings.size(), 1u);
    EXPECT_EQ(after.findings[0].subject, "hidden (pid 40)");
    EXPECT_EQ(evidence(after.findings[0], "missing in"), "task_list");
    EXPECT_FALSE(after.coverage.gaps.empty());
}

}  // namespace
}  // namespace underseer::detect
