#include "event/json_form.h"

#include <gtest/gtest.h>

#include "event/observation.h"

namespace underseer::event {
namespace {

std::string json_of(const Task& task) {
    std::string text;
    json::Writer writer(&text);
    JsonForm(&writer).put(task);
    return text;
}

TEST(JsonForm, numbers_beyond_a_double_are_strings_and_others_are_not) {
    Task task;
    task.pid = 7;
    task.start_time = (1ull << 53) + 1;
    const std::string text = json_of(task);
    EXPECT_NE(text.find("\"pid\":7,"), std::string::npos) << text;
    EXPECT_NE(text.find("\"start_time\":\"9007199254740993\""), std::string::npos) << text;
}

TEST(JsonForm, what_could_not_be_had_is_null_with_its_reason) {
    Task task;
    task.exe = Observed<std::string>::unavailable("swapped out");
    const std::string text = json_of(task);
    EXPECT_NE(text.find("\"exe\":null"), std::string::npos);
    EXPECT_NE(text.find("\"exe\":\"swapped out\""), std::string::npos);
}

TEST(JsonForm, credentials_stand_beside_the_pid) {
    Task task;
    task.credentials = Credentials{.uid = 1000};
    EXPECT_NE(json_of(task).find("\"uid\":1000,"), std::string::npos);
}

TEST(JsonForm, a_name_cannot_steer_the_terminal) {
    Task task;
    task.comm = "\x1b[2J\x7f\xc2\x9b";
    for (const char c : json_of(task)) {
        EXPECT_TRUE(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
    }
    EXPECT_EQ(json_of(task).find("\xc2\x9b"), std::string::npos);
}

}  // namespace
}  // namespace underseer::event
