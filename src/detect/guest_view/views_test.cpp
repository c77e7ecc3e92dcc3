#include "detect/guest_view/views.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace underseer::detect::guest_view {
namespace {

std::string views_through(std::string_view function) {
    std::string names;
    for (const View& view : views()) {
        if (is_on_the_way(view, function)) names += std::string(view.name) + " ";
    }
    return names;
}

TEST(GuestViews, know_functions_by_name_and_what_the_compiler_adds) {
    EXPECT_EQ(views_through("proc_pid_readdir"), "processes ");
    EXPECT_EQ(views_through("tcp4_seq_show.isra.0"), "sockets ");
    EXPECT_EQ(views_through("filldir64"), "processes files modules ");
    EXPECT_EQ(views_through("do_exit"), "");
}

TEST(GuestViews, know_system_calls_in_all_forms) {
    EXPECT_EQ(views_through("__x64_sys_bpf"), "BPF programs ");
    EXPECT_EQ(views_through("__ia32_sys_kill"), "processes ");
    EXPECT_EQ(views_through("__x64_sys_getcpu"), "");
    EXPECT_EQ(views_through("kill"), "") << "a function of the kernel with that name";
}

TEST(GuestViews, say_where_each_word_of_a_table_leads) {
    for (const View& view : views()) {
        EXPECT_FALSE(view.system_calls.empty()) << view.name;
        for (const TableWord& word : view.tables) {
            for (const std::string_view function : word.functions) {
                EXPECT_TRUE(is_on_the_way(view, function)) << view.name << ": " << function;
            }
        }
    }
}

}  // namespace
}  // namespace underseer::detect::guest_view
