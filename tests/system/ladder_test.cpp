// The kernel model with rungs of its ladder taken away, against the same model with all of them, on
// every real kernel at hand. What the next rung finds must be the truth; what it does not find must
// be unavailable, and nothing may be different.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>
#include <set>

#include "answers.h"
#include "guest_memory/cached_memory.h"
#include "guest_memory/sources.h"
#include "guests.h"
#include "truth.h"

namespace underseer::testing {
namespace {

using guest_linux::Field;
using guest_linux::Guest;
using guest_linux::Lacking;

// All that guest_linux asks for by name.
constexpr std::string_view kVariables[] = {
    "init_task",    "init_pid_ns",  "init_uts_ns",   "css_set_table",         "modules",
    "jiffies_64",   "system_state", "runqueues",     "__per_cpu_offset",      "__cpu_possible_mask",
    "prb",          "tcp_hashinfo", "vsyscall_mode", "special_mapping_vmops", "net_namespace_list",
    "hrtimer_bases"};

// All that a kernel is asked for by name: members, and with "" the sizes of structs.
using Members = std::set<std::pair<std::string, std::string>>;

class Ladder : public ::testing::TestWithParam<std::string> {
  protected:
    void SetUp() override {
        auto vm = TestVm::boot({.kernel = GetParam(), .vcpus = 2});
        if (!vm.has_value()) GTEST_SKIP() << vm.error().to_text();
        vm_.emplace(std::move(*vm));
        vm_->pause();
        source_ = source_of(*vm_);
    }

    // Of the paused guest, in this process.
    std::unique_ptr<Guest> attach(Lacking lacking) {
        std::vector<int> fds;
        for (const Fd& fd : source_.fds) fds.push_back(fd.get());
        memory_.push_back(guest_memory::open_live(fds, source_.layout, source_.name).value());
        caches_.push_back(std::make_unique<guest_memory::CachedMemory>(memory_.back().get()));
        auto guest = attach_to_memory(std::move(lacking));
        EXPECT_TRUE(guest.has_value()) << guest.error().to_text();
        return guest.has_value() ? std::move(*guest) : nullptr;
    }
    Result<std::unique_ptr<Guest>> attach_to_memory(Lacking lacking) {
        return Guest::attach(caches_.back().get(), {}, std::move(lacking));
    }

    Members all_members(Answers& answers);
    void expect_all_found_without_data_symbols();
    void expect_processes_without_types();

    std::optional<TestVm> vm_;
    agent::GuestSource source_;
    std::vector<std::unique_ptr<guest_memory::GuestMemory>> memory_;
    std::vector<std::unique_ptr<guest_memory::CachedMemory>> caches_;
};
INSTANTIATE_TEST_SUITE_P(, Ladder, ::testing::ValuesIn(all_kernels()), test_name);

void Ladder::expect_all_found_without_data_symbols() {
    const auto whole = attach({}), bare = attach({.data_symbols = true});
    ASSERT_TRUE(whole && bare);
    for (const std::string_view name : kVariables) {
        const auto truth = whole->kernel().symbol(name), found = bare->kernel().symbol(name);
        if (!truth.has_value()) continue;  // not in this kernel
        EXPECT_FALSE(bare->kernel().symbols().address(name)) << name;
        ASSERT_TRUE(found.has_value()) << name;
        EXPECT_EQ(*found, *truth) << name;
    }
    EXPECT_EQ(bare->kernel().symbol("tk_core").value(),
              whole->kernel().symbol({"tk_core", "timekeeper_data"}).value());
    const event::SystemInfo truth = whole->info(), found = bare->info();
    EXPECT_EQ(found.banner, truth.banner);
    EXPECT_EQ(found.build_id, truth.build_id);
    EXPECT_EQ(found.host_name, truth.host_name);
    EXPECT_EQ(found.boot_time.value(), truth.boot_time.value());
    EXPECT_EQ(found.wall_clock.value(), truth.wall_clock.value());
    EXPECT_EQ(found.page_table_root, truth.page_table_root);
    EXPECT_EQ(found.page_table_isolation, truth.page_table_isolation);
    EXPECT_EQ(found.cpus, truth.cpus);
    EXPECT_EQ(bare->tasks().items, whole->tasks().items);
    EXPECT_EQ(bare->open_files(std::nullopt).value().items,
              whole->open_files(std::nullopt).value().items);
    EXPECT_EQ(bare->memory_maps(std::nullopt).value().items,
              whole->memory_maps(std::nullopt).value().items);
    EXPECT_EQ(bare->modules().value().items, whole->modules().value().items);
    EXPECT_EQ(bare->sockets().value().items, whole->sockets().value().items);
    EXPECT_EQ(bare->mounts().value().items, whole->mounts().value().items);
    EXPECT_EQ(bare->interfaces().value().items, whole->interfaces().value().items);
    EXPECT_EQ(bare->kernel_log().value().items, whole->kernel_log().value().items);
    const auto views = bare->task_views(), true_views = whole->task_views();
    for (std::size_t i = 0; i < views.size(); ++i) {
        EXPECT_FALSE(views[i].gap) << *views[i].gap;
        EXPECT_EQ(views[i].tasks, true_views[i].tasks) << to_string(views[i].view);
    }
}

void Ladder::expect_processes_without_types() {
    const auto whole = attach({});
    for (const bool data_symbols : {false, true}) {
        const auto bare = attach({.data_symbols = data_symbols, .types = true});
        ASSERT_TRUE(whole && bare);
        for (const auto& [structure, member] : {std::pair{"task_struct", "pid"},
                                                {"task_struct", "tgid"},
                                                {"task_struct", "comm"},
                                                {"task_struct", "flags"},
                                                {"task_struct", "tasks"},
                                                {"task_struct", "real_parent"},
                                                {"task_struct", "children"},
                                                {"task_struct", "sibling"},
                                                {"task_struct", "group_leader"},
                                                {"task_struct", "signal"},
                                                {"task_struct", "thread_node"},
                                                {"signal_struct", "thread_head"}}) {
            const auto found = bare->kernel().field(structure, member);
            EXPECT_TRUE(found.known()) << member;
            EXPECT_EQ(found.offset, whole->kernel().field(structure, member).offset) << member;
        }
        const auto tasks = bare->tasks().items, true_tasks = whole->tasks().items;
        ASSERT_EQ(tasks.size(), true_tasks.size());
        for (std::size_t i = 0; i < tasks.size(); ++i) {
            EXPECT_EQ(tasks[i].address, true_tasks[i].address);
            EXPECT_EQ(tasks[i].pid, true_tasks[i].pid);
            EXPECT_EQ(tasks[i].tgid, true_tasks[i].tgid);
            EXPECT_EQ(tasks[i].ppid, true_tasks[i].ppid);
            EXPECT_EQ(tasks[i].comm, true_tasks[i].comm);
            EXPECT_EQ(tasks[i].kernel_thread, true_tasks[i].kernel_thread);
            EXPECT_FALSE(tasks[i].credentials.available());
            EXPECT_FALSE(tasks[i].start_time.available());
            EXPECT_FALSE(tasks[i].namespaces.available());
        }
        EXPECT_EQ(bare->info().build_id, whole->info().build_id);
        EXPECT_EQ(bare->info().banner, whole->info().banner);
        EXPECT_EQ(bare->info().cpus, whole->info().cpus);
        EXPECT_FALSE(bare->info().boot_time.available());
        EXPECT_FALSE(bare->modules().has_value());
        EXPECT_FALSE(bare->sockets().has_value());
        EXPECT_FALSE(bare->mounts().has_value());
        EXPECT_FALSE(bare->interfaces().has_value());
        EXPECT_FALSE(bare->kernel_log().has_value());
        EXPECT_FALSE(bare->open_files(std::nullopt).has_value());
        EXPECT_FALSE(bare->memory_maps(std::nullopt).has_value());
        const auto views = bare->task_views(), true_views = whole->task_views();
        for (std::size_t i = 0; i < views.size(); ++i) {
            EXPECT_TRUE(views[i].gap || views[i].tasks == true_views[i].tasks)
                << to_string(views[i].view);
        }
    }
}

TEST_P(Ladder, every_rung_finds_the_truth_or_says_that_it_does_not) {
    {
        SCOPED_TRACE("CONFIG_KALLSYMS_ALL=n");
        expect_all_found_without_data_symbols();
    }
    SCOPED_TRACE("CONFIG_DEBUG_INFO_BTF=n");
    expect_processes_without_types();
}

// Whether the search of RAM hangs on it, too.
Search search_for(const std::string& structure, const std::string& path) {
    static const std::set<std::string> kStructures{"kmem_cache", "slab", "page",
                                                   "inactive_task_frame"};
    static const std::set<std::string> kMembers{"",      "sched_class", "__state",
                                                "stack", "thread.sp",   "on_cpu"};
    const bool task = structure == "task_struct" && kMembers.contains(path);
    return task || kStructures.contains(structure) ? Search::ram : Search::no;
}

// What is asked for to answer everything, and the answers.
Members Ladder::all_members(Answers& answers) {
    Members asked;
    const auto guest = attach(
        {.alter = [&](auto structure, auto path, auto&) { asked.emplace(structure, path); }});
    if (guest) answers = all_answers(*guest, Search::ram);
    return asked;
}

// One member after the other that is not as it should be: all of them nightly, else each kPart-th
// of one kernel.
class LadderOfMembers : public Ladder {
  protected:
    static constexpr std::size_t kPart = 4;
    void SetUp() override {
        if (GetParam() != "6.1-cloud" && !nightly()) GTEST_SKIP() << "in the nightly run only";
        Ladder::SetUp();
    }
    // What is asked for, and the answers when all is as it should be.
    Members some_members(Answers& answers, std::size_t first) {
        const Members asked = all_members(answers);
        EXPECT_GT(asked.size(), 200u);
        if (nightly()) return asked;
        Members part;
        std::size_t i = first;
        for (const auto& member : asked) {
            if (i++ % kPart == 0) part.insert(member);
        }
        return part;
    }
};
INSTANTIATE_TEST_SUITE_P(, LadderOfMembers, ::testing::ValuesIn(all_kernels()), test_name);

// A later kernel may have renamed any member: then what hangs on it is unavailable, and says so.
TEST_P(LadderOfMembers, one_that_is_away_makes_a_gap_and_no_other_answer) {
    Answers whole;
    const Members asked = some_members(whole, 0);
    unsigned attached = 0;
    for (const auto& [structure, path] : asked) {
        SCOPED_TRACE(fmt::format("without {}.{}", structure, path));
        const auto bare = attach_to_memory({.alter = [&](auto s, auto p, Field& field) {
            if (s == structure && p == path) field = {.name = field.name};
        }});
        if (!bare.has_value()) {
            EXPECT_EQ(bare.error().code, Code::unavailable) << bare.error().to_text();
            continue;
        }
        ++attached;
        const Search search = search_for(structure, path);
        expect_truth_or_a_gap(all_answers(**bare, search), whole, search);
    }
    // What hangs on one member is little.
    EXPECT_GT(attached * 100, asked.size() * 95);
}

// Types are the guest's own words. Whatever they say of a member, every question ends, and with an
// answer.
TEST_P(LadderOfMembers, forged_ones_harm_nobody) {
    Answers whole;
    const Members asked = some_members(whole, 2);
    std::mt19937 random(1);
    constexpr std::uint32_t kSizes[] = {0, 1, 3, 8, 64, 4096, 1u << 20, (1u << 29) - 1};
    for (const auto& [structure, path] : asked) {
        SCOPED_TRACE(fmt::format("forged: {}.{}", structure, path));
        // Offsets have 24 bits or 32 in BTF, in bits (btf_member, include/uapi/linux/btf.h).
        const std::uint32_t offset =
            random() % 2 != 0 ? random() % 8192 & ~7u : random() % (1u << 29);
        const std::uint32_t size = kSizes[random() % std::size(kSizes)];
        const auto begin = std::chrono::steady_clock::now();
        const auto forged = attach_to_memory({.alter = [&](auto s, auto p, Field& field) {
            if (s != structure || p != path) return;
            field = {.name = field.name, .offset = offset, .size_bytes = size};
        }});
        if (forged.has_value()) all_answers(**forged, search_for(structure, path));
        EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
    }
}

// A kernel that was built without both (tools/guests/make.py 6.1-bare), against its own /proc.
class LadderOwnKernel : public ::testing::Test {
  protected:
    void SetUp() override {
        if (!nightly()) GTEST_SKIP() << "in the nightly run only";
        auto vm = TestVm::boot({.kernel = "6.1-bare"});
        if (!vm.has_value() && vm.error().code == Code::unavailable) {
            GTEST_SKIP() << vm.error().to_text();
        }
        ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
        vm_.emplace(std::move(*vm));
        introspector_.emplace(testing::attach(*vm_));
    }
    std::vector<event::Task> tasks(bool threads) {
        return introspector_->ask<event::Task>({.topic = agent::Topic::tasks, .threads = threads})
            .value()
            .items;
    }
    template <typename T>
    void expect_unavailable(agent::Topic topic) {
        const auto answer = introspector_->ask<T>({.topic = topic});
        ASSERT_FALSE(answer.has_value());
        EXPECT_EQ(answer.error().code, Code::unavailable);
        EXPECT_NE(answer.error().message.find("CONFIG_DEBUG_INFO_BTF is off"), std::string::npos)
            << answer.error().to_text();
    }

    std::optional<TestVm> vm_;
    std::optional<agent::Introspector> introspector_;
};

TEST_F(LadderOwnKernel, shows_the_processes_and_threads_that_proc_shows) {
    const auto info = introspector_->ask<event::SystemInfo>({.topic = agent::Topic::info});
    ASSERT_TRUE(info.has_value()) << info.error().to_text();
    EXPECT_EQ(info->items.front().kernel_release, vm_->release());
    EXPECT_EQ(info->items.front().type_count, 0u);
    for (const bool threads : {false, true}) {
        const ByPid own = for_each_process(*vm_, "cat $p/comm", threads);
        std::map<std::uint32_t, std::string> seen;
        for (const event::Task& task : tasks(threads)) seen[task.pid] = task.comm;
        std::size_t compared = 0;
        for (const auto& [pid, text] : own) {
            // What the question itself started has ended, and so have the short-lived ones.
            if (text.empty() || !seen.contains(pid)) continue;
            std::string comm = text.substr(0, text.size() - 1);  // without the line's end
            // What a worker works on stands there too (wq_worker_comm(), kernel/workqueue.c 6.1).
            if (comm.starts_with("kworker/"))
                comm.resize(std::min(comm.find_first_of("+-"), comm.size()));
            EXPECT_EQ(seen[pid], comm) << pid;
            ++compared;
        }
        EXPECT_GE(compared + 6, own.size());
        EXPECT_GT(compared, threads ? 40u : 30u);
    }
}

TEST_F(LadderOwnKernel, answers_what_it_cannot_know_with_the_reason) {
    expect_unavailable<event::OpenFile>(agent::Topic::open_files);
    expect_unavailable<event::Vma>(agent::Topic::memory_maps);
    expect_unavailable<event::Module>(agent::Topic::modules);
    expect_unavailable<event::Socket>(agent::Topic::sockets);
    expect_unavailable<event::Mount>(agent::Topic::mounts);
    expect_unavailable<event::NetworkInterface>(agent::Topic::interfaces);
    expect_unavailable<event::KernelLogLine>(agent::Topic::kernel_log);
    for (const event::Task& task : tasks(false)) {
        EXPECT_NE(task.start_time.reason(), "");
        EXPECT_NE(task.credentials.reason(), "");
    }
}

}  // namespace
}  // namespace underseer::testing
