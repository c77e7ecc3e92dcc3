// `underseer trace`: what threads of a guest do, against what the guest's own /proc says of them.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <charconv>
#include <future>
#include <map>
#include <set>
#include <thread>

#include "guests.h"
#include "json/value.h"
#include "program.h"
#include "testing/test_agent.h"
#include "truth.h"

namespace underseer::testing {
namespace {

using namespace std::chrono_literals;
using agent::ThreadMode;
using agent::ThreadState;
using agent::TraceMoment;
using agent::TracePart;
using agent::TraceThread;

// One thread, as /proc/PID/task/TID shows it.
struct TrueThread {
    std::string comm;
    std::vector<std::uint64_t> call;  // its number, six arguments, stack pointer, program counter
    std::vector<std::string> stack;   // "pipe_read+0x1a3"
};

struct Traced {
    agent::TraceSummary summary;
    std::map<std::uint32_t, TraceThread> threads;
};

std::uint64_t number_of(const std::string& text) {
    const bool hex = text.starts_with("0x");
    std::uint64_t number = 0;
    std::from_chars(text.data() + (hex ? 2 : 0), text.data() + text.size(), number, hex ? 16 : 10);
    return number;
}

std::uint32_t start(TestVm& vm, const std::string& technique) {
    return static_cast<std::uint32_t>(number_of(vm.output_of(
        fmt::format("rm -f /tmp/.traced; /bin/intruder {} > /tmp/.traced 2>&1 & "
                    "until grep -qs . /tmp/.traced; do sleep 0.1; done; sleep 1; cat /tmp/.traced",
                    technique))));
}

std::map<std::uint32_t, TrueThread> truth_of(TestVm& vm, std::uint32_t pid) {
    std::map<std::uint32_t, TrueThread> threads;
    TrueThread* thread = nullptr;
    const std::string said = vm.output_of(
        fmt::format("for t in /proc/{}/task/*; do echo \"thread ${{t##*/}} $(cat $t/comm)\"; "
                    "echo \"call $(cat $t/syscall)\"; cat $t/stack; done",
                    pid));
    for (const std::string& line : lines_of(said)) {
        const auto words = words_of(line);
        if (words.size() < 2) continue;
        if (words[0] == "thread") {
            thread = &threads[static_cast<std::uint32_t>(number_of(words[1]))];
            thread->comm = words.at(2);
        } else if (words[0] == "call") {
            for (std::size_t i = 1; i < words.size(); ++i) {
                thread->call.push_back(number_of(words[i]));
            }
        } else {
            thread->stack.push_back(words[1].substr(0, words[1].find('/')));
        }
    }
    return threads;
}

Result<Traced> trace(agent::Introspector& introspector, std::uint32_t pid,
                     std::chrono::milliseconds length) {
    agent::Question question{.topic = agent::Topic::trace,
                             .one_pid = true,
                             .pid = pid,
                             .trace = {.begin = true,
                                       .for_ms = static_cast<std::uint32_t>(length.count()),
                                       .period_us = 10'000}};
    for (;; question.trace.begin = false) {
        const auto answer = TRY(introspector.ask<TracePart>(question));
        Traced traced{.summary = answer.items.at(0).summary, .threads = {}};
        if (!answer.items.front().finished) continue;
        for (const TracePart& part : answer.items) {
            for (const TraceThread& thread : part.threads) {
                TraceThread& known = traced.threads[thread.pid];
                auto moments = std::move(known.moments);
                moments.insert(moments.end(), thread.moments.begin(), thread.moments.end());
                known = thread;
                known.moments = std::move(moments);
            }
        }
        return traced;
    }
}

class Tracing : public ::testing::TestWithParam<std::string> {
  protected:
    void SetUp() override {
        if (GetParam() != "6.1-cloud" && !nightly()) GTEST_SKIP() << "in the nightly run only";
        auto vm = TestVm::boot({.kernel = GetParam(), .workload = false});
        if (!vm.has_value() && vm.error().code == Code::unavailable) {
            GTEST_SKIP() << vm.error().to_text();
        }
        ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
        vm_.emplace(std::move(*vm));
    }

    std::optional<TestVm> vm_;
};
INSTANTIATE_TEST_SUITE_P(, Tracing, ::testing::ValuesIn(all_kernels()), test_name);

// Their names alone; where one is not known, the file.
std::vector<std::string> functions_of(const TraceMoment& moment) {
    std::vector<std::string> names;
    for (const auto& frame : moment.user_stack) {
        EXPECT_FALSE(frame.by_frame_pointer) << frame.symbol;
        names.push_back(frame.symbol.empty() ? frame.file
                                             : frame.symbol.substr(0, frame.symbol.find('+')));
    }
    return names;
}

void expect_same(const TrueThread& real, const TraceThread& seen) {
    ASSERT_FALSE(seen.moments.empty()) << real.comm;
    EXPECT_EQ(seen.comm, real.comm);
    // It waits all the time.
    EXPECT_EQ(seen.moments.size(), 1u) << real.comm;
    const TraceMoment& moment = seen.moments.front();
    EXPECT_EQ(moment.samples, seen.samples) << real.comm;
    EXPECT_EQ(moment.state, ThreadState::waiting) << real.comm;
    EXPECT_EQ(moment.mode, ThreadMode::system_call) << real.comm;
    ASSERT_TRUE(moment.call.available()) << real.comm << ": " << moment.call.reason();
    const agent::TraceCall& call = moment.call.value();
    ASSERT_EQ(real.call.size(), 9u) << real.comm;
    EXPECT_EQ(call.number, real.call[0]) << real.comm;
    ASSERT_FALSE(call.arguments.empty()) << real.comm;
    for (std::size_t i = 0; i < call.arguments.size(); ++i) {
        EXPECT_EQ(call.arguments[i].value, real.call.at(1 + i)) << real.comm << ", argument " << i;
        EXPECT_NE(call.arguments[i].name, "") << real.comm << ", argument " << i;
    }
    ASSERT_FALSE(moment.user_stack.empty()) << real.comm << ": " << moment.user_stack_ended;
    EXPECT_EQ(moment.user_stack[0].address, real.call[8]) << real.comm;
    EXPECT_EQ(moment.user_stack[0].file, "/bin/intruder") << real.comm;
    EXPECT_EQ(moment.user_stack_ended, "") << real.comm;
    EXPECT_EQ(functions_of(moment).back(), real.comm == "intruder" ? "_start" : "clone3")
        << real.comm;
    // The guest leaves its scheduler out, which is the innermost.
    EXPECT_EQ(moment.stack_ended, "") << real.comm;
    std::vector<std::string> stack;
    for (const auto& frame : moment.stack) {
        EXPECT_FALSE(frame.is_guess) << frame.symbol;
        stack.push_back(frame.symbol);
    }
    EXPECT_GT(real.stack.size(), 1u) << real.comm;
    const auto tail =
        stack.end() - static_cast<std::ptrdiff_t>(std::min(stack.size(), real.stack.size()));
    EXPECT_EQ(std::vector<std::string>(tail, stack.end()), real.stack) << real.comm;
    EXPECT_TRUE(stack.front().starts_with("__schedule+")) << stack.front();
}

TEST_P(Tracing, tells_the_calls_and_stacks_that_the_guests_own_proc_tells) {
    const std::uint32_t pid = start(*vm_, "calls");
    const auto real = truth_of(*vm_, pid);
    agent::Introspector introspector = attach(*vm_);
    const auto traced = trace(introspector, pid, 500ms);
    ASSERT_TRUE(traced.has_value()) << traced.error().to_text();
    EXPECT_EQ(traced->summary.ended, "the time is over");
    EXPECT_GE(traced->summary.samples, 10u);
    EXPECT_TRUE(traced->summary.gaps.empty());
    EXPECT_EQ(traced->threads.size(), 4u);
    std::map<std::string, std::string> calls;
    for (const auto& [number, thread] : real) {
        ASSERT_TRUE(traced->threads.contains(number)) << thread.comm;
        const TraceThread& seen = traced->threads.at(number);
        expect_same(thread, seen);
        if (seen.moments.empty() || !seen.moments[0].call.available()) continue;
        const agent::TraceCall& call = seen.moments[0].call.value();
        calls[thread.comm] = call.name;
        if (call.name == "read") {
            EXPECT_TRUE(call.arguments[0].file.starts_with("pipe:[")) << call.arguments[0].file;
        }
        EXPECT_GT(seen.moments[0].longest_ns, 100'000'000u) << thread.comm;
    }
    const std::map<std::string, std::string> expected{{"intruder", "read"},
                                                      {"sleeper", "clock_nanosleep"},
                                                      {"poller", "poll"},
                                                      {"locker", "futex"}};
    EXPECT_EQ(calls, expected);
}

// The one moment of a process that waits.
TraceMoment moment_of(TestVm& vm, const std::string& command) {
    const auto pid =
        static_cast<std::uint32_t>(number_of(vm.output_of(command + " & sleep 1; echo $!")));
    agent::Introspector introspector = attach(vm);
    const auto traced = trace(introspector, pid, 300ms);
    EXPECT_TRUE(traced.has_value()) << traced.error().to_text();
    if (!traced.has_value() || !traced->threads.contains(pid)) return {};
    EXPECT_TRUE(traced->summary.gaps.empty()) << traced->summary.gaps.front();
    const auto& moments = traced->threads.at(pid).moments;
    EXPECT_EQ(moments.size(), 1u) << command;
    return moments.empty() ? TraceMoment{} : moments.front();
}

TEST_P(Tracing, names_the_functions_of_a_static_program) {
    const TraceMoment moment = moment_of(*vm_, "/bin/workload chain");
    EXPECT_EQ(moment.user_stack_ended, "");
    EXPECT_EQ(functions_of(moment),
              (std::vector<std::string>{"read", "chain_inner", "chain_outer", "chain", "main",
                                        "__libc_start_call_main", "__libc_start_main", "_start"}));
}

TEST_P(Tracing, follows_a_stack_through_a_signal) {
    const TraceMoment moment = moment_of(*vm_, "/bin/workload chain_in_signal");
    EXPECT_EQ(moment.user_stack_ended, "");
    auto functions = functions_of(moment);
    ASSERT_GE(functions.size(), 11u) << moment.user_stack_ended;
    EXPECT_EQ(std::vector(functions.begin(), functions.begin() + 5),
              (std::vector<std::string>{"read", "chain_inner", "chain_outer", "chain_handler",
                                        "__restore_rt"}));
    EXPECT_EQ(moment.user_stack[4].symbol, "__restore_rt+0x0");
    EXPECT_EQ(std::vector(functions.end() - 6, functions.end()),
              (std::vector<std::string>{"raise", "chain_in_signal", "main",
                                        "__libc_start_call_main", "__libc_start_main", "_start"}));
}

// Its parent waits in vfork(), which has taken what it returns to off the stack.
TEST_P(Tracing, follows_a_stack_through_vfork) {
    const TraceMoment moment = moment_of(*vm_, "/bin/workload waiting");
    EXPECT_EQ(moment.user_stack_ended, "");
    const auto functions = functions_of(moment);
    ASSERT_EQ(functions.size(), 6u);
    EXPECT_EQ(functions[0], "vfork");
    EXPECT_EQ(functions[1], "waiting");
}

// Its own functions by .dynsym alone, those of its C library as far as they are exported.
TEST_P(Tracing, names_the_functions_of_a_program_with_libraries) {
    const TraceMoment moment = moment_of(*vm_, "/bin/workload-dynamic chain");
    EXPECT_EQ(moment.user_stack_ended, "");
    auto functions = functions_of(moment);
    ASSERT_EQ(functions.size(), 8u) << moment.user_stack_ended;
    EXPECT_EQ(std::vector(functions.begin(), functions.begin() + 3),
              (std::vector<std::string>{"read", "chain_inner", "chain_outer"}));
    EXPECT_EQ(moment.user_stack[0].file, "/lib/x86_64-linux-gnu/libc.so.6");
    EXPECT_EQ(moment.user_stack[1].file, "/bin/workload-dynamic");
    EXPECT_EQ(functions[6], "__libc_start_main");
}

TEST_P(Tracing, follows_a_frame_pointer_where_there_is_nothing_else_and_says_so) {
    const TraceMoment moment = moment_of(*vm_, "/bin/workload chain_by_rbp");
    EXPECT_EQ(moment.user_stack_ended, "");
    std::vector<std::string> functions;
    for (const auto& frame : moment.user_stack) {
        functions.push_back((frame.by_frame_pointer ? "? " : "") +
                            frame.symbol.substr(0, frame.symbol.find('+')));
    }
    EXPECT_EQ(functions, (std::vector<std::string>{
                             "read", "chain_inner", "chain_without_cfi", "? chain_by_rbp", "main",
                             "__libc_start_call_main", "__libc_start_main", "_start"}));
}

// Of two that ask for the time again and again one waits, and mostly there.
TEST_P(Tracing, follows_a_stack_through_the_vdso) {
    const auto pid = static_cast<std::uint32_t>(
        number_of(vm_->output_of("/bin/workload measure_gap 1000 > /dev/null & "
                                 "/bin/workload measure_gap 1000 > /dev/null & sleep 1; echo $!")));
    agent::Introspector introspector = attach(*vm_);
    const auto traced = trace(introspector, pid, 3s);
    ASSERT_TRUE(traced.has_value()) << traced.error().to_text();
    std::size_t seen = 0;
    for (const TraceMoment& moment : traced->threads.at(pid).moments) {
        const auto& stack = moment.user_stack;
        // Its own helpers have no names.
        const auto vdso =
            std::ranges::find(stack.rbegin(), stack.rend(), "[vdso]", &agent::TraceUserFrame::file);
        if (vdso == stack.rend()) continue;
        ++seen;
        EXPECT_TRUE(vdso->symbol.starts_with("clock_gettime+0x")) << vdso->symbol;
        EXPECT_EQ(moment.user_stack_ended, "");
        EXPECT_TRUE(stack.back().symbol.starts_with("_start+0x")) << stack.back().symbol;
    }
    EXPECT_GT(seen, 0u);
}

// It is stripped, and but for its C library compiled without unwind information: places in the file
// are known, and where nothing leads on is told.
TEST_P(Tracing, says_where_the_stack_of_a_stripped_program_ends) {
    const TraceMoment moment = moment_of(*vm_, "/bin/busybox sleep 1000");
    EXPECT_GE(moment.user_stack.size(), 2u);
    for (const auto& frame : moment.user_stack) {
        EXPECT_EQ(frame.symbol, "");
        EXPECT_EQ(frame.file, "/bin/busybox");
        EXPECT_NE(frame.offset_bytes, 0u);
    }
    EXPECT_NE(moment.user_stack_ended.find("no unwind information"), std::string::npos)
        << moment.user_stack_ended;
}

TEST_P(Tracing, tells_no_stale_call_of_a_program_that_computes) {
    const std::uint32_t pid = start(*vm_, "spin");
    agent::Introspector introspector = attach(*vm_);
    const auto traced = trace(introspector, pid, 2000ms);
    ASSERT_TRUE(traced.has_value()) << traced.error().to_text();
    ASSERT_EQ(traced->threads.size(), 1u);
    const TraceThread& thread = traced->threads.at(pid);
    std::uint64_t on_cpu = 0;
    for (const TraceMoment& moment : thread.moments) {
        EXPECT_FALSE(moment.call.available()) << moment.call.value().name;
        EXPECT_NE(moment.state, ThreadState::waiting);
        EXPECT_NE(moment.mode, ThreadMode::system_call);
        if (moment.state == ThreadState::on_cpu) on_cpu += moment.samples;
    }
    EXPECT_GT(2 * on_cpu, thread.samples);
    EXPECT_GT(thread.user_ns, 10 * thread.system_ns);
    // On a host that has no time for the guest its ticks are lost.
    EXPECT_GT(thread.user_ns, traced->summary.duration_ns / 20);
}

TEST_P(Tracing, ends_with_the_process) {
    const std::uint32_t pid = start(*vm_, "calls");
    agent::Introspector introspector = attach(*vm_);
    auto traced = std::async(std::launch::async, [&] { return trace(introspector, pid, 60s); });
    std::this_thread::sleep_for(3s);
    vm_->output_of(fmt::format("kill -9 {}", pid));
    ASSERT_EQ(traced.wait_for(20s), std::future_status::ready);
    const auto seen = traced.get();
    ASSERT_TRUE(seen.has_value()) << seen.error().to_text();
    EXPECT_TRUE(seen->summary.process_ended);
    EXPECT_EQ(seen->summary.ended, "the process has ended");
    EXPECT_LT(seen->summary.duration_ns, 20'000'000'000u);
    EXPECT_EQ(seen->threads.size(), 4u);
}

TEST_P(Tracing, does_not_take_another_process_for_the_one_whose_pid_it_has) {
    const std::uint32_t pid = start(*vm_, "calls");
    agent::Introspector introspector = attach(*vm_);
    auto traced = std::async(std::launch::async, [&] { return trace(introspector, pid, 60s); });
    std::this_thread::sleep_for(3s);
    // Between two samples the process ends, and the next one is given its number.
    const pid_t worker = introspector.process().pid();
    ::kill(worker, SIGSTOP);
    const std::string other = vm_->output_of(
        fmt::format("kill -9 {0}; while [ -d /proc/{0} ]; do sleep 0.1; done; i=0; "
                    "while [ $i -lt 200 ]; do i=$((i + 1)); "
                    "echo $(({0} - 1)) > /proc/sys/kernel/ns_last_pid; sleep 1000 & "
                    "if [ $! = {0} ]; then break; fi; kill $!; done; cat /proc/{0}/comm",
                    pid));
    ::kill(worker, SIGCONT);
    ASSERT_TRUE(other.ends_with('\n')) << other;
    ASSERT_EQ(traced.wait_for(20s), std::future_status::ready);
    const auto seen = traced.get();
    ASSERT_TRUE(seen.has_value()) << seen.error().to_text();
    EXPECT_TRUE(seen->summary.process_ended);
    // The other one may be about to execute its program: its name is of that moment.
    EXPECT_TRUE(
        seen->summary.ended.starts_with("the process has ended, and another has its pid now: "))
        << seen->summary.ended;
    EXPECT_EQ(seen->threads.size(), 4u);
}

// ---- as people ask for it

class TraceCommand : public ::testing::Test {
  protected:
    static void SetUpTestSuite() {
        auto booted = TestVm::boot({.workload = false});
        if (booted.has_value()) vm_.emplace(std::move(*booted));
        if (vm_) pid_ = start(*vm_, "calls");
    }
    static void TearDownTestSuite() { vm_.reset(); }
    void SetUp() override {
        if (!vm_)
            GTEST_SKIP() << "the kernel 6.1-cloud is not at hand; tools/guests/make.py makes it";
    }

    static std::optional<TestVm> vm_;
    static std::uint32_t pid_;
    Directory directory_;
};
std::optional<TestVm> TraceCommand::vm_;
std::uint32_t TraceCommand::pid_ = 0;

TEST_F(TraceCommand, shows_threads_with_their_calls_and_stacks) {
    const Ran ran =
        run(directory_, fmt::format("trace {} --pid {} --for 300ms --direct", vm_->name(), pid_));
    EXPECT_EQ(ran.status, 0) << ran.err;
    for (const char* part : {"waits, in read(fd=", "<pipe:[", "waits, in poll(", "waits, in futex(",
                             "kernel  pipe_read+0x", "program read+0x", "program main+0x",
                             "  (/bin/intruder)", "(sleeper)"}) {
        EXPECT_NE(ran.out.find(part), std::string::npos) << part << " in\n" << ran.out;
    }
}

TEST_F(TraceCommand, says_the_same_as_json_and_by_way_of_the_agent) {
    TestAgent agent(fmt::format("[instances]\nonly = [\"name:{}\"]\n", vm_->name()));
    agent.start();
    agent.wait_until_watched(vm_->name());
    const Ran ran = run(directory_, fmt::format("trace {} --pid {} --for 300ms --json --run {}/run",
                                                vm_->name(), pid_, agent.directory()));
    EXPECT_EQ(ran.status, 0) << ran.err;
    const auto report = json::Value::parse(ran.out);
    ASSERT_TRUE(report.has_value()) << ran.out;
    const auto threads = report->at("threads").value().elements().value();
    EXPECT_EQ(threads.size(), 4u);
    std::set<std::string> calls;
    for (const json::Value& thread : threads) {
        const auto moments = thread.at("moments").value().elements().value();
        for (const json::Value& moment : moments) {
            calls.insert(moment.at("call").value().at("name").value().as_string().value_or("none"));
        }
    }
    EXPECT_EQ(calls, (std::set<std::string>{"clock_nanosleep", "futex", "poll", "read"}));
}

TEST_F(TraceCommand, says_what_it_cannot_do) {
    const auto status = [&](const std::string& words) {
        return run(directory_, fmt::format("trace {} {} --direct", vm_->name(), words)).status;
    };
    EXPECT_EQ(status(""), 2);
    EXPECT_EQ(status("--pid 4000000"), 3);
    EXPECT_EQ(status(fmt::format("--pid {} --for 2h", pid_)), 2);
    EXPECT_EQ(status(fmt::format("--pid {} --for long", pid_)), 2);
    const std::uint32_t thread = truth_of(*vm_, pid_).rbegin()->first;
    const Ran ran = run(directory_, fmt::format("trace {} --pid {} --direct", vm_->name(), thread));
    EXPECT_EQ(ran.status, 3);
    EXPECT_NE(ran.err.find(fmt::format("is a thread of process {}", pid_)), std::string::npos)
        << ran.err;
}

}  // namespace
}  // namespace underseer::testing
