// Watched memory of real guests: what is changed for a moment only is told, and what a kernel does
// to itself is not.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <future>
#include <optional>
#include <thread>

#include "guests.h"
#include "outside_rootkit.h"
#include "testing/test_agent.h"

namespace underseer::testing {
namespace {

using namespace std::chrono_literals;

class Watching : public ::testing::TestWithParam<std::string> {
  protected:
    // One guest serves all tests of its kernel that run in this process.
    void SetUp() override {
        if (GetParam() != "6.1-cloud" && !nightly()) GTEST_SKIP() << "in the nightly run only";
        if (!guest_ || guest_->kernel != GetParam()) {
            guest_.reset();
            auto booted = TestVm::boot(
                {.kernel = GetParam(), .vcpus = 2, .one_thread = true, .workload = false});
            if (!booted.has_value() && booted.error().code == Code::unavailable) {
                GTEST_SKIP() << booted.error().to_text();
            }
            ASSERT_TRUE(booted.has_value()) << booted.error().to_text();
            guest_.emplace(GetParam(), std::move(*booted));
        }
        // The watch begins.
        const auto report = watch(100ms);
        EXPECT_EQ(report.outcome, event::Outcome::clean) << report.reason;
        EXPECT_GT(report.coverage.looked_at, 20u);
    }
    static void TearDownTestSuite() { guest_.reset(); }

    TestVm& vm() { return guest_->vm; }

    // What a watch of that length has to say, of all that is watched; its tally is kept.
    event::CheckReport watch(std::chrono::milliseconds time) {
        const auto answer = try_to_watch(time);
        EXPECT_TRUE(answer.has_value()) << answer.error().to_text();
        return answer.has_value() ? *answer : event::CheckReport{};
    }
    Result<event::CheckReport> try_to_watch(std::chrono::milliseconds time) {
        agent::Question question{.topic = agent::Topic::watch};
        question.watch = {.for_ms = static_cast<std::uint32_t>(time.count()),
                          .period_us = 2000,
                          .core_ppm = 1'000'000};
        auto& channel = guest_->worker.channel;
        TRY(channel.send(event::encode(question)));
        std::vector<std::string> frames;
        for (;;) {
            const std::string frame = TRY(channel.receive());
            event::Decoder decoder{as_bytes(frame)};
            const auto kind = TRY(decoder.get<agent::FrameKind>());
            if (kind == agent::FrameKind::signs) signs_ |= TRY(decoder.get<guest_linux::Signs>());
            if (kind == agent::FrameKind::items) frames.push_back(frame.substr(1));
            if (kind != agent::FrameKind::end) continue;
            const auto end = TRY(decoder.get<agent::AnswerEnd>());
            if (end.failed) return fail(agent::error_of(end));
            break;
        }
        CHECK(frames.size() == 3);
        tally_ = TRY(event::decode<agent::WatchTally>(as_bytes(frames[0])));
        auto memory = TRY(event::decode<event::CheckReport>(as_bytes(frames[1])));
        add(memory, TRY(event::decode<event::CheckReport>(as_bytes(frames[2]))));
        return memory;
    }
    // While that runs in the guest, and a moment longer.
    event::CheckReport watch_while(const std::string& command) {
        auto running = std::async(std::launch::async, [&] { return vm().run(command).value(); });
        event::CheckReport all;
        all.outcome = event::Outcome::clean;
        agent::WatchTally sum;
        const auto go_on = [&](std::chrono::milliseconds time) {
            add(all, watch(time));
            sum.looks += tally_.looks, sum.samples += tally_.samples;
            sum.tasks_ran += tally_.tasks_ran;
            sum.pids_used += tally_.pids_used, sum.pids_unseen += tally_.pids_unseen;
            sum.longest_pause_ns = std::max(sum.longest_pause_ns, tally_.longest_pause_ns);
        };
        signs_ = 0;
        while (running.wait_for(0s) != std::future_status::ready) go_on(1s);
        last_ = running.get();
        go_on(300ms);
        tally_ = sum;
        return all;
    }
    static void add(event::CheckReport& all, event::CheckReport more) {
        for (event::Finding& finding : more.findings) all.findings.push_back(std::move(finding));
        all.outcome = std::min(all.outcome, more.outcome);
        if (more.outcome == event::Outcome::unavailable) all.outcome = more.outcome;
        if (!more.reason.empty()) all.reason = more.reason;
    }
    bool load(const std::string& module) {
        return vm().run(fmt::format("grep -q {0} /proc/modules || insmod /lib/modules/{0}.ko",
                                    module))
                   .value()
                   .status == 0;
    }
    // That something happens is seen, whatever it is.
    void expect_signs(const std::string& command, guest_linux::Signs wanted) {
        SCOPED_TRACE(command);
        signs_ = 0;
        watch_while(command);
        if (last_.status != 0) return;  // this kernel has no such thing
        EXPECT_EQ(signs_ & wanted, wanted);
    }
    void expect_signs_of_hook(const std::string& hook, guest_linux::Signs wanted) {
        const std::string told = "/sys/module/underseer_hook/parameters/command";
        expect_signs(fmt::format("echo {} > {}", hook, told), wanted);
        expect_signs(fmt::format("echo 0 > {}", told), wanted);
    }
    // A hook that is put in, and taken out again 50 ms later.
    void expect_seen(const std::string& command, const std::string& subject) {
        if (!load("underseer_hook")) GTEST_SKIP() << "no module of ours is built for it";
        const std::string told = "/sys/module/underseer_hook/parameters/command";
        const auto report = watch_while(fmt::format(
            "sleep 0.2; echo {} > {} && usleep 50000 && echo 0 > {}", command, told, told));
        if (last_.status != 0) {
            GTEST_SKIP() << GetParam() << " has no place for the hook '" << command << "'";
        }
        ASSERT_FALSE(report.findings.empty()) << report.reason;
        bool undone = false;
        for (const event::Finding& finding : report.findings) {
            EXPECT_EQ(finding.rule, "watched_memory_changed");
            EXPECT_EQ(finding.subject.substr(0, subject.size()), subject);
            for (const event::Evidence& item : finding.evidence) {
                if (item.name == "seen") undone |= item.text.find("put back") != std::string::npos;
                if (item.name == "seen" || item.name == "after") {
                    fmt::print("{}: {}: {}\n", finding.subject, item.name, item.text);
                }
            }
        }
        EXPECT_TRUE(undone);
        EXPECT_EQ(watch(300ms).outcome, event::Outcome::clean);
    }
    void expect_nothing_while(const std::string& command) {
        const auto report = watch_while(command);
        EXPECT_EQ(report.outcome, event::Outcome::clean) << report.reason;
        for (const event::Finding& finding : report.findings) {
            ADD_FAILURE() << finding.rule << ": " << finding.subject;
            for (const event::Evidence& item : finding.evidence) {
                fmt::print("    {}: {}\n", item.name, item.text);
            }
        }
    }

    struct Guest {
        std::string kernel;
        TestVm vm;
        agent::StartedWorker worker;
        Guest(std::string name, TestVm machine)
            : kernel(std::move(name)), vm(std::move(machine)), worker(attach(vm).release()) {}
    };
    static std::optional<Guest> guest_;
    RunResult last_;
    guest_linux::Signs signs_ = 0;
    agent::WatchTally tally_;
};
std::optional<Watching::Guest> Watching::guest_;
INSTANTIATE_TEST_SUITE_P(, Watching, ::testing::ValuesIn(all_kernels()), test_name);

TEST_P(Watching, table_of_system_calls) {
    expect_seen("syscall", "getdents64 (sys_call_table[217])");
}

TEST_P(Watching, switch_of_system_calls) {
    expect_seen("switch", "x64_sys_call+");
}

TEST_P(Watching, gate_of_an_interrupt) {
    expect_seen("idt", "interrupt 0x81");
}

TEST_P(Watching, sequence_of_proc_net_tcp) {
    expect_seen("seq", "tcp4_seq_ops.show");
}

TEST_P(Watching, operations_of_the_proc_folder) {
    expect_seen("proc", "proc_root_operations.iterate_shared");
}

TEST_P(Watching, other_operations_for_the_proc_folder) {
    expect_seen("procops", "proc_root");
}

TEST_P(Watching, input_of_terminals) {
    expect_seen("ldisc", "n_tty_ops.receive_buf2");
}

TEST_P(Watching, decision_about_opening_a_file) {
    expect_seen("lsm", "");
}

// Hidden from every list for less than half a second, in which it runs.
TEST_P(Watching, a_process_that_runs_unlisted_for_a_moment) {
    if (!load("underseer_hide")) GTEST_SKIP() << "no module of ours is built for it";
    const auto report = watch_while(
        "sleep 0.2; (while :; do :; done) & p=$!; "
        "echo 3 $p > /sys/module/underseer_hide/parameters/command && usleep 300000; "
        "echo 0 > /sys/module/underseer_hide/parameters/command; kill -9 $p; true");
    ASSERT_FALSE(report.findings.empty()) << report.reason;
    for (const event::Finding& finding : report.findings) {
        EXPECT_EQ(finding.rule, "hidden_process_ran") << finding.subject;
        EXPECT_TRUE(finding.subject.starts_with("sh (pid ")) << finding.subject;
        for (const event::Evidence& item : finding.evidence) {
            fmt::print("{}: {}: {}\n", finding.subject, item.name, item.text);
        }
    }
    EXPECT_EQ(watch(300ms).outcome, event::Outcome::clean);
}

TEST_P(Watching, counts_the_processes_that_it_did_not_see) {
    expect_nothing_while("i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i+1)); done");
    fmt::print("{} looks, {} samples, {} ran, {} pids used, {} unseen, longest pause {} us\n",
               tally_.looks, tally_.samples, tally_.tasks_ran, tally_.pids_used, tally_.pids_unseen,
               tally_.longest_pause_ns / 1000);
    EXPECT_GT(tally_.looks, 100u);
    EXPECT_GE(tally_.pids_used, 300u);
    EXPECT_LT(tally_.pids_used, 400u);
    EXPECT_LT(tally_.pids_unseen, tally_.pids_used) << "none was seen";
    EXPECT_GT(tally_.tasks_ran, 5u);
}

// What the kernel itself writes into its entry code when somebody traces it, and all else that goes
// on in a guest that is used.
TEST_P(Watching, a_guest_at_rest_gives_few_signs) {
    vm().output_of("sleep 1");
    watch(100ms);
    signs_ = 0;
    watch(3s);
    // The kernel's own workers come and go.
    EXPECT_EQ(signs_ & ~(guest_linux::kSignOfTasks | guest_linux::kSignOfEnds), 0u);
}

TEST_P(Watching, whoever_does_something_gives_a_sign) {
    using namespace guest_linux;
    expect_signs("/bin/true", kSignOfTasks);
    expect_signs("/bin/intruder bpf > /tmp/.bpf & sleep 1; kill -9 $!", kSignOfPrograms);
    if (!load("underseer_hook")) GTEST_SKIP() << "no module of ours is built for it";
    expect_signs("insmod /lib/modules/underseer_unseen.ko", kSignOfModules);
    expect_signs("rmmod underseer_unseen", kSignOfModules);
    expect_signs_of_hook("ftrace", kSignOfCode);
    expect_signs_of_hook("kprobe", kSignOfCode);
    expect_signs_of_hook("tracepoint", kSignOfCode);
    expect_signs_of_hook("netfilter", kSignOfHooks);
    expect_signs_of_hook("packet", kSignOfHooks);
    expect_signs_of_hook("keyboard", kSignOfHooks);
    expect_signs_of_hook("reboot", kSignOfHooks);
}

// No list changes when a process gets other credentials, nor a counter.
TEST_P(Watching, credentials_that_change_are_a_sign) {
    vm().pause();
    OutsideRootkit rootkit(&vm());
    guest_linux::Kernel& kernel = rootkit.kernel();
    guest_linux::Telltales telltales = rootkit.guest().telltales(&rootkit.memory());
    EXPECT_EQ(telltales.call_the_roll(), 0u);
    const GuestVirt init = kernel.symbol("init_task").value();
    const GuestVirt next = kernel.read_pointer(init, kernel.field("task_struct", "tasks")).value();
    const GuestVirt first = next - kernel.field("task_struct", "tasks").offset;
    rootkit.write(first + kernel.field("task_struct", "cred").offset,
                  kernel.symbol("init_cred").value().value);
    EXPECT_EQ(telltales.poll(), 0u);
    constexpr auto kBoth = guest_linux::kSignOfTasks | guest_linux::kSignOfEnds;
    EXPECT_EQ(telltales.call_the_roll(), kBoth);
    EXPECT_EQ(telltales.call_the_roll(), 0u);
    rootkit.undo();
    EXPECT_EQ(telltales.call_the_roll(), kBoth);
    rootkit.unlink(first, "tasks");
    EXPECT_EQ(telltales.call_the_roll(), guest_linux::kSignOfEnds);
    rootkit.undo();
    EXPECT_EQ(telltales.call_the_roll(), guest_linux::kSignOfTasks);
    EXPECT_TRUE(telltales.gaps().empty());
    vm().resume();
}

// The list of tasks by what was remembered is the list, and says who is not as before.
TEST_P(Watching, tasks_that_are_as_they_were_are_not_read_again) {
    vm().pause();
    OutsideRootkit rootkit(&vm());
    guest_linux::Guest& guest = rootkit.guest();
    const auto read = guest.tasks_to_remember().items;
    std::unordered_set<GuestVirt> changed;
    EXPECT_EQ(guest.tasks_since(changed).items, read);
    EXPECT_TRUE(changed.empty());
    const auto shell = std::ranges::find(read, 1u, &event::Task::pid);
    ASSERT_NE(shell, read.end());
    const auto& kernel = rootkit.kernel();
    const GuestVirt task{shell->address};
    const GuestVirt cred = GuestVirt{rootkit.member(task, "real_cred").value()};
    rootkit.write(cred + kernel.field("cred", "uid").offset, 0x1234'0000'5678ull);
    guest.new_epoch();
    auto listed = guest.tasks_since(changed).items;
    EXPECT_EQ(std::ranges::find(listed, 1u, &event::Task::pid)->credentials.value().uid, 0x5678u)
        << "what is written over in its place";
    EXPECT_TRUE(changed.empty());
    rootkit.undo();
    const auto comm = kernel.field("task_struct", "comm");
    rootkit.write(task + comm.offset, 0x0000'0000'0065'6d61ull);
    guest.new_epoch();
    listed = guest.tasks_since(changed).items;
    EXPECT_EQ(std::ranges::find(listed, 1u, &event::Task::pid)->comm, "ame");
    EXPECT_EQ(changed, std::unordered_set<GuestVirt>{task});
    rootkit.undo();
    vm().resume();
}

TEST_P(Watching, modules_that_come_and_go_are_none) {
    expect_nothing_while(
        "i=0; while [ $i -lt 20 ]; do for m in underseer_hook underseer_hide underseer_pose; do "
        "insmod /lib/modules/$m.ko; rmmod $m; done; i=$((i+1)); done 2> /dev/null; true");
}

TEST_P(Watching, a_tracer_of_all_functions_is_none) {
    const std::string tracing = "/sys/kernel/debug/tracing";
    if (vm().run("test -e " + tracing + "/available_tracers").value().status != 0) {
        GTEST_SKIP() << "this guest has no tracing";
    }
    expect_nothing_while(fmt::format(
        "cd {}; for i in 1 2 3; do echo function > current_tracer; usleep 200000; "
        "echo nop > current_tracer; done; for i in 1 2 3; do "
        "echo ':x64_sys_call do_syscall_64 __x64_sys_getpid' | tr -d : > set_ftrace_filter; "
        "echo function > current_tracer; usleep 100000; echo nop > current_tracer; done; true",
        tracing));
}

TEST_P(Watching, probes_in_the_entry_code_are_none) {
    const std::string tracing = "/sys/kernel/debug/tracing";
    if (vm().run(fmt::format("grep -q ' x64_sys_call$' /proc/kallsyms && test -e {}/kprobe_events",
                             tracing))
            .value()
            .status != 0) {
        GTEST_SKIP() << "it has no such code, or no probes";
    }
    // Wherever an instruction begins: what is none is refused.
    expect_nothing_while(fmt::format(
        "cd {}; n=0; while [ $n -lt 60 ]; do echo \"p:u$n x64_sys_call+$n\" >> kprobe_events; "
        "n=$((n+1)); done 2> /dev/null; for i in 1 2 3 4 5; do echo 1 > events/kprobes/enable; "
        "usleep 300000; echo 0 > events/kprobes/enable; done; wc -l < kprobe_events; "
        "echo > kprobe_events; true",
        tracing));
    fmt::print("probes: {}\n", last_.output);
}

TEST_P(Watching, a_crash_reporter_that_is_set_is_none_and_a_foreign_one_is_told) {
    const std::string before = vm().output_of("cat /proc/sys/kernel/core_pattern");
    expect_nothing_while("echo '|/usr/share/apport/apport %p' > /proc/sys/kernel/core_pattern");
    const auto report = watch_while("echo '|/tmp/crash %p' > /proc/sys/kernel/core_pattern");
    vm().output_of("echo '" + before.substr(0, before.find('\n')) +
                   "' > /proc/sys/kernel/core_pattern");
    ASSERT_FALSE(report.findings.empty());
    EXPECT_EQ(report.findings[0].rule, "kernel_program_changed");
    (void)watch(300ms);
}

// Its memory becomes another kernel's, from one moment to the next.
TEST_P(Watching, a_reset_is_none) {
    auto resetting = std::async(std::launch::async, [&] {
        std::this_thread::sleep_for(300ms);
        vm().reset();
    });
    for (const auto end = std::chrono::steady_clock::now() + 15s;
         std::chrono::steady_clock::now() < end;) {
        const auto answer = try_to_watch(1s);
        if (!answer.has_value()) {
            std::this_thread::sleep_for(100ms);
            continue;
        }
        for (const event::Finding& finding : answer->findings) {
            ADD_FAILURE() << finding.rule << ": " << finding.subject;
        }
    }
    resetting.get();
    ASSERT_TRUE(vm().wait_until_ready().has_value());
}

// From the write to the event in the log.
TEST(WatchingAgent, tells_of_a_change_at_once) {
    auto booted = TestVm::boot({.kernel = "6.1-cloud", .workload = false});
    if (!booted.has_value() && booted.error().code == Code::unavailable) {
        GTEST_SKIP() << booted.error().to_text();
    }
    TestVm vm = std::move(booted).value();
    TestAgent agent(
        fmt::format("[schedule]\nsystem_calls = \"60s\"\nwatch = \"2ms\"\ncpu_percent = 100\n"
                    "[instances]\nonly = [\"name:{}\"]\n",
                    vm.name()));
    agent.start();
    agent.wait_until_watched(vm.name());
    const auto outcome = [&] {
        const auto checks = agent.instance(vm.name())->at("each").value().elements().value();
        for (const json::Value& one : checks) {
            if (one.at("check").value().as_string().value() == "watched_memory") {
                return one.at("outcome").value().as_string().value();
            }
        }
        return std::string();
    };
    agent.wait_until("its memory is watched", [&] { return outcome() == "clean"; });
    EXPECT_EQ(agent.workers("watcher").size(), 1u);
    OutsideRootkit rootkit(&vm);
    rootkit.write(rootkit.kernel().symbol("sys_call_table").value() + 8 * 180,
                  0xffff'ffff'8000'1230);
    std::this_thread::sleep_for(50ms);
    rootkit.undo();
    const auto open = agent.wait_for_finding("watched_memory_changed");
    EXPECT_EQ(open.at("finding").value().at("subject").value().as_string().value(),
              "nfsservctl (sys_call_table[180])");
    agent.wait_until("it is closed when it has been put back for a while",
                     [&] { return agent.findings("watched_memory_changed").empty(); });
    ::kill(agent.workers("watcher").front(), SIGKILL);
    agent.wait_until("a watcher that ends is missed", [&] { return outcome() == "unavailable"; });
    agent.wait_until("and replaced", [&] { return outcome() == "clean"; });
    EXPECT_EQ(agent.logged("watched_memory can say nothing").size(), 1u);
    EXPECT_EQ(agent.logged("watched_memory says something again").size(), 1u);
    EXPECT_TRUE(agent.findings().empty());
}

// A check that is due in ten minutes comes when there is reason to, and finds what was done.
TEST(WatchingAgent, looks_when_something_happens) {
    auto booted = TestVm::boot({.kernel = "6.1-cloud", .workload = false});
    if (!booted.has_value() && booted.error().code == Code::unavailable) {
        GTEST_SKIP() << booted.error().to_text();
    }
    TestVm vm = std::move(booted).value();
    TestAgent agent(
        fmt::format("[schedule]\nprogram_files = \"10m\"\nkernel_hooks = \"10m\"\n"
                    "cpu_percent = 50\n[instances]\nonly = [\"name:{}\"]\n",
                    vm.name()));
    agent.start();
    agent.wait_until_watched(vm.name());
    std::this_thread::sleep_for(2s);
    vm.output_of("/bin/intruder memfd payload > /dev/null 2>&1 &");
    agent.wait_for_finding("memory_only_program");
    if (vm.run("insmod /lib/modules/underseer_hook.ko").value().status != 0) {
        GTEST_SKIP() << "no module of ours is built for it";
    }
    std::this_thread::sleep_for(3s);
    vm.output_of("echo keyboard > /sys/module/underseer_hook/parameters/command");
    agent.wait_for_finding("foreign_hook");
}

// [[monitor]] memory: what only its operator knows to be nobody's to write to.
TEST(WatchingAgent, tells_of_what_policy_has_it_monitor) {
    auto booted = TestVm::boot({.kernel = "6.1-cloud", .workload = false});
    if (!booted.has_value() && booted.error().code == Code::unavailable) {
        GTEST_SKIP() << booted.error().to_text();
    }
    TestVm vm = std::move(booted).value();
    const std::string policy = fmt::format(
        "[schedule]\nwatch = \"2ms\"\ncpu_percent = 100\n"
        "[instances]\nonly = [\"name:{}\"]\n",
        vm.name());
    TestAgent agent(policy + "[[monitor]]\nmemory = [\"panic_timeout:4\", \"no_such_symbol\"]\n");
    agent.start();
    agent.wait_until_watched(vm.name());
    const auto gaps = [&] {
        std::string all;
        const auto checks = agent.instance(vm.name())->at("each").value().elements().value();
        for (const json::Value& one : checks) {
            if (one.at("check").value().as_string().value() != "watched_memory") continue;
            const auto told = one.at("coverage").value().at("gaps").value().elements().value();
            for (const json::Value& gap : told) all += gap.as_string().value() + "\n";
        }
        return all;
    };
    agent.wait_until("it says what this kernel has not",
                     [&] { return gaps().find("no_such_symbol") != std::string::npos; });
    EXPECT_TRUE(agent.findings().empty());
    vm.output_of("echo 7 > /proc/sys/kernel/panic");
    const json::Value finding =
        agent.wait_for_finding("monitored_memory_changed").at("finding").value();
    EXPECT_EQ(finding.at("subject").value().as_string().value(), "panic_timeout");
    EXPECT_EQ(finding.at("evidence")
                  .value()
                  .elements()
                  .value()
                  .at(1)
                  .at("bytes")
                  .value()
                  .as_string()
                  .value()
                  .substr(0, 2),
              std::string("\a\0", 2));
    // Asked for again with something else: what has changed is not forgotten. Not asked for: it is.
    agent.write_policy(policy + "[[monitor]]\nmemory = [\"tcp_prot\", \"panic_timeout:4\"]\n");
    agent.signal(SIGHUP);
    agent.wait_until("the new one holds",
                     [&] { return gaps().find("no_such_symbol") == std::string::npos; });
    EXPECT_EQ(agent.findings("monitored_memory_changed").size(), 1u);
    agent.write_policy(policy);
    agent.signal(SIGHUP);
    agent.wait_until("nobody asks for it", [&] { return agent.findings().empty(); });
}

}  // namespace
}  // namespace underseer::testing
