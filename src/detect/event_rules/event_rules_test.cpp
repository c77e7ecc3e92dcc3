#include "detect/event_rules/event_rules.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/limits.h"
#include "detect/event_rules/events.h"
#include "guest_linux/fake_world.h"
#include "sigma/compile.h"

namespace underseer::detect {
namespace {

using event::Outcome;
using guest_linux::FakeGuest;
using guest_linux::FakeWorld;
using guest_linux::Guest;
using sigma::Field;

std::string rule(std::string_view category, std::string_view selection,
                 std::string_view level = "high") {
    return fmt::format(
        "title: Tested\nlogsource: {{product: linux, category: {}}}\n"
        "detection:\n  selection:\n    {}\n  condition: selection\n"
        "falsepositives: [tests]\nlevel: {}\n",
        category, selection, level);
}

sigma::Matcher matcher_of(const std::vector<std::string>& rules) {
    sigma::RuleSet set;
    for (const std::string& text : rules) {
        set.add(set.rules.empty() ? "tested.yml" : fmt::format("tested{}.yml", set.rules.size()),
                text);
    }
    EXPECT_EQ(set.rules.size(), rules.size());
    return sigma::Matcher::of(std::move(set.rules)).value();
}

class EventRulesOfAGuest : public testing::Test {
  protected:
    event::CheckReport look() {
        Snapshot snapshot(guest_.get());
        return rules_.look(snapshot);
    }
    void load(std::string_view category, std::string_view selection) {
        rules_.know(matcher_of({rule(category, selection)}));
    }
    const FakeWorld::Change& of_modules() {
        return *std::ranges::find(world_.changes(), "modules", &FakeWorld::Change::topic);
    }

    FakeWorld world_{FakeWorld::Age::recent, 4};
    std::unique_ptr<Guest> guest_ = Guest::attach(&world_.guest()).value();
    EventRules rules_;
};

TEST_F(EventRulesOfAGuest, tell_of_a_module_for_as_long_as_it_is_loaded) {
    load("driver_load", "ImageLoaded: OURS");
    for (unsigned i = 0; i < 2; ++i) {
        const auto report = look();
        ASSERT_EQ(report.findings.size(), 1u) << i;
        EXPECT_EQ(report.outcome, Outcome::finding);
        const event::Finding& finding = report.findings[0];
        EXPECT_EQ(finding.rule, "sigma:tested");
        EXPECT_EQ(finding.severity, event::Severity::high);
        EXPECT_EQ(finding.subject, "ours");
        EXPECT_EQ(finding.subject_kind, "module");
        EXPECT_NE(finding.advice.find("What else looks like it: tests."), std::string::npos);
        EXPECT_EQ(report.coverage.looked_at, world_.modules.size());
    }
    of_modules().go();
    EXPECT_EQ(look().outcome, Outcome::clean);
    of_modules().come_back();
    EXPECT_EQ(look().findings.size(), 1u);
}

TEST_F(EventRulesOfAGuest, are_judged_once_for_each_thing_that_is_there) {
    constexpr std::string_view kOutOfTree = "{ImageLoaded: crc16, Taints|contains: O}";
    load("driver_load", kOutOfTree);
    EXPECT_EQ(look().outcome, Outcome::clean);
    FakeGuest& guest = world_.guest();
    const GuestVirt module{world_.modules[0].address};
    ASSERT_EQ(world_.modules[0].name, "crc16");
    guest.write(module + guest.offset("module", "taints"), std::uint64_t{1} << 12);
    EXPECT_EQ(look().outcome, Outcome::clean);
    // Rules that are read anew judge all.
    load("driver_load", kOutOfTree);
    EXPECT_EQ(look().findings.size(), 1u);
}

TEST_F(EventRulesOfAGuest, say_nothing_when_there_are_none) {
    const auto checks = make_checks({}, {.event_rules = &rules_});
    EXPECT_EQ(checks.size(), all_checks().size() - 2);  // and no programs
    const std::string name(EventRules::kName);
    const auto named = make_checks(std::span(&name, 1), {});
    ASSERT_EQ(named.size(), 1u);
    const auto reports = run(named, *guest_, [](std::chrono::milliseconds) {});
    ASSERT_EQ(reports.size(), 1u);
    EXPECT_EQ(reports[0].outcome, Outcome::unavailable);
    EXPECT_NE(reports[0].reason.find("there are no rules"), std::string::npos);
    load("driver_load", "ImageLoaded: ours");
    EXPECT_EQ(make_checks({}, {.event_rules = &rules_, .knows_programs = true}).size(),
              all_checks().size());
}

TEST_F(EventRulesOfAGuest, that_cannot_be_decided_keep_no_finding_open) {
    // The arguments of these processes lie in memory that is not there.
    rules_.know(matcher_of({rule("process_creation", "CommandLine|contains: x"),
                            rule("process_creation", "Comm: daemon", "low"),
                            rule("driver_load", "ImageLoaded: ours")}));
    EXPECT_EQ(look().findings.size(), 2u);
    of_modules().go();
    const auto report = look();
    EXPECT_EQ(report.findings.size(), 1u);
    EXPECT_GT(report.coverage.unreadable, 0u);
    EXPECT_FALSE(report.coverage.limits.empty());
    EXPECT_TRUE(report.coverage.gaps.empty());
}

TEST_F(EventRulesOfAGuest, of_which_no_process_can_be_judged_is_not_clean) {
    load("process_creation", "CommandLine|contains: x");
    const auto report = look();
    EXPECT_EQ(report.outcome, Outcome::unavailable);
    EXPECT_EQ(report.reason, "no process could be read well enough to be judged");
}

TEST_F(EventRulesOfAGuest, of_which_one_holds_do_not_settle_the_others) {
    rules_.know(matcher_of({rule("process_creation", "Comm: daemon"),
                            rule("process_creation", "{Comm: daemon, CommandLine|contains: x}")}));
    for (unsigned i = 0; i < 2; ++i) {
        const auto report = look();
        ASSERT_EQ(report.findings.size(), 1u) << i;
        EXPECT_EQ(report.findings[0].rule, "sigma:tested");
        EXPECT_FALSE(report.coverage.limits.empty()) << i;
        EXPECT_TRUE(report.coverage.gaps.empty()) << i;
    }
}

TEST_F(EventRulesOfAGuest, that_say_little_keep_none_from_its_turn_that_says_more) {
    std::vector<std::string> rules(1001, rule("driver_load", "ImageLoaded: crc16", "low"));
    rules.push_back(rule("driver_load", "ImageLoaded: ours", "critical"));
    rules_.know(matcher_of(rules));
    const auto report = look();
    ASSERT_EQ(report.findings.size(), limits::kMaxFindingsOfReport);
    EXPECT_EQ(report.findings[0].rule, "sigma:tested1001");
    EXPECT_EQ(report.findings[1].severity, event::Severity::low);
    EXPECT_EQ(report.coverage.gaps.back().substr(0, 24), "crc16: more than 1000 fi");
}

TEST_F(EventRulesOfAGuest, that_broke_its_list_of_processes_is_not_clean) {
    load("process_creation", "Comm: nobody");
    EXPECT_EQ(look().outcome, Outcome::clean);
    FakeGuest& guest = world_.guest();
    const GuestVirt node = guest_->task_addresses().at(3) + guest.offset("task_struct", "tasks");
    guest.write(node, node.value);
    guest_->new_epoch();
    const auto report = look();
    EXPECT_EQ(report.outcome, Outcome::unavailable);
    EXPECT_EQ(report.reason.substr(0, 10), "task_list:");
}

TEST(EventRulesOfAGuestWithoutTypes, are_not_clean) {
    FakeGuest fake({.btf = false});
    fake.add_system();
    fake.finish();
    const auto guest = Guest::attach(&fake).value();
    Snapshot snapshot(guest.get());
    EventRules rules;
    rules.know(matcher_of({rule("network_connection", "DestinationPort: 4444")}));
    const auto report = rules.look(snapshot);
    EXPECT_EQ(report.outcome, Outcome::unavailable);
    EXPECT_EQ(report.reason.substr(0, 8), "sockets:");
}

// ---- what an event is --------------------------------------------------------------------------

event::Task task_of(std::uint32_t pid, std::string exe, std::vector<std::string> argv) {
    event::Task task;
    task.pid = task.tgid = pid;
    task.ppid = std::uint32_t{1};
    task.comm = "x";
    task.exe = std::move(exe);
    task.argv = std::move(argv);
    task.cwd = std::string("/");
    task.container_id = std::string();
    task.credentials = event::Credentials{.uid = 1000, .euid = 0};
    return task;
}

TEST(EventOfAProcess, HasTheFieldsOfSigma) {
    const event::Task shell = task_of(7, "/bin/sh (deleted)", {"sh", "-c", "id"});
    const event::Task init = task_of(1, "/sbin/init", {"init"});
    const sigma::Event event = event_rules::process_event(shell, &init);
    EXPECT_EQ(event[Field::image].text, "/bin/sh");
    EXPECT_EQ(event[Field::command_line].text, "sh -c id");
    EXPECT_EQ(event[Field::user].text, "root");
    EXPECT_EQ(event[Field::parent_image].text, "/sbin/init");
    EXPECT_EQ(event[Field::parent_command_line].text, "init");
    EXPECT_EQ(event[Field::process_id].text, "7");
    EXPECT_EQ(event[Field::parent_process_id].text, "1");
    // No container is none, and not an unknown one.
    EXPECT_EQ(event[Field::container_id].state, sigma::Value::State::absent);
}

TEST(EventOfAProcess, TellsWhatIsNotKnownFromWhatIsNotThere) {
    event::Task shell = task_of(7, "/bin/sh", {});
    shell.argv = event::Observed<std::vector<std::string>>::unavailable("paged out");
    using State = sigma::Value::State;
    const sigma::Event event = event_rules::process_event(shell, nullptr);
    EXPECT_EQ(event[Field::command_line].state, State::unknown);
    EXPECT_EQ(event[Field::parent_image].state, State::unknown);
    shell.ppid = std::uint32_t{0};
    EXPECT_EQ(event_rules::process_event(shell, nullptr)[Field::parent_image].state, State::absent);
}

TEST(EventOfAConnection, HasBothItsEnds) {
    event::Socket socket{.family = "inet", .type = "tcp", .state = "ESTABLISHED"};
    socket.local_address = "10.0.0.2";
    socket.local_port = 40000;
    socket.remote_address = "203.0.113.5";
    socket.remote_port = 443;
    EXPECT_TRUE(event_rules::is_connection(socket));
    const sigma::Event event = event_rules::connection_event(
        event_rules::process_event(task_of(7, "/bin/sh", {"sh"}), nullptr), socket, true);
    EXPECT_EQ(event.category, sigma::Category::network_connection);
    EXPECT_EQ(event[Field::destination_ip].text, "203.0.113.5");
    EXPECT_EQ(event[Field::destination_port].text, "443");
    EXPECT_EQ(event[Field::initiated].text, "true");
    socket.local_address = "::ffff:10.0.0.2";
    socket.remote_address = "::ffff:203.0.113.5";
    const sigma::Event mapped = event_rules::connection_event(event, socket, true);
    EXPECT_EQ(mapped[Field::source_ip].text, "10.0.0.2");
    EXPECT_EQ(mapped[Field::destination_ip].text, "203.0.113.5");
    socket.remote_address = "::ffff:1";
    EXPECT_EQ(event_rules::connection_event(event, socket, true)[Field::destination_ip].text,
              "::ffff:1");
    socket.state = "LISTEN";
    EXPECT_FALSE(event_rules::is_connection(socket));
}

}  // namespace
}  // namespace underseer::detect
