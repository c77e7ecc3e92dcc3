#include "agent/hook_program.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>

namespace underseer::agent {
namespace {

using namespace std::chrono_literals;

class HookProgram : public testing::Test {
  protected:
    void SetUp() override {
        std::string form = (std::filesystem::temp_directory_path() / "hook_XXXXXX").string();
        ASSERT_NE(::mkdtemp(form.data()), nullptr);
        folder_ = form;
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }

    std::string script(const std::string& text, mode_t mode = 0755) {
        const auto path = folder_ / "program";
        std::ofstream(path) << "#!/bin/sh\n" << text << '\n';
        EXPECT_EQ(::chmod(path.c_str(), mode), 0);
        return path;
    }
    Result<std::string> run(const std::string& path, const std::string& event = "the event\n") {
        std::optional<Result<std::string>> got;
        programs_.run(path, event, [&](const Result<std::string>& result) { got = result; });
        EXPECT_FALSE(got) << "not before run() has returned";
        const auto begin = std::chrono::steady_clock::now();
        while (!got && std::chrono::steady_clock::now() - begin < 20s) {
            EXPECT_TRUE(loop_.run_once(100ms).has_value());
        }
        return got ? *got : Result<std::string>(fail(Code::unavailable, "never called"));
    }

    std::filesystem::path folder_;
    EventLoop loop_ = EventLoop::make().value();
    HookPrograms programs_{&loop_, 2s};
};

TEST_F(HookProgram, is_given_the_event_and_says_what_it_did) {
    const std::string path =
        script("read line; echo \"$line in $PWD\"; env | grep -v ^PWD= | wc -l");
    const auto result = run(path);
    ASSERT_TRUE(result.has_value()) << result.error().to_text();
    EXPECT_EQ(*result, path + ": the event in /");
    const auto environment = run(script("env | cut -d= -f1 | sort | tr '\\n' ' '"));
    EXPECT_EQ(environment.value(), path + ": PATH PWD ") << "the second is the shell's";
    // An event that is longer than a pipe holds, and a program that does not read it.
    EXPECT_EQ(run(script("exit 0"), std::string(1u << 20, 'x')).value(), path);
    EXPECT_EQ(run(script("wc -c"), std::string(1u << 20, 'x')).value(), path + ": 1048576");
}

TEST_F(HookProgram, that_fails_or_takes_too_long_is_told) {
    const std::string path = script("echo no such ticket >&2; exit 3");
    EXPECT_EQ(run(path).error().message, path + " exited with 3: no such ticket");
    EXPECT_EQ(run(script("kill -9 $$")).error().message, path + " killed by SIGKILL");
    EXPECT_EQ(run(script("echo begun; sleep 100")).error().message,
              path + " took too long and was ended: begun");
    EXPECT_EQ(run(folder_ / "nothing").error().code, Code::not_found);
    EXPECT_EQ(run(script("exit 0", 0644)).error().message, path + " exited with 127");
}

TEST_F(HookProgram, that_others_may_write_to_is_not_started) {
    EXPECT_EQ(run(script("touch started", 0777)).error().code, Code::permission);
    EXPECT_EQ(run(folder_).error().code, Code::invalid_argument);
}

TEST_F(HookProgram, may_say_much_and_leave_others_behind) {
    const std::string path = script("yes | head -c 1000000; exit 0");
    EXPECT_EQ(run(path).value(), path + ": y");
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(run(script("sleep 5 & echo here")).value(), path + ": here");
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 4s);
}

TEST_F(HookProgram, is_one_of_a_few_at_a_time) {
    const std::string path = script("sleep 0.5");
    std::size_t good = 0, refused = 0;
    for (std::size_t i = 0; i < HookPrograms::kMaxRunning + 3; ++i) {
        programs_.run(path, "", [&](const Result<std::string>& result) {
            ++(result.has_value() ? good : refused);
        });
    }
    const auto begin = std::chrono::steady_clock::now();
    while (good + refused < HookPrograms::kMaxRunning + 3 &&
           std::chrono::steady_clock::now() - begin < 20s) {
        EXPECT_TRUE(loop_.run_once(100ms).has_value());
    }
    EXPECT_EQ(good, HookPrograms::kMaxRunning);
    EXPECT_EQ(refused, 3u);
}

}  // namespace
}  // namespace underseer::agent
