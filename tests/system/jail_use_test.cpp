// Every rule of a jail is one more thing that a worker taken over may do: here real workers do all
// that they are for, and a rule that none of it needs is reported.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <fcntl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <filesystem>

#include "agent/event_rules.h"
#include "agent/trace_supervisor.h"
#include "guests.h"
#include "hypervisor/discover.h"
#include "jail/policy.h"
#include "program.h"
#include "testing/call_trace.h"

namespace underseer::testing {
namespace {

using agent::Introspector;
using agent::Question;
using agent::Topic;

template <typename T>
void ask(agent::StartedWorker& worker, Topic topic) {
    const Question question{.topic = topic, .environment = true, .threads = true};
    ASSERT_TRUE(worker.channel.send(event::encode(question)).has_value());
    auto answer = agent::read_answer<T>("worker", [&] { return worker.channel.receive(); });
    EXPECT_TRUE(answer.has_value()) << answer.error().to_text();
}

// With rules that use every module, over content of every kind.
void scan(agent::StartedWorker& worker) {
    std::string rules =
        "import \"elf\" import \"pe\" import \"hash\" import \"magic\" import \"math\"\n"
        "rule every { strings: $a = /[a-z]{3,9}\\.so/ condition: #a > 1 or pe.is_pe or "
        "elf.type == elf.ET_EXEC or hash.sha256(0, filesize) == \"\" or magic.type() == \"\" or "
        "math.entropy(0, filesize) > 9.0 }\n";
    for (int i = 0; i < 3000; ++i) {
        rules += fmt::format("rule r{0} {{ strings: $a = \"of rule {0}\" condition: $a }}\n", i);
    }
    const auto step = [&]<typename T>(agent::ScanRequest request, T) {
        const Question question{.topic = Topic::scan, .scan = std::move(request)};
        CHECK(worker.channel.send(event::encode(question)).has_value());
        auto answer = agent::read_answer<T>("worker", [&] { return worker.channel.receive(); });
        EXPECT_TRUE(answer.has_value()) << answer.error().to_text();
        return answer.has_value() && !answer->items.empty() ? answer->items[0] : T{};
    };
    step({.step = agent::ScanStep::rules, .rules = {{.file = "all.yar", .text = rules}}},
         agent::CompiledRules{});
    const auto compiled = step({.step = agent::ScanStep::compile}, agent::CompiledRules{});
    EXPECT_EQ(compiled.rules, 3001u);
    agent::ScanPart part = step({.step = agent::ScanStep::begin}, agent::ScanPart{});
    for (int i = 0; i < 1000 && !part.finished; ++i) {
        part = step({.step = agent::ScanStep::go_on}, agent::ScanPart{});
    }
    EXPECT_TRUE(part.finished);
    EXPECT_GT(part.coverage.bytes_scanned, 1u << 20);
}

void trace_a_process(agent::StartedWorker& worker) {
    const Question question{.topic = Topic::trace,
                            .one_pid = true,
                            .pid = 1,
                            .trace = {.begin = true, .for_ms = 200, .period_us = 10'000}};
    ASSERT_TRUE(worker.channel.send(event::encode(question)).has_value());
    auto answer =
        agent::read_answer<agent::TracePart>("worker", [&] { return worker.channel.receive(); });
    ASSERT_TRUE(answer.has_value()) << answer.error().to_text();
    EXPECT_TRUE(answer->items.at(0).finished);
}

// By those that come with the package, of which some have regular expressions.
void match_by_rules(agent::StartedWorker& worker) {
    const std::string folder[] = {UNDERSEER_RULES};
    const auto rules = agent::load_event_rules(folder, agent::RuleOwner::anybody, true);
    ASSERT_TRUE(rules.has_value()) << rules.error().to_text();
    Question question{.topic = Topic::event_rules};
    question.event_rules = agent::part_of(rules->form, 0);
    ASSERT_TRUE(question.event_rules.is_last);
    ASSERT_TRUE(worker.channel.send(event::encode(question)).has_value());
    auto known =
        agent::read_answer<agent::TextPart>("worker", [&] { return worker.channel.receive(); });
    ASSERT_TRUE(known.has_value()) << known.error().to_text();
    ask<event::CheckReport>(worker, Topic::checks);
}

// The calls of an introspector from the moment its jail is closed to its end.
enum class Duty : std::uint8_t { looks, scans, keeps };
std::set<long> calls_of(agent::GuestSource source, Duty duty = Duty::looks) {
    const bool scans = duty == Duty::scans;
    source.scans = scans;
    const auto path = std::filesystem::temp_directory_path() / "underseer-jail-use.core";
    if (duty == Duty::keeps) {
        source.outputs.push_back(
            {{agent::EvidenceKind::machine_memory, 4ull << 30},
             open_file(path, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600).value()});
        std::filesystem::remove(path);
    }
    std::optional<agent::StartedWorker> worker =
        Introspector::begin(std::move(source)).value().release();
    CallTrace trace(worker->child.pid());
    EXPECT_TRUE(trace.attached());
    EXPECT_TRUE(worker->channel.receive().has_value()) << "the jail is closed";
    ask<event::SystemInfo>(*worker, Topic::info);
    ask<event::Task>(*worker, Topic::tasks);
    ask<event::OpenFile>(*worker, Topic::open_files);
    ask<event::Vma>(*worker, Topic::memory_maps);
    ask<event::Socket>(*worker, Topic::sockets);
    ask<event::Mount>(*worker, Topic::mounts);
    ask<event::Module>(*worker, Topic::modules);
    ask<event::KernelLogLine>(*worker, Topic::kernel_log);
    ask<event::CheckReport>(*worker, Topic::checks);
    match_by_rules(*worker);
    trace_a_process(*worker);
    if (scans) scan(*worker);
    if (duty == Duty::keeps) ask<agent::KeptFile>(*worker, Topic::evidence);
    {
        const jail::Channel hung_up = std::move(worker->channel);
    }
    return trace.calls_until_end();
}

TEST(JailUse, no_rule_is_there_that_nothing_needs) {
    auto vm = TestVm::boot({});
    if (!vm.has_value() && vm.error().code == Code::unavailable)
        GTEST_SKIP() << vm.error().to_text();
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    std::set<long> used = calls_of(source_of(*vm));
    const auto path = std::filesystem::temp_directory_path() / (vm->name() + ".kdump");
    ASSERT_TRUE(vm->dump_to(path, "kdump-zlib").has_value());
    used.merge(calls_of(image_source(path)));
    std::filesystem::remove(path);
    const std::set<long> for_scans = calls_of(source_of(*vm), Duty::scans);
    used.merge(calls_of(source_of(*vm), Duty::keeps));
    const jail::OutputFile output{6, 4ull << 30};
    const jail::ReadableRange range{5, 0, 1};
#ifdef UNDERSEER_SANITIZED  // whose allocator needs less than the C library's, or other things
    used.insert({SYS_munmap, SYS_brk});
#endif
    std::vector<std::string_view> unused;
    const jail::Policy policy =
        jail::introspector_policy(3, {&range, 1}, 1, jail::IntrospectorDuty::looks, {&output, 1});
    for (const jail::SyscallRule& rule : policy.rules) {
        if (!rule.rare && !used.contains(rule.number)) unused.push_back(rule.name);
    }
#ifndef UNDERSEER_SANITIZED
    EXPECT_FALSE(used.contains(SYS_mremap)) << "only scans may";
    EXPECT_TRUE(for_scans.contains(SYS_mremap)) << "which the jail of scans allows";
#endif
    EXPECT_TRUE(unused.empty()) << "nothing used: " << fmt::format("{}", fmt::join(unused, ", "));
}

// The two of an exact trace: what their jails allow beyond those of others.
TEST(JailUse, an_exact_trace_needs_what_its_two_workers_may) {
    auto vm = TestVm::boot({.workload = false});
    if (!vm.has_value() && vm.error().code == Code::unavailable)
        GTEST_SKIP() << vm.error().to_text();
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    const auto host = hypervisor::discover().value();
    const Directory directory;
    auto supervisor = agent::TraceSupervisor::start(hypervisor::select(host, vm->name()).value(),
                                                    directory / "state");
    ASSERT_TRUE(supervisor.has_value()) << supervisor.error().to_text();
    std::set<long> supervisors, tracers;
    {
        CallTrace trace(supervisor->pid());
        EXPECT_TRUE(trace.attached());
        agent::GuestSource source = source_of(*vm);
        source.supervisor = supervisor->take_line();
        auto tracer = Introspector::begin(std::move(source)).value().release();
        CallTrace traced(tracer.child.pid());
        EXPECT_TRUE(traced.attached());
        EXPECT_TRUE(tracer.channel.receive().has_value()) << "the jail is closed";
        const Question question{.topic = Topic::exact_trace,
                                .one_pid = true,
                                .pid = 1,
                                .trace = {.begin = true, .for_ms = 1000}};
        ASSERT_TRUE(tracer.channel.send(event::encode(question)).has_value());
        agent::ExactSummary summary;
        const auto answered = agent::read_each<agent::ExactPart>(
            [&] { return tracer.channel.receive(); },
            [&](agent::ExactPart part) { summary = std::move(part.summary); });
        EXPECT_TRUE(answered.has_value()) << answered.error().to_text();
        EXPECT_EQ(summary.ended, "the time is over");
        {
            const jail::Channel hung_up = std::move(tracer.channel);
        }
        tracers = traced.calls_until_end();
        supervisors = trace.calls_until_end();
    }
    EXPECT_TRUE(tracers.contains(SYS_sendto));
    const jail::Policy policy =
        jail::supervisor_policy({.channel = 3, .tracer = 4, .monitor = 6, .gdb = 7, .record = 5});
#ifdef UNDERSEER_SANITIZED  // whose allocator needs less than the C library's, or other things
    supervisors.insert({SYS_munmap, SYS_brk, SYS_mmap});
#endif
    for (const jail::SyscallRule& rule : policy.rules) {
        EXPECT_TRUE(rule.rare || supervisors.contains(rule.number)) << rule.name;
    }
}

}  // namespace
}  // namespace underseer::testing
