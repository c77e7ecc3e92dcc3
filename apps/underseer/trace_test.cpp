#include "trace.h"

#include <gtest/gtest.h>

namespace underseer::cli {
namespace {

using agent::TraceArgument;
using agent::TraceCall;
using agent::TraceMoment;
using agent::TracePart;
using agent::TraceThread;

TEST(TraceText, shows_arguments_as_people_write_them) {
    const TraceCall call{.name = "any",
                         .arguments = {{"fd", 3, "/etc/passwd"},
                                       {"dfd", 0xffffff9c, ""},
                                       {"buf", 0x7ffe0000, ""},
                                       {"count", 4095, ""},
                                       {"timeout", 0xffffffff, ""},
                                       {"", ~0ull, ""}}};
    EXPECT_EQ(text_of(call),
              "any(fd=3</etc/passwd>, dfd=AT_FDCWD, buf=0x7ffe0000, count=4095, timeout=-1, -1)");
    EXPECT_EQ(text_of(TraceCall{.number = 999}), "syscall_999()");
    EXPECT_EQ(text_of(TraceCall{.number = 3, .is_compat = true}), "i386_3()");
}

TraceMoment write_of(std::uint64_t bytes, std::uint64_t samples) {
    TraceMoment moment{.state = agent::ThreadState::waiting,
                       .mode = agent::ThreadMode::system_call,
                       .samples = samples,
                       .seen_ns = samples * 10'000'000,
                       .longest_ns = samples * 10'000'000};
    moment.call = TraceCall{
        .number = 1, .name = "write", .arguments = {{"fd", 1, "a\x1b[31m"}, {"count", bytes, ""}}};
    moment.user_stack = {
        {.address = 4096, .symbol = "", .file = "/bin/x", .offset_bytes = 16},
        {.address = 4097, .symbol = "main+0x1", .file = "/bin/x", .by_frame_pointer = true},
        {.address = 4098, .symbol = "", .file = ""}};
    moment.user_stack_ended = "too deep";
    moment.stack = {{.address = 1, .symbol = "pipe_write+0x10", .module = "pipes"},
                    {.address = 2, .symbol = "entry+0x1", .is_guess = true}};
    moment.stack_ended = "the table ends";
    return moment;
}

TEST(TraceText, folds_what_differs_in_its_arguments_only) {
    agent::TraceReport report;
    report.summary.pid = 7;
    report.summary.comm = "x";
    report.summary.samples = 20;
    report.summary.ended = "the time is over";
    TraceThread thread{.pid = 7, .comm = "x", .samples = 20};
    for (std::uint64_t i = 1; i <= 5; ++i) thread.moments.push_back(write_of(i, 4));
    report.threads.push_back(thread);
    const std::string text = text_of(report);
    EXPECT_NE(text.find(" 100.0 %  200.0 ms  waits, in write(fd=1<a\\x1b[31m>, count=1)\n"),
              std::string::npos)
        << text;
    EXPECT_NE(text.find("or write(fd=1<a\\x1b[31m>, count=2)"), std::string::npos) << text;
    EXPECT_NE(text.find("or 2 with other arguments"), std::string::npos) << text;
    EXPECT_NE(text.find("program /bin/x+0x10\n"), std::string::npos) << text;
    EXPECT_NE(text.find("program main+0x1  (/bin/x), by its frame pointer\n"), std::string::npos)
        << text;
    EXPECT_NE(text.find("program 0x1002, in no known file\n"), std::string::npos) << text;
    EXPECT_NE(text.find("program ended: too deep\n"), std::string::npos) << text;
    EXPECT_NE(text.find("kernel  pipe_write+0x10 [pipes]\n"), std::string::npos) << text;
    EXPECT_NE(text.find("kernel  ? entry+0x1\n"), std::string::npos) << text;
    EXPECT_NE(text.find("ended: the table ends"), std::string::npos) << text;
    EXPECT_EQ(text.find("count=5"), std::string::npos) << text;
}

TEST(TraceText, says_what_was_not_seen) {
    agent::TraceReport report;
    report.summary.gaps = {"its list of threads"};
    report.summary.omitted = 3;
    report.summary.torn = 1;
    const std::string text = text_of(report);
    for (const char* part : {"not seen: its list of threads\n", "not seen: what 3 looks saw",
                             "1 look met a thread that was about to run"}) {
        EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
    }
}

TEST(TraceParts, of_one_thread_become_one) {
    agent::TraceReport report;
    TracePart first, second;
    first.threads = {TraceThread{.pid = 7, .moments = {write_of(1, 3)}}};
    second.threads = {TraceThread{.pid = 7, .moments = {write_of(2, 2)}}, TraceThread{.pid = 8}};
    report.add(first);
    report.add(second);
    ASSERT_EQ(report.threads.size(), 2u);
    EXPECT_EQ(report.threads[0].moments.size(), 2u);
    EXPECT_EQ(report.threads[1].pid, 8u);
}

}  // namespace
}  // namespace underseer::cli
