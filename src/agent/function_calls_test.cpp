#include "agent/function_calls.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>

#include "guest_linux/fake_world.h"

namespace underseer::agent {
namespace {

using guest_linux::FakeGuest;
using guest_linux::FakeWorld;
using guest_linux::Guest;
using guest_linux::VirtualMemory;

constexpr std::uint32_t kDaemonPid = 20;

class CallsOfFunctions : public testing::Test {
  protected:
    CallsOfFunctions() : world_(FakeWorld::Age::recent, 4), fake_(world_.guest()) {
        guest_ = Guest::attach(&fake_).value();
        for (const event::Task& task : guest_->tasks().items) {
            if (task.pid == kDaemonPid) task_ = GuestVirt{task.address};
        }
        stack_ = fake_.allocate(4096, 4096);
    }
    Result<FunctionCalls> trace(const std::vector<std::string>& patterns) {
        return FunctionCalls::of(guest_.get(), &fake_, task_, kDaemonPid, patterns);
    }

    // A CPU of `thread` meets the breakpoint at `rip`; the top of its stack is that word of it.
    void meet(FunctionCalls& calls, std::uint64_t rip, std::size_t word, std::uint64_t rax = 0,
              std::uint32_t thread = 20) {
        BreakpointOrder order;
        const BreakpointEvent hit{.kind = BreakpointEvent::Kind::hit,
                                  .rip = rip,
                                  .rsp = (stack_ + 8 * word).value,
                                  .rax = rax,
                                  .arguments = {1, 2, 3, 4, 5, 6}};
        calls.take(hit, {.task = task_ + thread, .pid = thread, .tgid = kDaemonPid, .signal = {}},
                   VirtualMemory(&fake_, guest_->kernel().image().space), 0, order, told_);
        for (const std::uint64_t one : order.remove) EXPECT_EQ(breakpoints_.erase(one), 1u);
        breakpoints_.insert(order.insert.begin(), order.insert.end());
    }
    void call(FunctionCalls& calls, std::size_t word, std::uint64_t from,
              std::uint32_t thread = 20) {
        fake_.write(stack_ + 8 * word, from);
        meet(calls, calls.breakpoints().front(), word, 0, thread);
    }
    std::string told() {
        std::string all;
        for (const ExactCall& one : told_) {
            all += one.result.available() ? fmt::format("{}={} ", one.pid, one.result.value())
                                          : fmt::format("{}:{} ", one.pid, one.result.reason());
        }
        told_.clear();
        return all;
    }

    FakeWorld world_;
    FakeGuest& fake_;
    std::unique_ptr<Guest> guest_;
    GuestVirt task_, stack_;
    std::set<std::uint64_t> breakpoints_;
    std::vector<ExactCall> told_;
};

constexpr const char* kFunction = "kernel:__bpf_call_base";

TEST_F(CallsOfFunctions, are_told_when_they_return) {
    auto calls = trace({kFunction}).value();
    EXPECT_EQ(calls.names(), std::vector<std::string>{"__bpf_call_base (kernel)"});
    call(calls, 10, 0x1000);
    EXPECT_EQ(breakpoints_, std::set<std::uint64_t>{0x1000});
    EXPECT_EQ(told(), "");
    // By another thread, by a call within it, and then itself.
    meet(calls, 0x1000, 11, 7, 21);
    meet(calls, 0x1000, 5, 7);
    EXPECT_EQ(told(), "");
    meet(calls, 0x1000, 11, 7);
    ASSERT_EQ(told_.size(), 1u);
    EXPECT_EQ(told_[0].name, "__bpf_call_base");
    EXPECT_EQ(told_[0].caller_address, 0x1000u);
    EXPECT_EQ(told_[0].arguments.size(), 6u);
    EXPECT_EQ(told_[0].arguments[5].value, 6u);
    EXPECT_EQ(told(), "20=7 ");
    EXPECT_TRUE(breakpoints_.empty());
}

TEST_F(CallsOfFunctions, within_each_other_return_by_their_frames) {
    auto calls = trace({kFunction}).value();
    call(calls, 20, 0x1000);
    for (const std::size_t word : {18u, 16u, 14u}) call(calls, word, 0x2000);
    EXPECT_EQ(breakpoints_, (std::set<std::uint64_t>{0x1000, 0x2000}));
    for (const std::size_t word : {15u, 17u, 19u}) meet(calls, 0x2000, word, word);
    EXPECT_EQ(breakpoints_, std::set<std::uint64_t>{0x1000});
    meet(calls, 0x1000, 21, 1);
    EXPECT_EQ(told(), "20=15 20=17 20=19 20=1 ");
    EXPECT_TRUE(breakpoints_.empty());
}

TEST_F(CallsOfFunctions, that_are_met_twice_are_one) {
    auto calls = trace({kFunction}).value();
    call(calls, 10, 0x1000);
    call(calls, 10, 0x1000);
    meet(calls, 0x1000, 11, 3);
    EXPECT_EQ(told(), "20=3 ");
    EXPECT_TRUE(breakpoints_.empty());
}

TEST_F(CallsOfFunctions, never_have_more_breakpoints_than_a_cpu) {
    auto calls = trace({kFunction}).value();
    for (std::size_t i = 0; i < 5; ++i) call(calls, 20 - i, 0x1000 * (i + 1));
    EXPECT_EQ(breakpoints_.size() + calls.breakpoints().size(), kMaxBreakpoints);
    EXPECT_EQ(told(), "20:other calls are waited for 20:other calls are waited for ");
    // What has jumped out of them has written over their frames since.
    for (std::size_t i = 0; i < 3; ++i) fake_.write(stack_ + 8 * (20 - i), std::uint64_t{1});
    call(calls, 22, 0x9000);
    const std::string gone = "20:it did not return by the usual way ";
    EXPECT_EQ(told(), gone + gone + gone);
    EXPECT_EQ(breakpoints_, std::set<std::uint64_t>{0x9000});
    calls.give_up(told_);
    EXPECT_EQ(told(), "20:the trace was over before it returned ");
}

TEST_F(CallsOfFunctions, from_a_stack_that_cannot_be_read_are_told_at_once) {
    auto calls = trace({kFunction}).value();
    fake_.is_hole = [&](GuestPhys at) { return at.value >> 12 == fake_.phys(stack_).value >> 12; };
    meet(calls, calls.breakpoints().front(), 3);
    EXPECT_TRUE(told().starts_with("20:where it returns to: "));
    EXPECT_TRUE(breakpoints_.empty());
}

TEST_F(CallsOfFunctions, may_be_named_by_several_patterns) {
    const auto calls = trace({kFunction, "kernel:__bpf_call_bas?"});
    ASSERT_TRUE(calls.has_value()) << calls.error().to_text();
    EXPECT_EQ(calls->breakpoints().size(), 1u);
}

TEST_F(CallsOfFunctions, that_nobody_or_too_many_are_named_so_are_refused) {
    const auto none = trace({"kernel:no_such_*"});
    ASSERT_FALSE(none.has_value());
    EXPECT_EQ(none.error().code, Code::not_found);
    EXPECT_NE(none.error().to_text().find("'kernel:no_such_*'"), std::string::npos);
    const auto many = trace({"kernel:*"});
    ASSERT_FALSE(many.has_value());
    EXPECT_EQ(many.error().code, Code::limit);
    EXPECT_NE(many.error().to_text().find("name 3 at most"), std::string::npos);
}

}  // namespace
}  // namespace underseer::agent
