// The checks that read more of a task than its listing shows, on a fake guest: what they find, and
// that what they cannot read is a gap.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <set>

#include "detect/check.h"
#include "guest_linux/fake_guest.h"

namespace underseer::detect {
namespace {

using event::Outcome;
using guest_linux::FakeGuest;
using guest_linux::Guest;

using Rules = std::multiset<std::string>;

class ProcessChecks : public testing::Test {
  protected:
    ProcessChecks() : fake_({}) {
        fake_.define("user_struct", 8, "uid:int@0");
        fake_.define("user_namespace", 8, "level:int@0");
        fake_.define("cred", 128,
                     "uid:int@4 gid:int@8 suid:int@12 sgid:int@16 euid:int@20 egid:int@24 "
                     "fsuid:int@28 fsgid:int@32 cap_inheritable:long@40 cap_permitted:long@48 "
                     "cap_effective:long@56 cap_bset:long@64 cap_ambient:long@72 user:ptr@80 "
                     "user_ns:ptr@88 group_info:ptr@96");
        fake_.define("io_uring_task", 32, "xa:xarray@0");
        root_user_ = user(0);
        user_ = user(1000);
        user_namespace_ = fake_.allocate(8);
        first_groups_ = fake_.allocate(16);
        groups_ = fake_.allocate(16);
        give(fake_.init_task(), 0);
        init_ = add(1, "init", fake_.init_task(), 0);
        kthreadd_ = add(2, "kthreadd", fake_.init_task(), 0);
        kworker_ = add(3, "kworker/0:1", kthreadd_, 0);
        shell_ = add(7, "sh", init_, 1000);
        child_ = add(8, "payload", shell_, 1000);
        daemon_ = add(10, "daemon", init_, 1000);
        fake_.finish();
        guest_ = Guest::attach(&fake_).value();
    }

    GuestVirt user(std::uint32_t uid) {
        const GuestVirt at = fake_.allocate(8);
        fake_.write(at, uid);
        return at;
    }
    GuestVirt add(std::uint32_t pid, std::string_view comm, GuestVirt parent, std::uint32_t uid) {
        const GuestVirt task = fake_.add_task(pid, pid, comm, parent);
        give(task, uid);
        return task;
    }
    // Credentials of its own.
    void give(GuestVirt task, std::uint32_t uid) {
        const GuestVirt cred = fake_.allocate(128);
        for (const char* id : {"uid", "suid", "euid", "fsuid"}) put(cred, id, uid);
        if (uid == 0) {
            put(cred, "cap_permitted", kAll);
            put(cred, "cap_effective", kAll);
        }
        put(cred, "user", (uid == 0 ? root_user_ : user_).value);
        put(cred, "user_ns", user_namespace_.value);
        put(cred, "group_info", (uid == 0 ? first_groups_ : groups_).value);
        fake_.write(task + fake_.offset("task_struct", "real_cred"), cred.value);
    }
    template <typename T>
    void put(GuestVirt cred, const char* member, T value) {
        fake_.write(cred + fake_.offset("cred", member), value);
    }
    GuestVirt cred_of(GuestVirt task) {
        return GuestVirt{
            fake_.read_back<std::uint64_t>(task + fake_.offset("task_struct", "real_cred"))};
    }
    void use(GuestVirt task, GuestVirt cred) {
        fake_.write(task + fake_.offset("task_struct", "real_cred"), cred.value);
    }

    event::CheckReport check(const std::string& name) {
        const std::string names[] = {name};
        return run(make_checks(names), *guest_, [](auto) {}).front();
    }
    Rules found(const std::string& name) {
        const auto report = check(name);
        EXPECT_NE(report.outcome, Outcome::unavailable) << report.reason;
        Rules rules;
        for (const event::Finding& finding : report.findings) rules.insert(finding.rule);
        return rules;
    }

    static constexpr std::uint64_t kAll = (1ull << 41) - 1;
    FakeGuest fake_;
    GuestVirt root_user_, user_, user_namespace_, first_groups_, groups_;
    GuestVirt init_, kthreadd_, kworker_, shell_, child_, daemon_;
    std::unique_ptr<Guest> guest_;
};

TEST_F(ProcessChecks, find_nothing_in_a_clean_guest) {
    for (const char* name : {"credentials", "tracing", "io_uring"}) {
        const auto report = check(name);
        EXPECT_EQ(report.outcome, Outcome::clean) << name << ": " << report.reason;
        EXPECT_EQ(report.coverage.unreadable, 0u) << name;
        EXPECT_EQ(report.coverage.looked_at, 6u) << name;
    }
}

TEST_F(ProcessChecks, find_the_kernels_own_credentials) {
    use(daemon_, cred_of(fake_.init_task()));
    EXPECT_EQ(found("credentials"), Rules{"kernel_credentials"});
}

TEST_F(ProcessChecks, find_credentials_that_two_processes_share) {
    use(daemon_, cred_of(kworker_));
    EXPECT_EQ(found("credentials"), Rules{"shared_credentials"});
}

TEST_F(ProcessChecks, let_threads_of_one_process_share) {
    const GuestVirt thread = fake_.add_task(9, 7, "thread", shell_);
    use(thread, cred_of(shell_));
    EXPECT_EQ(found("credentials"), Rules{});
}

TEST_F(ProcessChecks, find_what_was_written_over) {
    put(cred_of(child_), "uid", 0u);
    EXPECT_EQ(found("credentials"), Rules{"tampered_credentials"});
    put(cred_of(child_), "uid", 1000u);
    put(cred_of(child_), "cap_effective", std::uint64_t{1} << 21);
    EXPECT_EQ(found("credentials"), Rules{"tampered_credentials"});
    put(cred_of(child_), "cap_permitted", std::uint64_t{1} << 21);
    EXPECT_EQ(found("credentials"), Rules{});
    put(cred_of(child_), "cap_ambient", std::uint64_t{1} << 21);
    EXPECT_EQ(found("credentials"), Rules{"tampered_credentials"});
}

TEST_F(ProcessChecks, find_root_that_its_parent_cannot_have_made) {
    give(child_, 0);
    EXPECT_EQ(found("credentials"), Rules{"root_without_ancestry"});
    // As su does: groups of its own.
    put(cred_of(child_), "group_info", fake_.allocate(16).value);
    EXPECT_EQ(found("credentials"), Rules{});
}

TEST_F(ProcessChecks, find_all_capabilities_in_the_first_user_namespace_only) {
    put(cred_of(child_), "cap_permitted", kAll);
    put(cred_of(child_), "cap_effective", kAll);
    EXPECT_EQ(found("credentials"), Rules{"full_capabilities"});
    put(cred_of(child_), "user_ns", fake_.allocate(8).value);
    EXPECT_EQ(found("credentials"), Rules{});
}

TEST_F(ProcessChecks, tell_credentials_that_cannot_be_read_and_accuse_nobody) {
    use(child_, GuestVirt{0xffff8fff00000000});
    const auto report = check("credentials");
    EXPECT_EQ(report.outcome, Outcome::clean);
    EXPECT_EQ(report.coverage.unreadable, 1u);
    ASSERT_EQ(report.coverage.gaps.size(), 1u);
    EXPECT_TRUE(report.coverage.gaps[0].starts_with("payload (pid 8): "))
        << report.coverage.gaps[0];
}

TEST_F(ProcessChecks, find_a_tracers_program_once_however_many_it_traces) {
    const auto trace = [&](GuestVirt task, GuestVirt by) {
        fake_.write(task + fake_.offset("task_struct", "ptrace"), 1u);
        fake_.write(task + fake_.offset("task_struct", "parent"), by.value);
    };
    trace(child_, shell_);
    trace(init_, shell_);
    const auto report = check("tracing");
    ASSERT_EQ(report.findings.size(), 1u);
    EXPECT_EQ(report.findings[0].rule, "traced_process");
    EXPECT_EQ(report.findings[0].subject, "sh (pid 7)");
    EXPECT_EQ(report.findings[0].evidence.back().text, "init, payload");
}

TEST_F(ProcessChecks, find_rings_of_a_thread) {
    const GuestVirt state = fake_.allocate(32);
    fake_.write(child_ + fake_.offset("task_struct", "io_uring"), state.value);
    EXPECT_EQ(found("io_uring"), Rules{}) << "no ring is left";
    fake_.write(state + fake_.offset("io_uring_task", "xa") + fake_.offset("xarray", "xa_head"),
                state.value);
    EXPECT_EQ(found("io_uring").size(), 1u);
}

TEST_F(ProcessChecks, find_a_kernel_thread_that_kthreadd_did_not_start) {
    fake_.write(child_ + fake_.offset("task_struct", "flags"), guest_linux::kPfKthread);
    const auto report = check("process_names");
    ASSERT_EQ(report.findings.size(), 1u);
    EXPECT_EQ(report.findings[0].rule, "false_kernel_thread");
    EXPECT_EQ(report.findings[0].subject, "payload (pid 8)");
}

// A kernel whose types lack what they need.
TEST(ProcessChecksWithoutTypes, are_unavailable_and_say_why) {
    FakeGuest fake({});
    fake.add_system();
    fake.finish();
    const auto guest = Guest::attach(&fake).value();
    const std::string names[] = {"credentials"};
    const auto report = run(make_checks(names), *guest, [](auto) {}).front();
    EXPECT_EQ(report.outcome, Outcome::unavailable);
    EXPECT_NE(report.reason.find("no member"), std::string::npos) << report.reason;
}

}  // namespace
}  // namespace underseer::detect
