// Clean guests under load: nothing in them may be taken for an intrusion.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <set>

#include "detect/check.h"
#include "guests.h"
#include "testing/test_agent.h"

namespace underseer::testing {
namespace {

using agent::Question;
using agent::Topic;
using std::chrono::steady_clock;

class Load : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(, Load, ::testing::ValuesIn(all_kernels()), test_name);

// Two minutes on one kernel, half an hour on each in the nightly run.
TEST_P(Load, of_every_kind_makes_no_false_alarm) {
    if (!nightly() && GetParam() != "6.1-cloud") GTEST_SKIP() << "in the nightly run only";
    auto vm = TestVm::boot({.kernel = GetParam(), .memory_mib = 1024, .vcpus = 2});
    if (!vm.has_value() && vm.error().code == Code::unavailable) {
        GTEST_SKIP() << vm.error().to_text();
    }
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    agent::Introspector introspector = attach(*vm);
    ASSERT_TRUE(use_shipped_rules(introspector).has_value());
    // What the guest's other processes do to be listed right is found from the first: when the last
    // of them has done it.
    vm->output_of(
        "until ls -l /proc/*/exe 2> /dev/null | grep -q 'short-lived (deleted)'; do "
        "sleep 0.1; done");
    std::set<std::string> known;
    const auto name_of = [](const event::Finding& finding) {
        return finding.rule + " " + finding.key;
    };
    const auto before = introspector.ask<event::CheckReport>({.topic = Topic::checks});
    ASSERT_TRUE(before.has_value()) << before.error().to_text();
    for (const event::CheckReport& report : before->items) {
        for (const event::Finding& finding : report.findings) known.insert(name_of(finding));
    }
    vm->output_of("/bin/workload mix > /dev/null & true");
    vm->output_of(
        "while :; do rmmod nfnetlink; insmod /lib/modules/nfnetlink.ko; sleep 1; done "
        "> /dev/null 2>&1 & true");
    const unsigned minutes = nightly() ? 30 : 2;
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(minutes);
    unsigned looks = 0;
    std::map<std::string, unsigned> clean, unavailable;
    std::set<std::string> informational;
    std::uint64_t looked_at = 0;
    for (; std::chrono::steady_clock::now() < end; ++looks) {
        const auto answer = introspector.ask<event::CheckReport>(
            Question{.topic = Topic::checks, .deep = looks % 2 == 1});
        ASSERT_TRUE(answer.has_value()) << answer.error().to_text();
        for (const event::CheckReport& report : answer->items) {
            for (const event::Finding& finding : report.findings) {
                if (known.contains(name_of(finding))) continue;
                if (finding.severity == event::Severity::informational) {
                    informational.insert(name_of(finding));
                    continue;
                }
                ADD_FAILURE() << finding.rule << ": " << finding.subject << ", "
                              << finding.evidence[0].text << ", " << finding.evidence[1].text;
            }
            const bool blind = report.outcome == event::Outcome::unavailable;
            ++(blind ? unavailable : clean)[report.check];
            looked_at += report.coverage.looked_at;
        }
    }
    fmt::print("{} looks at {} tasks and processes\n", looks, looked_at);
    for (const auto& [check, times] : clean) {
        fmt::print("{}: {} clean, {} unavailable\n", check, times, unavailable[check]);
        EXPECT_LT(unavailable[check], times / 10 + 1) << check;
    }
    EXPECT_EQ(clean.size(), detect::all_checks().size() - 1);  // no programs are known
    // More often than an agent that looks every ten seconds.
    EXPECT_GT(looks, 6 * minutes);
    EXPECT_LE(informational.size(), 5u) << fmt::format("{}", fmt::join(informational, "; "));
    // The load is still there: what it does to the guest has not ended it.
    const auto tasks = introspector.ask<event::Task>(Question{.topic = Topic::tasks});
    ASSERT_TRUE(tasks.has_value()) << tasks.error().to_text();
    EXPECT_GT(std::ranges::count(tasks->items, "workload", &event::Task::comm), 20);
}

// What servers do, and those who look after them: compilers, containers, bpftrace, perf and ftrace,
// modules that come and go, debuggers, with the kernel's audit on; under an agent with its default
// policy and the rules that come with the package. As long as it takes each of them once, half an
// hour in the nightly run.
TEST_P(Load, of_real_programs_is_no_intrusion) {
    if (!nightly() && GetParam() != "6.1-cloud") GTEST_SKIP() << "in the nightly run only";
    auto vm = TestVm::boot({.kernel = GetParam(),
                            .memory_mib = 1536,
                            .vcpus = 2,
                            .one_thread = true,
                            .workload = false,
                            .disk = true});
    if (!vm.has_value() && vm.error().code == Code::unavailable) {
        GTEST_SKIP() << vm.error().to_text();
    }
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    // What is there for moments is hardly seen by the default schedule.
    std::string schedule;
    for (const detect::CheckKind& check : detect::all_checks()) {
        if (!nightly()) schedule += fmt::format("{} = \"2s\"\n", check.name);
    }
    TestAgent agent(
        fmt::format("[schedule]\ncpu_percent = 100\n{}[instances]\nonly = [\"name:{}\"]\n"
                    "[rules]\nsigma = [\"{}\"]\n",
                    schedule, vm->name(), UNDERSEER_RULES));
    agent.start();
    agent.wait_until_watched(vm->name());
    vm->output_of("load audit");
    const std::vector<std::string> loads{"probes",     "tracers",  "modules",
                                         "containers", "debugger", "compile"};
    vm->output_of(fmt::format("hold={} files={} load {} > /dev/null 2>&1 & true",
                              nightly() ? 12 : 1, nightly() ? 300 : 60, fmt::join(loads, " ")));
    const auto rounds = [&](const std::string& load) {
        return std::stoul(
            "0" + vm->output_of(fmt::format("cat /tmp/load/{} 2> /dev/null || true", load)));
    };
    const auto begin = steady_clock::now();
    const auto least = nightly() ? std::chrono::minutes(30) : std::chrono::minutes(1);
    const auto most = least + std::chrono::minutes(10);  // on a busy machine
    std::map<std::string, unsigned> clean, unavailable;
    std::set<std::string> reasons;
    for (bool done = false; !done;) {
        const auto next = steady_clock::now() + std::chrono::seconds(5);
        agent.wait_until("five seconds have gone", [&] { return steady_clock::now() > next; });
        const auto status = agent.instance(vm->name());
        ASSERT_TRUE(status.has_value());
        const auto each = status->at("each").value().elements().value();
        for (const json::Value& check : each) {
            const std::string name = check.at("check").value().as_string().value();
            const bool blind = check.at("outcome").value().as_string().value() == "unavailable";
            ++(blind ? unavailable : clean)[name];
            if (blind) reasons.insert(name + ": " + check.at("reason").value().as_string().value());
        }
        const auto gone = steady_clock::now() - begin;
        done = gone > most || (gone > least && std::ranges::all_of(loads, rounds));
    }
    for (const std::string& load : loads) {
        const auto times = rounds(load);
        fmt::print("{}: {} rounds\n", load, times);
        EXPECT_GT(times, 0u) << load;
    }
    EXPECT_EQ(vm->output_of("cat /tmp/load/failed"), "");
    for (const std::string& reason : reasons) fmt::print("at some moment {}\n", reason);
    for (const auto& [check, times] : clean) {
        fmt::print("{}: {} times unavailable of {}\n", check, unavailable[check],
                   times + unavailable[check]);
        EXPECT_LT(unavailable[check], times / 10 + 1) << check;
    }
    EXPECT_GE(clean.size(), detect::all_checks().size());
    unsigned informational = 0;
    for (const json::Value& event : agent.logged()) {
        // Detection Finding, that is new
        if (event.at("class_uid").value().as_uint().value() != 2004) continue;
        if (event.at("activity_id").value().as_uint().value() != 1) continue;
        const bool info = event.at("severity_id").value().as_uint().value() == 1;
        if (info) ++informational;
        const std::string message = event.at("message").value().as_string().value();
        if (info)
            fmt::print("{}\n", message);
        else
            ADD_FAILURE() << message;
    }
    EXPECT_LE(informational, 5u);
}

// Which a bridge wants of its ports: that is no news, and who wants it besides is.
TEST_P(Load, of_a_bridge_is_no_promiscuous_interface) {
    if (!nightly() && GetParam() != "6.1-cloud") GTEST_SKIP() << "in the nightly run only";
    auto vm =
        TestVm::boot({.kernel = GetParam(), .memory_mib = 1024, .workload = false, .disk = true});
    if (!vm.has_value() && vm.error().code == Code::unavailable) {
        GTEST_SKIP() << vm.error().to_text();
    }
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    vm->output_of(
        "modprobe bridge && ip link add br7 type bridge && ip link set dummy7 master br7 && "
        "ip link set br7 up && ip link set dummy7 up");
    agent::Introspector introspector = attach(*vm);
    const auto findings = [&] {
        return introspector.ask<event::CheckReport>({.topic = Topic::checks, .checks = {"network"}})
            .value()
            .items.at(0)
            .findings;
    };
    const auto interfaces =
        introspector.ask<event::NetworkInterface>({.topic = Topic::interfaces}).value().items;
    const auto port = std::ranges::find(interfaces, "dummy7", &event::NetworkInterface::name);
    ASSERT_NE(port, interfaces.end());
    EXPECT_EQ(port->bridge.value(), "br7");
    EXPECT_EQ(port->promiscuity, 1u);
    EXPECT_TRUE(findings().empty());
    vm->output_of("ip link set dummy7 promisc on");
    const auto found = findings();
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].rule, "promiscuous_interface");
    EXPECT_EQ(found[0].subject, "dummy7");
}

}  // namespace
}  // namespace underseer::testing
