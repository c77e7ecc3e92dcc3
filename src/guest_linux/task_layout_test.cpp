#include "guest_linux/task_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "guest_linux/fake_guest.h"
#include "guest_linux/guest.h"

namespace underseer::guest_linux {
namespace {

constexpr std::string_view kMembers[] = {"pid",          "tgid",     "comm",       "flags",
                                         "tasks",        "children", "sibling",    "real_parent",
                                         "group_leader", "signal",   "thread_node"};

// A guest without BTF, in which some processes run.
struct Bare {
    explicit Bare(bool kallsyms_all = true)
        : guest({.btf = false, .kallsyms_all = kallsyms_all}),
          system(guest.add_system()),
          last(guest.add_task(40, 40, "last", system.init)) {
        guest.add_task(41, 40, "thread", last);
        guest.finish();
    }
    FakeGuest guest;
    FakeGuest::System system;
    GuestVirt last;
    GuestVirt at(GuestVirt task, std::string_view member) {
        return task + guest.offset("task_struct", member);
    }
    std::string refusal() {
        const auto kernel = Kernel::attach(&guest);
        return kernel.has_value() ? "" : kernel.error().message;
    }
};

TEST(TaskLayout, is_derived_where_there_is_no_btf) {
    for (const bool kallsyms_all : {true, false}) {
        Bare bare(kallsyms_all);
        const auto guest = Guest::attach(&bare.guest).value();
        for (const std::string_view member : kMembers) {
            const Field field = guest->kernel().field("task_struct", member);
            EXPECT_TRUE(field.known()) << member;
            EXPECT_EQ(field.offset, bare.guest.offset("task_struct", member)) << member;
        }
        const auto tasks = guest->tasks().items;
        ASSERT_EQ(tasks.size(), 20u);
        EXPECT_EQ(tasks.back().comm, "thread");
        EXPECT_EQ(tasks.back().tgid, 40u);
        EXPECT_TRUE(tasks[3].kernel_thread);
        EXPECT_FALSE(tasks[0].kernel_thread);
        EXPECT_FALSE(tasks[1].credentials.available());
        EXPECT_NE(tasks[1].credentials.reason().find("no BTF"), std::string::npos);
        EXPECT_EQ(guest->modules().error().code, Code::unavailable);
        EXPECT_EQ(guest->open_files(std::nullopt).error().code, Code::unavailable);
        EXPECT_EQ(guest->memory_maps(std::nullopt).error().code, Code::unavailable);
    }
}

TEST(TaskLayout, a_hidden_process_is_seen_by_another_view_without_btf_too) {
    Bare bare;
    const auto guest = Guest::attach(&bare.guest).value();
    bare.guest.unlink_from_task_list(bare.last);
    guest->new_epoch();
    bool in_list = false, in_tree = false;
    for (const TaskViewResult& view : guest->task_views()) {
        const bool there = std::ranges::find(view.tasks, bare.last) != view.tasks.end();
        in_list |= view.view == TaskView::task_list && there;
        in_tree |= view.view == TaskView::tree && there;
        if (view.view == TaskView::css_set || view.view == TaskView::pid_idr) {
            EXPECT_TRUE(view.gap);
        }
    }
    EXPECT_FALSE(in_list);
    EXPECT_TRUE(in_tree);
}

TEST(TaskLayout, broken_invariants_derive_nothing) {
    {
        Bare bare;  // a ring without its head
        bare.guest.write(bare.at(bare.last, "tasks"), bare.at(bare.system.init, "tasks").value);
        EXPECT_THAT(bare.refusal(), testing::HasSubstr("no list of tasks"));
    }
    {
        Bare bare;  // two processes of one number
        bare.guest.write(bare.at(bare.last, "pid"), 20u);
        bare.guest.write(bare.at(bare.last, "tgid"), 20u);
        EXPECT_THAT(bare.refusal(), testing::HasSubstr("no process numbers"));
    }
    {
        Bare bare;  // a number beyond all bounds
        bare.guest.write(bare.at(bare.last, "pid"), 0xffffffffu);
        bare.guest.write(bare.at(bare.last, "tgid"), 0xffffffffu);
        EXPECT_THAT(bare.refusal(), testing::HasSubstr("no process numbers"));
    }
    {
        Bare bare;  // kthreadd of another name
        bare.guest.write(bare.at(bare.system.kthreadd, "comm"), std::uint64_t{0x4141414141414141});
        EXPECT_THAT(bare.refusal(), testing::HasSubstr("no names"));
    }
    {
        Bare bare;  // an ambiguous family
        const GuestVirt decoy = bare.guest.init_task() + 1024;
        for (const std::uint64_t at : {0u, 8u, 48u}) {
            bare.guest.write(decoy + at, bare.guest.init_task().value);
        }
        for (const std::uint64_t at : {32u, 40u}) bare.guest.write(decoy + at, (decoy + 32).value);
        EXPECT_THAT(bare.refusal(), testing::HasSubstr("no parent"));
    }
    {
        Bare bare;  // a list that leads into a hole
        bare.guest.write(bare.at(bare.last, "tasks"), std::uint64_t{0xffff8880fee00000});
        EXPECT_THAT(bare.refusal(), testing::HasSubstr("no list of tasks"));
    }
}

TEST(TaskLayout, a_list_that_changes_while_it_is_walked_is_walked_again) {
    Bare bare;
    const GuestVirt link = bare.at(bare.last, "tasks");
    const auto good = bare.guest.read_back<std::uint64_t>(link);
    bare.guest.write(link, bare.at(bare.system.init, "tasks").value);
    const auto before = bare.guest.reads();
    EXPECT_NE(bare.refusal(), "");
    // In the last of its attempts' time, which are more than a quarter of all that it does.
    auto left = (bare.guest.reads() - before) * 3 / 4;
    bare.guest.before_read = [&](FakeGuest& guest, GuestPhys) {
        if (left != 0 && --left == 0) guest.write(link, good);
    };
    EXPECT_EQ(bare.refusal(), "");
}

}  // namespace
}  // namespace underseer::guest_linux
