#include "event/wire.h"

#include <gtest/gtest.h>

#include "event/observation.h"

namespace underseer::event {
namespace {

Task some_task() {
    Task task;
    task.pid = 7;
    task.comm = "sh\x1b[31m";
    task.argv = std::vector<std::string>{"sh", "-c", ""};
    task.exe = Observed<std::string>::unavailable("no file");
    task.credentials = Credentials{};
    return task;
}

TEST(Wire, a_value_comes_back_as_it_was) {
    const Task task = some_task();
    EXPECT_EQ(decode<Task>(as_bytes(encode(task))).value(), task);
}

TEST(Wire, every_cut_of_a_frame_is_refused) {
    const std::string bytes = encode(some_task());
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        EXPECT_FALSE(decode<Task>(as_bytes(std::string_view(bytes).substr(0, size))).has_value());
    }
    EXPECT_FALSE(decode<Task>(as_bytes(bytes + "x")).has_value());
}

TEST(Wire, a_list_longer_than_its_frame_is_refused) {
    const std::string bytes("\xff\xff\xff\xff", 4);
    EXPECT_FALSE(decode<std::vector<std::uint32_t>>(as_bytes(bytes)).has_value());
}

}  // namespace
}  // namespace underseer::event
