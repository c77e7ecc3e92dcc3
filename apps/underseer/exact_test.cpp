#include "exact.h"

#include <gtest/gtest.h>

namespace underseer::cli {
namespace {

using agent::ExactCall;

TEST(ExactText, shows_a_call_as_strace_does) {
    ExactCall call{.pid = 12,
                   .number = 257,
                   .name = "openat",
                   .arguments = {{"dfd", 0xffffff9c, "AT_FDCWD"},
                                 {"filename", 0x7ffe0000, "\"/etc/passwd\""},
                                 {"flags", 0, "O_RDONLY"},
                                 {"mode", 0, ""}}};
    call.result = 3;
    const std::string begin = "[pid 12] openat(AT_FDCWD, \"/etc/passwd\", O_RDONLY, 0) = ";
    EXPECT_EQ(text_of(call), begin + "3");
    call.result = -2;
    call.error = "ENOENT";
    EXPECT_EQ(text_of(call), begin + "-1 ENOENT (No such file or directory)");
    call.error.clear();
    call.result = event::Observed<std::int64_t>::unavailable("it does not return");
    EXPECT_EQ(text_of(call), begin + "? (it does not return)");
}

TEST(ExactText, numbers_that_mean_nothing_are_those_of_people) {
    ExactCall call{
        .pid = 1,
        .number = 999,
        .arguments = {
            {"", 0xffffffff, ""}, {"", ~0ull, ""}, {"", 4096, ""}, {"", 0x7ffe00001000, ""}}};
    call.result = 0x7f0000001000;
    EXPECT_EQ(text_of(call), "[pid 1] syscall_999(-1, -1, 4096, 0x7ffe00001000) = 0x7f0000001000");
}

TEST(ExactText, shows_a_call_of_a_function_with_its_caller) {
    ExactCall call{.pid = 12,
                   .name = "inet_pton",
                   .file = "/usr/lib/libc.so.6",
                   .caller_address = 0x401234,
                   .caller = "main+0x1d (/bin/prog)",
                   .arguments = {{"rdi", 2, ""}, {"rsi", 0x7ffe0000, "\"127.0.0.1\""}}};
    call.result = 1;
    EXPECT_EQ(text_of(call),
              "[pid 12] inet_pton(2, \"127.0.0.1\") = 1, called by main+0x1d (/bin/prog)");
    call.result = event::Observed<std::int64_t>::unavailable("other calls are waited for");
    EXPECT_EQ(text_of(call),
              "[pid 12] inet_pton(2, \"127.0.0.1\") = ? (other calls are waited "
              "for), called by main+0x1d (/bin/prog)");
}

TEST(ExactText, the_summary_says_what_it_has_cost_and_what_is_missing) {
    const agent::ExactSummary summary{.pid = 7,
                                      .comm = "x\x1b[31m",
                                      .duration_ns = 2'000'000'000,
                                      .calls = 10,
                                      .stops = 25,
                                      .others = 5,
                                      .frozen_ns = 20'000'000,
                                      .longest_freeze_ns = 3'000'000,
                                      .ended = "the time is over",
                                      .gaps = {"some\nthing"}};
    EXPECT_EQ(text_of(summary),
              "Process 7 (x\\x1b[31m): 10 system calls in 2.0 s; 25 stops of the VM, 5 of them for "
              "other processes, longest 3.0 ms, together 20.0 ms; ended because the time is over\n"
              "  not seen: some\\x0athing\n");
}

}  // namespace
}  // namespace underseer::cli
