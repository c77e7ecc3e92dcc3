// The agent as its operator meets it: real guests, a real underseerd, the CLI.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "testing/test_agent.h"

namespace underseer::testing {
namespace {

using namespace std::chrono_literals;

std::string text(const json::Value& value, std::string_view key) {
    return value.at(key).value().as_string().value();
}
std::uint64_t number(const json::Value& value, std::string_view key) {
    return value.at(key).value().as_uint().value();
}

class AgentTest : public ::testing::Test {
  protected:
    // A guest with the hiding module in it, for all tests of the suite.
    static void SetUpTestSuite() {
        auto booted = TestVm::boot({.kernel = "6.1-cloud", .workload = false});
        if (booted.has_value()) vm_.emplace(std::move(*booted));
    }
    static void TearDownTestSuite() { vm_.reset(); }
    void SetUp() override {
        if (!vm_)
            GTEST_SKIP() << "the kernel 6.1-cloud is not at hand; tools/guests/make.py makes it";
    }

    // Checks every second, and only our own VMs: others may run on this host.
    static std::string often(const std::string& others = "none") {
        return fmt::format(
            "[schedule]\nhidden_process = \"1s\"\ncpu_percent = 100\n"
            "[instances]\nonly = [\"name:{}\", \"name:{}\"]\n",
            vm_->name(), others);
    }
    // Hides a process from every list; the guest's own ps does not show it.
    static std::uint32_t hide_a_process(TestVm& vm) {
        const auto pid = static_cast<std::uint32_t>(
            std::stoul(vm.output_of("/bin/workload sleeper > /dev/null & echo $!")));
        (void)vm.run("insmod /lib/modules/underseer_hide.ko");
        vm.output_of(
            fmt::format("echo '3 {}' > /sys/module/underseer_hide/parameters/command", pid));
        return pid;
    }
    static void show_it_again(TestVm& vm) {
        vm.output_of("echo 0 > /sys/module/underseer_hide/parameters/command; killall workload");
    }

    static std::optional<TestVm> vm_;
};
std::optional<TestVm> AgentTest::vm_;

TEST_F(AgentTest, finds_a_hidden_process_tells_it_once_and_closes_it) {
    TestAgent agent(often());
    agent.start();
    agent.wait_until_watched(vm_->name());
    EXPECT_TRUE(agent.findings("hidden_process").empty());
    EXPECT_EQ(agent.cli({"findings"}).status, 0);

    const auto pid = hide_a_process(*vm_);
    const auto open = agent.wait_for_finding("hidden_process");
    EXPECT_EQ(text(open.at("finding").value(), "subject"), fmt::format("workload (pid {})", pid));
    EXPECT_EQ(agent.cli({"findings"}).status, 1);
    // A condition that lasts is one finding, however often it is seen.
    agent.wait_until("it was looked at again",
                     [&] { return number(*agent.instance(vm_->name()), "checks") > 6; });
    EXPECT_EQ(agent.findings("hidden_process").size(), 1u);
    const auto opened = agent.logged("Process hidden");
    ASSERT_EQ(opened.size(), 1u);
    EXPECT_EQ(text(opened[0], "activity_name"), "Create");
    EXPECT_TRUE(opened[0].at("is_alert").value().as_bool().value());
    EXPECT_EQ(text(opened[0].at("device").value(), "name"), vm_->name());
    EXPECT_NE(agent.errors().find("ALERT: hidden_process opened"), std::string::npos);

    show_it_again(*vm_);
    agent.wait_until("the finding is closed",
                     [&] { return agent.findings("hidden_process").empty(); });
    const auto closed = agent.logged("Process hidden");
    ASSERT_EQ(closed.size(), 2u);
    EXPECT_EQ(text(closed[1], "activity_name"), "Close");
    EXPECT_EQ(text(closed[1].at("finding_info").value(), "uid"),
              text(opened[0].at("finding_info").value(), "uid"));

    const RunResult verified = agent.cli({"log", "verify"});
    EXPECT_EQ(verified.status, 0) << verified.output;
    EXPECT_NE(verified.output.find("intact"), std::string::npos);
}

TEST_F(AgentTest, survives_the_death_of_its_workers) {
    TestAgent agent(often());
    agent.start();
    agent.wait_until_watched(vm_->name());
    ASSERT_EQ(agent.workers("introspector").size(), 1u);
    ::kill(agent.workers("introspector").front(), SIGKILL);
    agent.wait_until("the introspector was restarted",
                     [&] { return number(*agent.instance(vm_->name()), "restarts") == 1; });
    agent.wait_until_watched(vm_->name());
    EXPECT_FALSE(agent.logged("is not looked at").empty());
    EXPECT_FALSE(agent.logged("is looked at again").empty());
    EXPECT_GT(number(*agent.instance(vm_->name()), "blind_ns"), 0u);

    hide_a_process(*vm_);
    const auto before = agent.wait_for_finding("hidden_process");
    ASSERT_EQ(agent.workers("analyser").size(), 1u);
    ::kill(agent.workers("analyser").front(), SIGKILL);
    agent.wait_until("the analyser was restarted", [&] {
        return number(agent.status().at("agent").value(), "analyser_restarts") == 1;
    });
    agent.wait_until("it was looked at again",
                     [&, checks = number(*agent.instance(vm_->name()), "checks")] {
                         return number(*agent.instance(vm_->name()), "checks") > checks + 2;
                     });
    // The new analyser knows what was open.
    ASSERT_EQ(agent.findings("hidden_process").size(), 1u);
    EXPECT_EQ(text(agent.findings("hidden_process").front(), "uid"), text(before, "uid"));
    EXPECT_EQ(agent.logged("Process hidden").size(), 1u);
    show_it_again(*vm_);
}

TEST_F(AgentTest, killed_and_started_again_it_goes_on_and_says_what_it_missed) {
    TestAgent agent(often());
    agent.start();
    agent.wait_until_watched(vm_->name());
    hide_a_process(*vm_);
    const auto before = agent.wait_for_finding("hidden_process");
    std::this_thread::sleep_for(500ms);
    const std::size_t events = agent.logged().size();
    const auto workers = agent.workers("introspector");
    agent.kill(SIGKILL);
    // Introspectors die with their agent.
    std::this_thread::sleep_for(200ms);
    for (const pid_t worker : workers) {
        // A zombie that nobody has reaped yet has no command line.
        EXPECT_EQ(read_file(fmt::format("/proc/{}/cmdline", worker), 100).value_or(""), "");
    }
    EXPECT_EQ(agent.cli({"status"}).status, 3);
    EXPECT_EQ(agent.cli({"log", "verify"}).status, 0) << agent.cli({"log", "verify"}).output;

    agent.start();
    EXPECT_GT(agent.logged().size(), events);
    EXPECT_EQ(agent.logged("the run before did not end by itself").size(), 1u);
    agent.wait_until("it was looked at again", [&] {
        const auto instance = agent.instance(vm_->name());
        return instance && number(*instance, "checks") > 2;
    });
    ASSERT_EQ(agent.findings("hidden_process").size(), 1u);
    EXPECT_EQ(text(agent.findings("hidden_process").front(), "uid"), text(before, "uid"));
    show_it_again(*vm_);
    agent.wait_until("the finding is closed",
                     [&] { return agent.findings("hidden_process").empty(); });
    agent.kill(SIGTERM);
    agent.start();
    EXPECT_EQ(agent.logged("the run before did not end by itself").size(), 1u);
    const RunResult verified = agent.cli({"log", "verify"});
    EXPECT_EQ(verified.status, 0) << verified.output;
}

TEST_F(AgentTest, a_finding_is_kept_while_a_restarted_agent_waits_for_the_vms_monitor) {
    TestAgent agent(often());
    agent.start();
    agent.wait_until_watched(vm_->name());
    hide_a_process(*vm_);
    const auto before = agent.wait_for_finding("hidden_process");
    agent.kill(SIGKILL);  // at once: what was told must be kept already
    ::kill(vm_->pid(), SIGSTOP);
    agent.start();
    std::this_thread::sleep_for(1s);  // the analyser is ready long before
    ::kill(vm_->pid(), SIGCONT);
    agent.wait_until("it was looked at again", [&] {
        const auto instance = agent.instance(vm_->name());
        return instance && number(*instance, "checks") > 2;
    });
    ASSERT_EQ(agent.findings("hidden_process").size(), 1u);
    EXPECT_EQ(text(agent.findings("hidden_process").front(), "uid"), text(before, "uid"));
    EXPECT_EQ(agent.logged("Process hidden").size(), 1u);
    show_it_again(*vm_);
}

TEST_F(AgentTest, a_vm_that_ends_is_told_and_nobody_else_notices) {
    TestAgent agent(often());
    agent.start();
    agent.wait_until_watched(vm_->name());
    {
        TestVm second = TestVm::boot({.kernel = "6.1-cloud", .workload = false}).value();
        agent.write_policy(often(second.name()));
        agent.signal(SIGHUP);
        agent.wait_until_watched(second.name());
        hide_a_process(second);
        agent.wait_for_finding("hidden_process");
        EXPECT_EQ(agent.workers("introspector").size(), 2u);
    }  // killed, most likely in the middle of a check
    agent.wait_until("it is gone", [&] { return agent.workers("introspector").size() == 1; });
    agent.wait_until("its finding is closed",
                     [&] { return agent.findings("hidden_process").empty(); });
    EXPECT_GE(agent.logged("the VM has ended").size(), 1u);
    EXPECT_EQ(number(*agent.instance(vm_->name()), "restarts"), 0u);
}

// Whoever starts a VM may give it any UUID, that of another's among them.
TEST_F(AgentTest, two_vms_of_one_uuid_are_two_instances) {
    const VmSpec spec{.uuid = "6f1a2b3c-0000-4000-8000-000000000002", .workload = false};
    TestVm first = TestVm::boot(spec).value();
    TestAgent agent(
        fmt::format("[schedule]\nhidden_process = \"1s\"\ncpu_percent = 100\n"
                    "[instances]\nonly = [\"uuid:*{0}*\", \"uuid:*:*\"]\n"
                    "exclude = [\"name:{1}\"]\n",
                    spec.uuid, vm_->name()));
    agent.start();
    agent.wait_until_watched(first.name());
    hide_a_process(first);
    // Other tests have VMs too.
    const auto found_in = [&](const std::string& id) {
        auto open = agent.findings("hidden_process");
        std::erase_if(open, [&](const json::Value& one) { return text(one, "instance_id") != id; });
        return open;
    };
    agent.wait_until("it is told", [&] { return found_in(spec.uuid).size() == 1; });
    const std::string found = text(found_in(spec.uuid).front(), "uid");
    std::string twins_id;
    {
        TestVm twin = TestVm::boot(spec).value();
        agent.wait_until_watched(twin.name());
        hide_a_process(twin);
        const auto ids = [&](const std::string& vm) {
            return text(agent.instance(vm)->at("instance").value(), "id");
        };
        twins_id = ids(twin.name());
        agent.wait_until("the twin's is told", [&] { return found_in(twins_id).size() == 1; });
        EXPECT_EQ(ids(first.name()), spec.uuid);
        EXPECT_NE(twins_id, spec.uuid);
    }
    agent.wait_until("the twin is gone", [&] { return found_in(twins_id).empty(); });
    ASSERT_EQ(found_in(spec.uuid).size(), 1u);
    EXPECT_EQ(text(found_in(spec.uuid).front(), "uid"), found);
}

TEST_F(AgentTest, answers_questions_by_role_and_logs_who_asked) {
    TestAgent agent(often() + fmt::format("[access]\nviewers = [\"user:{}\"]\n", kNobody));
    agent.start();
    agent.wait_until_watched(vm_->name());
    const RunResult ps = agent.cli({"ps", vm_->name()});
    EXPECT_EQ(ps.status, 0) << ps.output;
    EXPECT_NE(ps.output.find("init"), std::string::npos);
    const auto asked = agent.logged("asked for 'ps'");
    ASSERT_EQ(asked.size(), 1u);
    EXPECT_EQ(text(asked[0].at("actor").value().at("user").value(), "uid"), "0");

    EXPECT_EQ(agent.cli({"status"}, kNobody).status, 0);
    const RunResult refused = agent.cli({"ps", vm_->name()}, kNobody);
    EXPECT_EQ(refused.status, 5) << refused.output;
    EXPECT_NE(refused.output.find("needs the role examiner"), std::string::npos);
    EXPECT_EQ(agent.logged("was refused 'ps'").size(), 1u);
    EXPECT_EQ(agent.cli({"status"}, kNobody - 1).status, 5);
    EXPECT_EQ(agent.cli({"ps", "no-such-vm"}).status, 3);
}

TEST_F(AgentTest, an_excluded_instance_is_not_looked_into) {
    TestAgent agent(often() + "exclude = [\"name:*\"]\n");
    agent.start();
    agent.wait_until("the VM is known", [&] { return agent.instance(vm_->name()).has_value(); });
    EXPECT_EQ(text(*agent.instance(vm_->name()), "state"), "excluded");
    EXPECT_TRUE(agent.workers("introspector").empty());
    EXPECT_EQ(agent.cli({"ps", vm_->name()}).status, 6);
    // A policy that no longer excludes it.
    agent.write_policy(often());
    agent.signal(SIGHUP);
    agent.wait_until_watched(vm_->name());
    EXPECT_EQ(agent.logged("policy reloaded").size(), 1u);
    // A wrong one changes nothing and is told with its place.
    agent.write_policy("[schedule]\nhidden_proces = \"1s\"\n");
    agent.signal(SIGHUP);
    agent.wait_until("the error is logged",
                     [&] { return agent.logged("policy not reloaded").size() == 1; });
    EXPECT_NE(agent.errors().find("policy.toml:2:1: schedule.hidden_proces"), std::string::npos);
    EXPECT_EQ(text(*agent.instance(vm_->name()), "state"), "watched");
}

TEST_F(AgentTest, a_wrong_policy_stops_the_start_and_names_the_place) {
    TestAgent agent("[schedule]\nhidden_process = 7\n");
    EXPECT_EQ(agent.start_and_wait_for_end(), 7);
    EXPECT_NE(agent.errors().find("policy.toml:2:18: schedule.hidden_process: wants a text"),
              std::string::npos)
        << agent.errors();
    const RunResult checked = run_program(
        {program_path("underseerd"), "--check-policy", agent.directory() + "/policy.toml"});
    EXPECT_EQ(checked.status, 7);
}

TEST_F(AgentTest, says_what_it_runs_and_whether_that_was_installed) {
    TestAgent agent(often());
    const auto seal = [&] {
        return run_program({program_path("underseerd"), "--seal", "--policy",
                            agent.directory() + "/policy.toml", "--state",
                            agent.directory() + "/state"});
    };
    EXPECT_EQ(seal().status, 0) << seal().output;
    agent.start();
    const auto started = agent.logged("agent started");
    ASSERT_EQ(started.size(), 1u);
    const auto programs =
        started[0].at("unmapped").value().at("programs").value().elements().value();
    ASSERT_EQ(programs.size(), 3u);
    EXPECT_EQ(text(programs[0], "path"), program_path("underseerd"));
    EXPECT_EQ(text(programs[0], "sha256").size(), 64u);
    EXPECT_EQ(text(agent.status().at("agent").value(), "integrity"), "as installed");
    agent.kill(SIGTERM);

    // The policy is changed behind our back: told by default, refused when the policy says so.
    agent.write_policy(often() + "# changed\n");
    agent.start();
    EXPECT_EQ(agent.logged("not those that were installed").size(), 1u);
    agent.kill(SIGTERM);
    agent.write_policy(often() + "[integrity]\non_mismatch = \"refuse\"\n");
    EXPECT_EQ(agent.start_and_wait_for_end(), 5);
    EXPECT_EQ(agent.logged("refused to run").size(), 1u);
    EXPECT_EQ(seal().status, 0);
    agent.start();
}

TEST_F(AgentTest, tells_its_service_manager_how_it_is) {
    TestAgent agent(often());
    agent.start();
    const auto told = [&](const std::string& start) {
        return [&agent, start] { return agent.was_notified(start); };
    };
    agent.wait_until("it is ready", told("READY=1"));
    agent.wait_until("it says what it watches", told("STATUS=watching 1 of "));
    agent.wait_until("it feeds the watchdog",
                     [&] { return std::ranges::count(agent.notified, "WATCHDOG=1") >= 2; });

    // A reload, of a good and of a bad policy: announced, and ended.
    for (const std::string& policy : {often(), std::string("[schedule]\nhidden_proces = 1\n")}) {
        agent.notified.clear();
        agent.write_policy(policy);
        agent.signal(SIGHUP);
        agent.wait_until("it is ready again", told("READY=1"));
        EXPECT_TRUE(agent.was_notified("RELOADING=1\nMONOTONIC_USEC="));
    }
    EXPECT_NE(agent.errors().find("the old one stays"), std::string::npos);
    EXPECT_NE(agent.errors().find("policy.toml:2:1: schedule.hidden_proces"), std::string::npos);
    EXPECT_EQ(text(*agent.instance(vm_->name()), "state"), "watched");

    EXPECT_EQ(agent.kill(SIGTERM), 0);
    EXPECT_TRUE(agent.was_notified("STOPPING=1"));
    EXPECT_EQ(agent.logged("agent stopped").size(), 1u);
    EXPECT_EQ(agent.cli({"log", "verify"}).status, 0);
}

TEST_F(AgentTest, a_second_agent_is_refused) {
    TestAgent agent(often());
    agent.start();
    const RunResult second =
        run_program({program_path("underseerd"), "--policy", agent.directory() + "/policy.toml",
                     "--state", agent.directory() + "/state", "--run", agent.directory() + "/run"});
    EXPECT_EQ(second.status, 6) << second.output;
    EXPECT_EQ(agent.cli({"status"}).status, 0);
}

TEST_F(AgentTest, a_changed_log_is_found_by_its_verifier) {
    TestAgent agent(often());
    agent.start();
    agent.wait_until_watched(vm_->name());
    agent.kill(SIGTERM);
    ASSERT_EQ(agent.cli({"log", "verify"}).status, 0);
    const std::string segment = agent.directory() + "/state/log/critical/00000001.jsonl";
    std::string events = read_file(segment, 1u << 20).value();
    const std::size_t at = events.find("agent started");
    ASSERT_NE(at, std::string::npos);
    const Fd fd = open_file(segment, O_WRONLY).value();
    ASSERT_EQ(::pwrite(fd.get(), "b", 1, static_cast<off_t>(at)), 1);
    const RunResult verified = agent.cli({"log", "verify"});
    EXPECT_EQ(verified.status, 1) << verified.output;
    EXPECT_NE(verified.output.find("TAMPERED"), std::string::npos);
    EXPECT_NE(verified.output.find("00000001.jsonl"), std::string::npos);
}

}  // namespace
}  // namespace underseer::testing
