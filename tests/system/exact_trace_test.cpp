// `underseer trace --exact`: every system call of a process, and a VM that runs on whatever ends
// it.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <regex>
#include <thread>

#include "guests.h"
#include "json/value.h"
#include "program.h"
#include "testing/test_agent.h"
#include "truth.h"

namespace underseer::testing {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// The program, while it runs.
class TracingProgram {
  public:
    TracingProgram(const Directory& directory, const std::string& vm, std::uint32_t pid,
                   const std::string& words)
        : out_(directory / "out"), err_(directory / "err") {
        std::filesystem::remove(out_), std::filesystem::remove(err_);  // of one before
        const std::string program = UNDERSEER_PROGRAM;
        const std::string all = fmt::format("exec '{}' trace {} --pid {} --exact {} > {} 2> {}",
                                            program, vm, pid, words, out_, err_);
        child_.emplace(jail::Child::fork([&] {
                           ::execl("/bin/sh", "sh", "-c", all.c_str(), nullptr);
                           return 127;
                       }).value());
    }

    pid_t pid() const { return child_->pid(); }
    // Its worker in a role; -1 when there is none.
    pid_t worker(const std::string& role) const {
        for (int i = 0; i < 50; ++i) {
            if (const pid_t found = look_for(role); found > 0) return found;
            std::this_thread::sleep_for(10ms);
        }
        return -1;
    }
    // Once: processes that end meanwhile may hide others from who reads /proc.
    pid_t look_for(const std::string& role) const {
        std::error_code error;
        for (std::filesystem::directory_iterator entry("/proc", error), end; !error && entry != end;
             entry.increment(error)) {
            const auto line = read_file(entry->path() / "cmdline", 4096);
            const auto status = read_file(entry->path() / "status", 8192);
            if (!line.has_value() || !status.has_value()) continue;
            if (!line->starts_with("underseer: " + role)) continue;
            if (status->find(fmt::format("PPid:\t{}\n", pid())) == std::string::npos) continue;
            return std::atoi(entry->path().filename().c_str());
        }
        return -1;
    }
    // Calls are told: it has begun. False when it has not within a minute.
    bool has_begun() const {
        for (const auto begin = Clock::now(); Clock::now() - begin < 60s;) {
            if (!told().empty()) return true;
            if (has_ended()) return false;
            std::this_thread::sleep_for(50ms);
        }
        return false;
    }
    bool has_ended() const {
        const auto status = read_file(fmt::format("/proc/{}/stat", pid()), 4096);
        return !status.has_value() || status->find(") Z") != std::string::npos;
    }
    std::string errors() const { return read_file(err_, 1u << 20).value_or(""); }
    std::string told() const { return read_file(out_, 64u << 20).value_or(""); }
    Ran wait() {
        const auto ending = child_->wait(90s);
        Ran ran{ending.has_value() && ending->exited ? ending->status : -1, told(),
                read_file(err_, 1u << 20).value_or("")};
        return ran;
    }

  private:
    std::string out_, err_;
    std::optional<jail::Child> child_;
};

class ExactTrace : public ::testing::TestWithParam<std::string> {
  protected:
    virtual VmSpec spec() const { return {.vcpus = 2, .workload = false}; }
    void SetUp() override {
        VmSpec wanted = spec();
        if (GetParam() != "6.1-cloud" && !nightly()) GTEST_SKIP() << "in the nightly run only";
        wanted.kernel = GetParam();
        auto vm = TestVm::boot(wanted);
        if (!vm.has_value() && vm.error().code == Code::unavailable) {
            GTEST_SKIP() << vm.error().to_text();
        }
        ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
        vm_.emplace(std::move(*vm));
    }

    // Its pid; it waits until go() is called.
    std::uint32_t start_series(unsigned rounds, const std::string& program = "workload") {
        return static_cast<std::uint32_t>(std::stoul(
            vm_->output_of(fmt::format("rm -f /tmp/series*; /bin/{} series {} > /dev/null 2>&1 & "
                                       "echo $!",
                                       program, rounds))));
    }
    void go() { vm_->output_of("touch /tmp/series-go"); }
    std::string state() const { return directory_ / "state"; }
    TracingProgram begin(std::uint32_t pid, const std::string& words = "--for 60s") {
        return TracingProgram(directory_, vm_->name(), pid,
                              fmt::format("--state {} --direct {}", state(), words));
    }

    // Nobody stops it any more: its processes make system calls, and it runs all the time.
    void expect_free() {
        const auto begin = Clock::now();
        std::string state;
        // Whoever is to let it go has two seconds for each of a few answers.
        while (Clock::now() - begin < 15s) {
            auto status = vm_->qmp("query-status");
            if (status.has_value()) {
                state = status->at("status").value().as_string().value();
                if (state == "running") break;
            }
            std::this_thread::sleep_for(100ms);
        }
        ASSERT_EQ(state, "running");
        for (int i = 0; i < 20; ++i) {
            EXPECT_EQ(vm_->output_of("/bin/busybox echo here"), "here\n");
            const auto status = vm_->qmp("query-status").value();
            ASSERT_EQ(status.at("status").value().as_string().value(), "running");
        }
        const auto devices = vm_->qmp("query-chardev").value().elements().value();
        for (const json::Value& device : devices) {
            EXPECT_NE(device.at("label").value().as_string().value(), "underseer-gdb");
        }
        vm_->resume();  // gives the monitor up, too
    }
    void expect_series_told();
    // Until /bin/workload has made its series, and is killed.
    Ran trace_series(unsigned rounds, const std::string& program, const std::string& words);
    void expect_another_trace_works() {
        const std::uint32_t pid = start_series(1);
        TracingProgram tracing = begin(pid, "--for 3s");
        const Ran ran = tracing.wait();
        EXPECT_EQ(ran.status, 0) << ran.err;
        EXPECT_NE(ran.out.find("access(\"/tmp/series-go\", F_OK) = -1 ENOENT"), std::string::npos)
            << ran.out;
        expect_free();
    }

    std::optional<TestVm> vm_;
    Directory directory_;
};
INSTANTIATE_TEST_SUITE_P(, ExactTrace, ::testing::ValuesIn(all_kernels()), test_name);

// Numbers that nobody can know before are #.
std::vector<std::string> expected_of(unsigned round) {
    const std::string text = fmt::format("round {}\\n", round);
    const std::size_t length = text.size() - 1;
    return {
        fmt::format("openat(AT_FDCWD, \"/tmp/series-{}\", O_RDWR|O_CREAT|O_CLOEXEC, 0640) = #",
                    round),
        fmt::format("write(#, \"{}\", {}) = {}", text, length, length),
        "lseek(#, 0, SEEK_SET) = 0",
        fmt::format("read(#, \"{}\", 64) = {}", text, length),
        "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = #",
        "mprotect(#, 4096, PROT_READ) = 0",
        "munmap(#, 8192) = 0",
        "socket(AF_INET, SOCK_DGRAM|SOCK_CLOEXEC, 0) = #",
        fmt::format("connect(#, {{AF_INET, 127.0.0.1:{}}}, 16) = 0", 4000 + round),
        "close(#) = 0",
        "close(#) = 0",
        fmt::format("unlink(\"/tmp/series-{}\") = 0", round),
        fmt::format("openat(AT_FDCWD, \"/nowhere/series-{}\", O_RDONLY, #) = -1 ENOENT (No such "
                    "file or directory)",
                    round)};
}

bool matches(const std::string& line, const std::string& expected) {
    std::string pattern;
    for (const char one : expected) {
        if (one == '#') {
            pattern += "(0x[0-9a-f]+|[0-9]+)";
        } else if (std::string_view("()[]{}.*+?|\\^$").find(one) != std::string_view::npos) {
            pattern += std::string("\\") + one;
        } else {
            pattern += one;
        }
    }
    return std::regex_match(line, std::regex(pattern));
}

void ExactTrace::expect_series_told() {
    constexpr unsigned kRounds = 25;
    const std::uint32_t pid = start_series(kRounds);
    TracingProgram tracing = begin(pid);
    ASSERT_TRUE(tracing.has_begun()) << tracing.wait().err;
    const auto begun = Clock::now();
    go();
    while (vm_->run("test -e /tmp/series-done").value().status != 0) {
        ASSERT_LT(Clock::now() - begun, 40s);
        std::this_thread::sleep_for(200ms);
    }
    vm_->output_of(fmt::format("kill -9 {}", pid));
    const Ran ran = tracing.wait();
    EXPECT_EQ(ran.status, 0) << ran.err;
    EXPECT_NE(ran.out.find("ended because the process has ended"), std::string::npos)
        << ran.out.substr(ran.out.size() - std::min<std::size_t>(ran.out.size(), 500));
    EXPECT_NE(ran.err.find("stops all its CPUs"), std::string::npos) << ran.err;

    std::vector<std::string> told;
    const std::string prefix = fmt::format("[pid {}] ", pid);
    for (const std::string& line : lines_of(ran.out)) {
        if (line.starts_with(prefix)) told.push_back(line.substr(prefix.size()));
    }
    std::size_t found = 0, expected = 0;
    auto at = told.begin();
    for (unsigned round = 0; round < kRounds; ++round) {
        for (const std::string& call : expected_of(round)) {
            ++expected;
            // In their order; what is not there is passed over.
            const auto next = std::find_if(
                at, told.end(), [&](const std::string& line) { return matches(line, call); });
            if (next == told.end()) {
                ADD_FAILURE() << "not told: " << call;
                continue;
            }
            ++found;
            at = next + 1;
        }
    }
    fmt::print("{} of {} calls, in {} ms\n", found, expected,
               std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun).count());
    EXPECT_GE(found * 100, expected * 95);
    expect_free();
}

TEST_P(ExactTrace, tells_every_call_with_what_its_arguments_mean) {
    expect_series_told();
}

// The page tables of a program and of the kernel are two.
class ExactTraceOfIsolated : public ExactTrace {
  protected:
    VmSpec spec() const override {
        return {.vcpus = 1, .append = "pti=on no5lvl", .workload = false};
    }
};
INSTANTIATE_TEST_SUITE_P(, ExactTraceOfIsolated, ::testing::ValuesIn(all_kernels()), test_name);

TEST_P(ExactTraceOfIsolated, tells_every_call_with_what_its_arguments_mean) {
    EXPECT_NE(vm_->output_of("dmesg | grep -i 'page tables isolation'").find("enabled"),
              std::string::npos);
    expect_series_told();
}

TEST_P(ExactTrace, is_the_same_as_json_and_leaves_nothing_owed) {
    const std::uint32_t pid = start_series(1);
    TracingProgram tracing = begin(pid, "--for 2s --json");
    const Ran ran = tracing.wait();
    EXPECT_EQ(ran.status, 0) << ran.err;
    const auto report = json::Value::parse(ran.out);
    ASSERT_TRUE(report.has_value()) << ran.out;
    const auto summary = report->at("summary").value();
    EXPECT_EQ(summary.at("ended").value().as_string().value(), "the time is over");
    EXPECT_EQ(summary.at("trouble").value().as_string().value(), "");
    EXPECT_GT(summary.at("stops").value().as_uint().value(), 2u);
    EXPECT_GT(summary.at("longest_freeze_ns").value().as_uint().value(), 10'000u);
    EXPECT_LT(summary.at("longest_freeze_ns").value().as_uint().value(), 500'000'000u);
    const auto calls = report->at("calls").value().elements().value();
    EXPECT_EQ(calls.size(), summary.at("calls").value().as_uint().value());
    bool seen = false;
    for (const json::Value& call : calls) {
        if (call.at("name").value().as_string().value() != "access") continue;
        if (call.find("unavailable")) continue;  // it had not returned when the time was over
        seen = true;
        EXPECT_EQ(call.at("error").value().as_string().value(), "ENOENT");
        const auto arguments = call.at("arguments").value().elements().value();
        ASSERT_EQ(arguments.size(), 2u);
        EXPECT_EQ(arguments[0].at("text").value().as_string().value(), "\"/tmp/series-go\"");
    }
    EXPECT_TRUE(seen);
    EXPECT_TRUE(std::filesystem::is_empty(state() + "/traced"));
    expect_free();
}

// ---- functions

Ran ExactTrace::trace_series(unsigned rounds, const std::string& program,
                             const std::string& words) {
    const std::uint32_t pid = start_series(rounds, program);
    TracingProgram tracing = begin(pid, "--for 60s " + words);
    // Nothing is told before one is called.
    for (const auto started = Clock::now();
         tracing.errors().find("tracing ") == std::string::npos && Clock::now() - started < 60s;) {
        std::this_thread::sleep_for(50ms);
    }
    go();
    const auto begun = Clock::now();
    while (vm_->run("test -e /tmp/series-done").value().status != 0 && Clock::now() - begun < 40s) {
        std::this_thread::sleep_for(200ms);
    }
    vm_->output_of(fmt::format("kill -9 {}", pid));
    Ran ran = tracing.wait();
    expect_free();
    return ran;
}

TEST_P(ExactTrace, tells_calls_of_functions_with_who_calls) {
    constexpr unsigned kRounds = 25;
    for (const char* program : {"workload", "workload-dynamic"}) {
        const Ran ran = trace_series(kRounds, program, "--functions 'inet_pto?'");
        EXPECT_EQ(ran.status, 0) << ran.err;
        unsigned calls = 0;
        const std::regex line(R"(\[pid \d+\] inet_pton\(2, "127\.0\.0\.1", 0x[0-9a-f]+, .*\) = 1, )"
                              R"(called by (series\+0x[0-9a-f]+ \(/bin/workload\)|)"
                              R"(/bin/workload-dynamic\+0x[0-9a-f]+))");
        for (const std::string& one : lines_of(ran.out)) calls += std::regex_match(one, line);
        EXPECT_EQ(calls, kRounds) << ran.out;
        EXPECT_NE(ran.out.find("traced: inet_pton (/"), std::string::npos) << ran.out;
    }
}

TEST_P(ExactTrace, tells_calls_of_the_kernels_functions) {
    constexpr unsigned kRounds = 10;
    const Ran ran = trace_series(kRounds, "workload",
                                 "--functions kernel:__x64_sys_lseek --functions inet_pton");
    EXPECT_EQ(ran.status, 0) << ran.err;
    unsigned functions = 0, kernels = 0;
    for (const std::string& one : lines_of(ran.out)) {
        kernels += one.find("__x64_sys_lseek(0xff") != std::string::npos &&
                   one.find(" = 0, called by ") != std::string::npos;
        functions += one.find(" inet_pton(2, \"127.0.0.1\", ") != std::string::npos;
    }
    EXPECT_EQ(kernels, kRounds) << ran.out;
    EXPECT_EQ(functions, kRounds) << ran.out;
}

TEST_P(ExactTrace, says_which_functions_are_too_many_or_none) {
    const std::uint32_t pid = start_series(1);
    const Ran many = begin(pid, "--functions 'str*'").wait();
    EXPECT_EQ(many.status, 8) << many.err;
    EXPECT_NE(many.err.find("functions are named so (str"), std::string::npos) << many.err;
    const Ran none = begin(pid, "--functions 'libno.so:*'").wait();
    EXPECT_EQ(none.status, 3) << none.err;
    EXPECT_NE(none.err.find("is named 'libno.so:*'"), std::string::npos) << none.err;
    expect_free();
}

// ---- whatever ends it

enum class Victim : std::uint8_t { tracer, program, both };

void kill_all_of(const TracingProgram& tracing, Victim victim) {
    const pid_t tracer = tracing.worker("introspector");
    ASSERT_GT(tracer, 0);
    // The tracer first: it would die with the program.
    if (victim != Victim::program) ::kill(tracer, SIGKILL);
    if (victim != Victim::tracer) ::kill(tracing.pid(), SIGKILL);
}

TEST_P(ExactTrace, that_is_killed_leaves_a_vm_that_runs) {
    std::mt19937 random(static_cast<unsigned>(Clock::now().time_since_epoch().count()));
    const int times = nightly() ? 30 : 4;
    for (int i = 0; i < times; ++i) {
        for (const Victim victim : {Victim::tracer, Victim::program, Victim::both}) {
            const std::uint32_t pid = start_series(1'000'000);
            go();
            TracingProgram tracing = begin(pid);
            ASSERT_TRUE(tracing.has_begun()) << tracing.wait().err;
            std::this_thread::sleep_for(std::chrono::microseconds(random() % 300'000));
            kill_all_of(tracing, victim);
            const Ran ran = tracing.wait();
            if (victim == Victim::tracer) {
                EXPECT_EQ(ran.status, 6) << ran.err;
            }
            expect_free();
            vm_->output_of(fmt::format("kill -9 {}", pid));
            if (victim == Victim::tracer) {
                EXPECT_TRUE(std::filesystem::is_empty(state() + "/traced")) << ran.err;
            }
            if (HasFailure()) return;
        }
    }
    expect_another_trace_works();
}

TEST_P(ExactTrace, whose_tracer_does_not_answer_ends_within_a_bound) {
    const std::uint32_t pid = start_series(1'000'000);
    go();
    TracingProgram tracing = begin(pid);
    ASSERT_TRUE(tracing.has_begun()) << tracing.wait().err;
    const pid_t tracer = tracing.worker("introspector");
    ASSERT_GT(tracer, 0);
    const auto begun = Clock::now();
    ::kill(tracer, SIGSTOP);
    std::this_thread::sleep_for(1500ms);
    expect_free();
    EXPECT_LT(Clock::now() - begun, 10s);
    ::kill(tracer, SIGCONT);
    const Ran ran = tracing.wait();
    EXPECT_NE(ran.out.find("ended because the tracer does not answer within 500 ms"),
              std::string::npos)
        << ran.out.substr(ran.out.size() - std::min<std::size_t>(ran.out.size(), 500)) << ran.err;
    expect_another_trace_works();
}

// A supervisor that is stopped for a while goes on: its filter allows that its wait does.
TEST_P(ExactTrace, whose_supervisor_is_stopped_for_a_while_goes_on) {
    const std::uint32_t pid = start_series(1);
    TracingProgram tracing = begin(pid, "--for 4s");
    ASSERT_TRUE(tracing.has_begun()) << tracing.wait().err;
    const pid_t supervisor = tracing.worker("supervisor");
    ASSERT_GT(supervisor, 0);
    for (int i = 0; i < 20; ++i) {
        ::kill(supervisor, SIGSTOP);
        std::this_thread::sleep_for(10ms);
        ::kill(supervisor, SIGCONT);
        std::this_thread::sleep_for(30ms);
    }
    const Ran ran = tracing.wait();
    EXPECT_EQ(ran.status, 0) << ran.err;
    EXPECT_NE(ran.out.find("ended because the time is over"), std::string::npos) << ran.err;
    expect_free();
}

TEST_P(ExactTrace, whose_supervisor_is_killed_is_put_right_by_the_program) {
    const std::uint32_t pid = start_series(1'000'000);
    go();
    TracingProgram tracing = begin(pid);
    ASSERT_TRUE(tracing.has_begun()) << tracing.wait().err;
    const pid_t supervisor = tracing.worker("supervisor");
    ASSERT_GT(supervisor, 0);
    ::kill(supervisor, SIGKILL);
    const Ran ran = tracing.wait();
    EXPECT_EQ(ran.status, 6) << ran.err;
    EXPECT_NE(ran.err.find("was resumed, without the breakpoints of an exact trace"),
              std::string::npos)
        << ran.err;
    expect_free();
    expect_another_trace_works();
}

TEST_P(ExactTrace, that_is_killed_with_its_supervisor_is_owed_and_the_next_one_pays) {
    const std::uint32_t pid = start_series(1'000'000);
    go();
    TracingProgram tracing = begin(pid);
    ASSERT_TRUE(tracing.has_begun()) << tracing.wait().err;
    const pid_t supervisor = tracing.worker("supervisor");
    ASSERT_GT(supervisor, 0);
    ::kill(supervisor, SIGKILL);
    ::kill(tracing.pid(), SIGKILL);
    (void)tracing.wait();
    // As it would stay: the very thing that is not to happen.
    std::this_thread::sleep_for(1s);
    EXPECT_EQ(vm_->state(), "debug");
    EXPECT_FALSE(std::filesystem::is_empty(state() + "/traced"));
    TracingProgram next = begin(pid, "--for 1s");
    const Ran ran = next.wait();
    EXPECT_EQ(ran.status, 0) << ran.err;
    EXPECT_NE(ran.err.find("an earlier exact trace was killed"), std::string::npos) << ran.err;
    expect_free();
}

TEST_P(ExactTrace, that_is_killed_with_its_supervisor_is_put_right_by_the_agent) {
    TestAgent agent(fmt::format("[instances]\nonly = [\"name:{}\"]\n", vm_->name()));
    agent.start();
    agent.wait_until_watched(vm_->name());
    const std::uint32_t pid = start_series(1'000'000);
    go();
    TracingProgram tracing(directory_, vm_->name(), pid,
                           fmt::format("--for 60s --state {}/state", agent.directory()));
    ASSERT_TRUE(tracing.has_begun()) << tracing.wait().err;
    const pid_t supervisor = tracing.worker("supervisor");
    ASSERT_GT(supervisor, 0);
    ::kill(supervisor, SIGKILL);
    ::kill(tracing.pid(), SIGKILL);
    (void)tracing.wait();
    agent.wait_until("the VM is put right", [&] {
        return !agent.logged(fmt::format("resume {}: resumed", vm_->name())).empty();
    });
    expect_free();
    EXPECT_TRUE(std::filesystem::is_empty(agent.directory() + "/state/traced"));
}

TEST_P(ExactTrace, goes_on_by_samples_when_there_are_too_many_stops) {
    const std::uint32_t pid = start_series(1'000'000);
    go();
    TracingProgram tracing = begin(pid, "--for 6s --stops 20");
    const Ran ran = tracing.wait();
    EXPECT_EQ(ran.status, 10) << ran.err;
    EXPECT_NE(ran.out.find("ended because there were more than 20 stops in a second"),
              std::string::npos);
    EXPECT_NE(ran.err.find("it goes on by samples"), std::string::npos) << ran.err;
    EXPECT_NE(ran.out.find(fmt::format("Thread {} (workload)", pid)), std::string::npos) << ran.out;
    expect_free();
}

TEST_P(ExactTrace, tells_what_a_process_executes_and_its_end) {
    const auto pid = static_cast<std::uint32_t>(std::stoul(vm_->output_of(
        "rm -f /tmp/go; /bin/busybox sh -c 'while [ ! -e /tmp/go ]; do usleep 100000; done; "
        "exec /bin/busybox uname -r' > /dev/null 2>&1 & echo $!")));
    TracingProgram tracing = begin(pid);
    ASSERT_TRUE(tracing.has_begun()) << tracing.wait().err;
    vm_->output_of("touch /tmp/go");
    const Ran ran = tracing.wait();
    EXPECT_EQ(ran.status, 0) << ran.err;
    EXPECT_NE(ran.out.find("execve(\"/bin/busybox\", [\"/bin/busybox\", \"uname\", \"-r\"], 0x"),
              std::string::npos)
        << ran.out;
    EXPECT_NE(ran.out.find("exit_group(0) = ? (it does not return)"), std::string::npos) << ran.out;
    EXPECT_NE(ran.out.find("ended because the process has ended"), std::string::npos) << ran.out;
    expect_free();
}

// Nothing is heard of its VM for long, which is no reason to give it up.
TEST_P(ExactTrace, of_a_process_that_does_nothing_lasts_its_time) {
    const auto pid =
        static_cast<std::uint32_t>(std::stoul(vm_->output_of("sleep 1000 & sleep 1; echo $!")));
    TracingProgram tracing = begin(pid, "--for 5s");
    const Ran ran = tracing.wait();
    EXPECT_EQ(ran.status, 0) << ran.err;
    EXPECT_NE(ran.out.find("ended because the time is over"), std::string::npos) << ran.out;
    expect_free();
}

TEST_P(ExactTrace, ends_with_the_vm) {
    const std::uint32_t pid = start_series(1'000'000);
    go();
    TracingProgram tracing = begin(pid);
    ASSERT_TRUE(tracing.has_begun()) << tracing.wait().err;
    const pid_t supervisor = tracing.worker("supervisor");
    vm_->power_off();
    const Ran ran = tracing.wait();
    EXPECT_TRUE(ran.status == 11 || ran.status == 6) << ran.status << ran.err;
    const auto begun = Clock::now();
    while (::kill(supervisor, 0) == 0 && Clock::now() - begun < 20s) {
        std::this_thread::sleep_for(50ms);
    }
    EXPECT_NE(::kill(supervisor, 0), 0);
}

// ---- what is refused

TEST_P(ExactTrace, is_refused_where_it_cannot_be) {
    const std::uint32_t pid = start_series(1);
    const auto refusal = [&](std::uint32_t of, const std::string& words = "--for 1s") {
        TracingProgram tracing = begin(of, words);
        return tracing.wait();
    };
    EXPECT_EQ(refusal(4'000'000).status, 3);
    vm_->pause();
    const Ran paused = refusal(pid);
    EXPECT_EQ(paused.status, 6);
    EXPECT_NE(paused.err.find("the VM does not run: it is paused"), std::string::npos)
        << paused.err;
    EXPECT_EQ(vm_->state(), "paused");
    vm_->resume();
    ASSERT_TRUE(
        vm_->qmp("human-monitor-command", R"({"command-line": "gdbserver tcp:127.0.0.1:0"})")
            .has_value());
    vm_->resume();
    const Ran debugged = refusal(pid);
    EXPECT_EQ(debugged.status, 6);
    EXPECT_NE(debugged.err.find("has a GDB server already"), std::string::npos) << debugged.err;
    const Ran ran = run(directory_, fmt::format("trace {} --pid 1 --exact", directory_ / "image"));
    EXPECT_EQ(ran.status, 2) << ran.err;
}

}  // namespace
}  // namespace underseer::testing
