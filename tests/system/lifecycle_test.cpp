// Guests that are paused, reset, started anew without firmware, saved, restored and switched off.
// At no moment may an old or an empty list be answered as if it were true.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <thread>

#include "guests.h"
#include "program.h"

namespace underseer::testing {
namespace {

using agent::Introspector;
using agent::Question;
using agent::Topic;
using Clock = std::chrono::steady_clock;

Result<std::vector<event::Task>> processes(Introspector& introspector) {
    return TRY(introspector.ask<event::Task>(Question{.topic = Topic::tasks})).items;
}

bool shows(const std::vector<event::Task>& tasks, std::string_view comm) {
    return std::ranges::find(tasks, comm, &event::Task::comm) != tasks.end();
}

// Leaves a process of that name in the guest.
void start_process(TestVm& vm, const std::string& comm) {
    vm.output_of(fmt::format("cp /bin/workload /tmp/{} && (/tmp/{} sleeper > /dev/null & sleep 1)",
                             comm, comm));
}

struct Restart {
    std::string kernel, next;
    unsigned vcpus = 1;
    Ram ram = Ram::memfd;
    std::string append;
};
std::string name_of(const ::testing::TestParamInfo<Restart>& restart) {
    std::string name =
        fmt::format("{}_{}{}{}_{}", restart.param.kernel, restart.param.next.empty() ? "" : "to_",
                    restart.param.next, restart.param.append, restart.index);
    std::ranges::replace_if(name, [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
    return name;
}

class Lifecycle : public ::testing::TestWithParam<Restart> {
  protected:
    // False when a kernel is not at hand, and the test is skipped.
    bool boot(const Restart& wanted) {
        VmSpec spec{.kernel = wanted.kernel,
                    .vcpus = wanted.vcpus,
                    .append = wanted.append,
                    .ram = wanted.ram,
                    .workload = false,
                    .kexec = wanted.next};
        const auto at_hand = TestVm::kernels_at_hand();
        for (const std::string& kernel : {wanted.kernel, wanted.next}) {
            if (!kernel.empty() && std::ranges::find(at_hand, kernel) == at_hand.end()) {
                return false;
            }
        }
        vm_.emplace(TestVm::boot(spec).value());
        start_process(*vm_, "before");
        introspector_.emplace(attach(*vm_));
        const auto tasks = processes(*introspector_);
        EXPECT_TRUE(tasks.has_value()) << tasks.error().to_text();
        EXPECT_TRUE(tasks.has_value() && shows(*tasks, "before"));
        return true;
    }

    // From the moment of the restart on until the new kernel is up: nothing of the old one.
    void watch_restart() {
        const auto deadline = Clock::now() + std::chrono::minutes(2);
        unsigned refused = 0;
        for (;; std::this_thread::sleep_for(std::chrono::milliseconds(20))) {
            ASSERT_LT(Clock::now(), deadline) << "never seen again; last: " << last_reason_;
            // Another one each time: a worker without a history must not be fooled either.
            Introspector fresh = attach(*vm_);
            bool up = false;
            for (Introspector* one : {&*introspector_, &fresh}) {
                const auto tasks = processes(*one);
                up = tasks.has_value();
                if (up) {
                    expect_true_list(*tasks);
                } else {
                    ++refused;
                    last_reason_ = tasks.error().to_text();
                    reasons_.insert(last_reason_);
                }
                const auto checked = one->ask<event::CheckReport>(ask_for_hidden());
                if (!checked.has_value()) continue;
                for (const event::Finding& finding : checked->items.front().findings) {
                    ADD_FAILURE() << finding.subject << " by the "
                                  << (one == &fresh ? "fresh" : "old") << " introspector";
                }
            }
            if (up) break;
        }
        // None when the first question, asked right after the restart, took as long as the boot.
        fmt::print("while restarting: {} questions refused\n", refused);
        for (const std::string& reason : reasons_) fmt::print("while restarting: {}\n", reason);
    }

    static void expect_true_list(const std::vector<event::Task>& tasks) {
        EXPECT_FALSE(shows(tasks, "before")) << "of the kernel that has ended";
        EXPECT_TRUE(shows(tasks, "kthreadd"));
        EXPECT_GT(tasks.size(), 15u);
    }

    void expect_new_guest(const std::string& release) {
        const auto ready = vm_->wait_until_ready();
        ASSERT_TRUE(ready.has_value()) << ready.error().to_text();
        start_process(*vm_, "after");
        const auto tasks = processes(*introspector_);
        ASSERT_TRUE(tasks.has_value()) << tasks.error().to_text();
        EXPECT_TRUE(shows(*tasks, "after"));
        expect_true_list(*tasks);
        const auto info = introspector_->ask<event::SystemInfo>(Question{.topic = Topic::info});
        ASSERT_TRUE(info.has_value()) << info.error().to_text();
        EXPECT_EQ(info->items.front().kernel_release, release);
        EXPECT_EQ(release + "\n", vm_->output_of("uname -r"));
    }

    std::optional<TestVm> vm_;
    std::optional<Introspector> introspector_;
    std::set<std::string> reasons_;
    std::string last_reason_;
};

class Reset : public Lifecycle {};
INSTANTIATE_TEST_SUITE_P(Lifecycle, Reset, ::testing::ValuesIn([] {
                             std::vector<Restart> all{
                                 {"6.1-cloud"},
                                 {"6.1-cloud", "", 2, Ram::anonymous, "nokaslr"},
                                 {"7.2-cloud"}};
                             if (!nightly()) return all;
                             for (const std::string& kernel : all_kernels()) {
                                 all.push_back({kernel, "", 2, Ram::memfd, ""});
                                 all.push_back({kernel, "", 1, Ram::memfd, "nokaslr"});
                             }
                             return all;
                         }()),
                         name_of);

TEST_P(Reset, is_noticed_and_the_new_kernel_found) {
    if (!boot(GetParam()))
        GTEST_SKIP() << "the kernel is not at hand; tools/guests/make.py makes it";
    vm_->reset();
    watch_restart();
    expect_new_guest(vm_->release());
}

class Kexec : public Lifecycle {};
INSTANTIATE_TEST_SUITE_P(Lifecycle, Kexec, ::testing::ValuesIn([] {
                             std::vector<Restart> all{{"6.1-cloud", "6.12-cloud"},
                                                      {"6.12-cloud", "6.12-cloud", 2}};
                             if (!nightly()) return all;
                             for (const std::string& kernel : all_kernels()) {
                                 all.push_back({kernel, kernel, 1});
                                 all.push_back({kernel, "6.1-cloud", 2});
                             }
                             return all;
                         }()),
                         name_of);

TEST_P(Kexec, is_noticed_and_the_new_kernel_found) {
    if (!boot(GetParam())) GTEST_SKIP() << "a kernel is not at hand; tools/guests/make.py makes it";
    vm_->kexec();
    // Until it has jumped the old list is the truth.
    ASSERT_TRUE(vm_->wait_until_between_kernels().has_value());
    watch_restart();
    expect_new_guest(TestVm::release_of(GetParam().next));
}

class LifecycleOnce : public Lifecycle {};
INSTANTIATE_TEST_SUITE_P(, LifecycleOnce, ::testing::Values(Restart{"6.1-cloud"}), name_of);

TEST_P(LifecycleOnce, a_paused_guest_is_seen_as_it_stands_and_goes_on) {
    if (!boot(GetParam()))
        GTEST_SKIP() << "the kernel is not at hand; tools/guests/make.py makes it";
    vm_->pause();
    const auto first = processes(*introspector_), again = processes(*introspector_);
    ASSERT_TRUE(first.has_value()) << first.error().to_text();
    ASSERT_TRUE(again.has_value()) << again.error().to_text();
    EXPECT_EQ(*first, *again);
    Introspector fresh = attach(*vm_);
    EXPECT_EQ(processes(fresh).value(), *first);
    vm_->resume();
    start_process(*vm_, "after");
    const auto later = processes(*introspector_);
    ASSERT_TRUE(later.has_value()) << later.error().to_text();
    EXPECT_TRUE(shows(*later, "before") && shows(*later, "after"));
}

// What the kernel frees it gives to the next of its kind: a name remembered by address is soon
// another's.
TEST_P(LifecycleOnce, of_what_is_gone_nothing_is_remembered) {
    if (!boot(GetParam()))
        GTEST_SKIP() << "the kernel is not at hand; tools/guests/make.py makes it";
    vm_->output_of("mkdir /tmp/mounted");
    for (int round = 0; round < 12; ++round) {
        const std::string id = fmt::format("{:064x}", round), group = "/docker-" + id + ".scope";
        const std::string fs_type = round % 2 == 0 ? "tmpfs" : "ramfs";
        vm_->output_of(
            fmt::format("mount -t {1} none /tmp/mounted; mkdir /sys/fs/cgroup{0}; "
                        "(echo 0 > /sys/fs/cgroup{0}/cgroup.procs; exec workload sleeper) "
                        "> /dev/null 2>&1 & sleep 0.2",
                        group, fs_type));
        const auto tasks = processes(*introspector_).value();
        const auto inside = std::ranges::find(tasks, "workload", &event::Task::comm);
        ASSERT_NE(inside, tasks.end());
        EXPECT_EQ(inside->cgroup.value(), group);
        EXPECT_EQ(inside->container_id.value(), id);
        const auto mounts =
            introspector_->ask<event::Mount>({.topic = Topic::mounts}).value().items;
        const auto mount = std::ranges::find(mounts, "/tmp/mounted", &event::Mount::target);
        ASSERT_NE(mount, mounts.end());
        EXPECT_EQ(mount->fs_type, fs_type);
        vm_->output_of(
            fmt::format("kill -9 {}; sleep 0.2; rmdir /sys/fs/cgroup{}; umount /tmp/mounted",
                        inside->pid, group));
    }
    const auto started = [&] {
        return processes(*introspector_).value().front().start_time.value();
    };
    constexpr std::uint64_t kDay = 86'400ull * 1'000'000'000;
    const std::uint64_t before = started();
    vm_->output_of("date -s @$(($(date +%s) + 86400))");
    EXPECT_NEAR(static_cast<double>(started() - before), static_cast<double>(kDay), 2e9);
}

// Nothing moves then, as in any paused guest, and all that the last kernel had is still in place.
TEST_P(LifecycleOnce, a_guest_that_is_reset_while_it_is_paused_is_not_shown_as_it_was) {
    if (!boot(GetParam()))
        GTEST_SKIP() << "the kernel is not at hand; tools/guests/make.py makes it";
    ASSERT_TRUE(vm_->qmp("stop").has_value());
    ASSERT_TRUE(vm_->qmp("system_reset").has_value());
    vm_->pause();  // and leaves the monitor to others
    const Directory directory;
    const Ran ps = run(directory, "ps --direct " + vm_->name());
    EXPECT_EQ(ps.status, 6) << ps.out;
    EXPECT_NE(ps.err.find("none of its CPUs is in 64-bit mode"), std::string::npos) << ps.err;
}

TEST_P(LifecycleOnce, a_guest_that_boots_is_unavailable_until_it_is_up) {
    if (!boot(GetParam()))
        GTEST_SKIP() << "the kernel is not at hand; tools/guests/make.py makes it";
    vm_.reset();
    vm_.emplace(
        TestVm::boot({.kernel = GetParam().kernel, .workload = false, .wait = false}).value());
    introspector_.emplace(attach(*vm_));
    watch_restart();
    expect_new_guest(vm_->release());
}

TEST_P(LifecycleOnce, a_guest_that_is_saved_and_restored_goes_on) {
    if (!boot(GetParam()))
        GTEST_SKIP() << "the kernel is not at hand; tools/guests/make.py makes it";
    const auto path = std::filesystem::temp_directory_path() / fmt::format("{}.state", vm_->name());
    const auto saved = vm_->save_to(path);
    ASSERT_TRUE(saved.has_value()) << saved.error().to_text();
    const auto before = processes(*introspector_);
    ASSERT_TRUE(before.has_value()) << before.error().to_text();
    EXPECT_TRUE(shows(*before, "before"));
    vm_->power_off();
    const auto gone = processes(*introspector_);
    ASSERT_FALSE(gone.has_value()) << "RAM that outlives its machine is no guest";
    EXPECT_EQ(gone.error().code, Code::gone);
    auto restored =
        TestVm::boot({.kernel = GetParam().kernel, .workload = false, .incoming = path.string()});
    std::filesystem::remove(path);
    ASSERT_TRUE(restored.has_value()) << restored.error().to_text();
    introspector_.emplace(attach(*restored));
    start_process(*restored, "after");
    const auto after = processes(*introspector_);
    ASSERT_TRUE(after.has_value()) << after.error().to_text();
    EXPECT_TRUE(shows(*after, "before") && shows(*after, "after"));
    for (const event::Task& task : *before) {
        const bool passing = task.kernel_thread || task.comm == "sh";
        EXPECT_TRUE(passing || shows(*after, task.comm)) << task.comm;
    }
}

}  // namespace
}  // namespace underseer::testing
