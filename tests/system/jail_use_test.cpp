// Every rule of a jail is one more thing that a worker taken over may do: here real workers do all
// that they are for, and a rule that none of it needs is reported.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <sys/syscall.h>

#include <algorithm>
#include <filesystem>

#include "guests.h"
#include "jail/policy.h"
#include "testing/call_trace.h"

namespace underseer::testing {
namespace {

using agent::Introspector;
using agent::Question;
using agent::Topic;

template <typename T>
void ask(agent::StartedWorker& worker, Topic topic) {
    const Question question{.topic = topic, .environment = true, .threads = true};
    ASSERT_TRUE(worker.channel.send(event::encode(question)).has_value());
    auto answer = agent::read_answer<T>("worker", [&] { return worker.channel.receive(); });
    EXPECT_TRUE(answer.has_value()) << answer.error().to_text();
}

// The calls of an introspector from the moment its jail is closed to its end.
std::set<long> calls_of(agent::GuestSource source) {
    std::optional<agent::StartedWorker> worker =
        Introspector::begin(std::move(source)).value().release();
    CallTrace trace(worker->child.pid());
    EXPECT_TRUE(trace.attached());
    EXPECT_TRUE(worker->channel.receive().has_value()) << "the jail is closed";
    ask<event::SystemInfo>(*worker, Topic::info);
    ask<event::Task>(*worker, Topic::tasks);
    ask<event::OpenFile>(*worker, Topic::open_files);
    ask<event::Vma>(*worker, Topic::memory_maps);
    ask<event::Socket>(*worker, Topic::sockets);
    ask<event::Mount>(*worker, Topic::mounts);
    ask<event::Module>(*worker, Topic::modules);
    ask<event::KernelLogLine>(*worker, Topic::kernel_log);
    ask<event::CheckReport>(*worker, Topic::checks);
    {
        const jail::Channel hung_up = std::move(worker->channel);
    }
    return trace.calls_until_end();
}

TEST(JailUse, no_rule_is_there_that_nothing_needs) {
    auto vm = TestVm::boot({});
    if (!vm.has_value() && vm.error().code == Code::unavailable)
        GTEST_SKIP() << vm.error().to_text();
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    std::set<long> used = calls_of(source_of(*vm));
    const auto path = std::filesystem::temp_directory_path() / (vm->name() + ".kdump");
    ASSERT_TRUE(vm->dump_to(path, "kdump-zlib").has_value());
    used.merge(calls_of(image_source(path)));
    std::filesystem::remove(path);
    const jail::ReadableRange range{5, 0, 1};
#ifdef UNDERSEER_SANITIZED  // whose allocator needs less than the C library's, or other things
    used.insert({SYS_munmap, SYS_brk});
#endif
    std::vector<std::string_view> unused;
    for (const jail::SyscallRule& rule : jail::introspector_policy(3, {&range, 1}, 1).rules) {
        if (!rule.rare && !used.contains(rule.number)) unused.push_back(rule.name);
    }
    EXPECT_TRUE(unused.empty()) << "nothing used: " << fmt::format("{}", fmt::join(unused, ", "));
}

}  // namespace
}  // namespace underseer::testing
