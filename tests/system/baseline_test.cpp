// Kernels against how they were built: their own files, on real guests.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>

#include "acted_vm.h"
#include "outside_rootkit.h"
#include "program.h"

namespace underseer::testing {
namespace {

std::string vmlinuz_of(const std::string& kernel) {
    return TestVm::kernel_path(kernel) + "/vmlinuz";
}

event::CheckReport judge_code(agent::Introspector& introspector) {
    return introspector
        .ask<event::CheckReport>({.topic = agent::Topic::checks, .checks = {"kernel_code"}})
        .value()
        .items.at(0);
}

void expect_as_built(const VmSpec& spec) {
    auto booted = TestVm::boot(spec);
    if (!booted.has_value() && booted.error().code == Code::unavailable) {
        GTEST_SKIP() << booted.error().to_text();
    }
    ASSERT_TRUE(booted.has_value()) << booted.error().to_text();
    auto introspector = attach(*booted);
    const auto used = use_baseline(introspector, baseline_of(spec.kernel));
    ASSERT_TRUE(used.has_value()) << used.error().to_text();
    const auto report = judge_code(introspector);
    EXPECT_EQ(report.outcome, event::Outcome::clean) << report.reason;
    for (const event::Finding& finding : report.findings) {
        fmt::print("{}: {}\n", finding.rule, finding.subject);
        for (const event::Evidence& item : finding.evidence) {
            fmt::print("    {}: {}\n", item.name, item.text);
        }
    }
    for (const std::string& gap : report.coverage.gaps) fmt::print("not seen: {}\n", gap);
}

class BuiltKernels : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(BuiltKernels, BuiltKernels, ::testing::ValuesIn(all_kernels()), test_name);

// What it makes of its code itself when it starts depends on the CPU, and on what it is told.
TEST_P(BuiltKernels, run_as_they_were_built_on_any_cpu) {
    struct Case {
        std::string cpu, append;
        unsigned vcpus = 2;
    };
    std::vector<Case> cases{{"max", ""}};
    if (nightly()) {
        // With the second one 7.2 itself does not come up on this CPU.
        const std::string isolated =
            GetParam() == "7.2-cloud" ? "pti=on" : "pti=on spectre_v2=retpoline,lfence";
        const std::vector<Case> more{{"qemu64", "", 1},
                                     {"EPYC", ""},
                                     {"EPYC-Milan", "spec_rstack_overflow=safe-ret retbleed=unret"},
                                     {"Skylake-Server", "spectre_v2=retpoline retbleed=stuff"},
                                     {"Skylake-Client", isolated},
                                     {"max", "mitigations=off", 1}};
        cases.insert(cases.end(), more.begin(), more.end());
    } else if (GetParam() != "6.1-cloud" && GetParam() != "7.2-cloud") {
        GTEST_SKIP() << "in the nightly run only";
    }
    for (const Case& one : cases) {
        SCOPED_TRACE(fmt::format("-cpu {} {}", one.cpu, one.append));
        expect_as_built({.kernel = GetParam(),
                         .vcpus = one.vcpus,
                         .append = one.append,
                         .cpu = one.cpu,
                         .workload = false});
    }
}

// A name in BTF, and what shows /proc/modules (seq_operations.show).
void alter_constants(OutsideRootkit& rootkit) {
    const auto at = [&](const char* symbol) { return rootkit.kernel().symbol(symbol).value(); };
    rootkit.write(GuestVirt{(at("__stop_BTF").value - 64) & ~7ull}, 0x6161'6161'6161'6161);
    rootkit.write(at("modules_op") + 24, at("tcp4_seq_show").value);
}

class BaselineOf : public ActedUponVm {
  protected:
    // The first bytes of a function that nothing in the guest calls meanwhile.
    void alter_kernel() {
        vm_->pause();
        rootkit_.emplace(&*vm_);
        const GuestVirt at = rootkit_->kernel().symbol("__x64_sys_acct").value() + 16;
        rootkit_->write(at, 0xcccc'cccc'cccc'cccc);
        vm_->resume();
    }
    RunResult baseline(std::vector<std::string> words, unsigned user = 0) {
        words.insert(words.begin(), "baseline");
        return agent_->cli(std::move(words), user);
    }
    std::string used_baseline() {
        return agent_->instance(vm_->name())->at("baseline").value().as_string().value();
    }

    std::optional<OutsideRootkit> rootkit_;
    Directory directory_;
};

TEST_F(BaselineOf, a_kernel_shows_what_was_altered_before_anybody_looked) {
    alter_kernel();
    const std::string check = fmt::format("check {} --direct --only kernel_code", vm_->name());
    EXPECT_EQ(run(directory_, check).status, 0) << "who looks for the first time sees nothing";
    const Ran found =
        run(directory_, fmt::format("{} --baseline {}", check, vmlinuz_of("6.1-cloud")));
    EXPECT_EQ(found.status, 1) << found.err;
    EXPECT_NE(found.out.find("not as the kernel was built"), std::string::npos) << found.out;
    EXPECT_NE(found.out.find("__x64_sys_acct+0x10"), std::string::npos) << found.out;
    EXPECT_NE(found.out.find("int3"), std::string::npos) << found.out;
}

// By what it says of itself an intruder would send who looks from outside elsewhere; and that a
// function of the kernel's own stands for another one is seen by nothing else.
TEST_F(BaselineOf, a_kernel_shows_which_constants_were_altered) {
    vm_->pause();
    rootkit_.emplace(&*vm_);
    alter_constants(*rootkit_);
    vm_->resume();
    const std::string check = fmt::format("check {} --direct --only kernel_code", vm_->name());
    EXPECT_EQ(run(directory_, check).status, 0) << "who looks for the first time sees nothing";
    const Ran found =
        run(directory_, fmt::format("{} --baseline {}", check, vmlinuz_of("6.1-cloud")));
    EXPECT_EQ(found.status, 1) << found.err;
    EXPECT_NE(found.out.find("BTF+0x"), std::string::npos) << found.out;
    EXPECT_NE(found.out.find("modules_op+0x18"), std::string::npos) << found.out;
    EXPECT_NE(found.out.find("tcp4_seq_show"), std::string::npos) << found.out;
}

TEST_F(BaselineOf, another_kernel_is_refused_by_name) {
    const Ran refused = run(directory_, fmt::format("check {} --direct --baseline {}", vm_->name(),
                                                    vmlinuz_of("6.1-generic")));
    if (refused.err.find("No such file") != std::string::npos) GTEST_SKIP() << refused.err;
    EXPECT_NE(refused.status, 0);
    EXPECT_NE(refused.err.find("the guest runs 6.1."), std::string::npos) << refused.err;
}

TEST_F(BaselineOf, a_package_is_that_of_the_kernel_in_it) {
    const std::string root = directory_ / "root", package = directory_ / "linux-image.deb",
                      made = directory_ / "made";
    std::filesystem::create_directories(root + "/boot");
    std::filesystem::create_directories(root + "/DEBIAN");
    std::filesystem::copy(vmlinuz_of("6.1-cloud"), root + "/boot/vmlinuz-6.1.0-cloud-amd64");
    const std::string control =
        "Package: linux-image\nVersion: 1\nArchitecture: amd64\nMaintainer: test "
        "<test@example.com>\nDescription: a kernel\n";
    {
        const Fd file = open_file(root + "/DEBIAN/control", O_WRONLY | O_CREAT, 0644).value();
        ASSERT_TRUE(write_all(file.get(), as_bytes(control)).has_value());
    }
    ASSERT_EQ(run_program({"/usr/bin/dpkg-deb", "-Zxz", "-z0", "--build", root, package}).status,
              0);
    const Ran ran = run(directory_, fmt::format("baseline make {} --output {}", package, made));
    EXPECT_EQ(ran.status, 0) << ran.err;
    EXPECT_NE(ran.out.find(TestVm::release_of("6.1-cloud")), std::string::npos) << ran.out;
    EXPECT_EQ(read_file(made, 64u << 20).value(), baseline_of("6.1-cloud"));
    const Ran checked = run(directory_, fmt::format("check {} --direct --only kernel_code "
                                                    "--baseline {}",
                                                    vm_->name(), made));
    EXPECT_EQ(checked.status, 0) << checked.out << checked.err;
}

TEST_F(BaselineOf, a_file_that_is_no_kernel_says_so) {
    const std::string made = directory_ / "made";
    const Ran text = run(directory_, fmt::format("baseline make /etc/passwd --output {}", made));
    EXPECT_NE(text.status, 0);
    EXPECT_NE(text.err.find("/etc/passwd"), std::string::npos) << text.err;
    const Ran missing = run(directory_, fmt::format("baseline make /nowhere --output {}", made));
    EXPECT_EQ(missing.status, 3) << missing.err;
    EXPECT_FALSE(std::filesystem::exists(made));
}

TEST_F(BaselineOf, the_agents_guests_is_used_from_when_it_is_kept) {
    alter_kernel();
    start_agent();
    EXPECT_TRUE(agent_->findings("code_unlike_baseline").empty());
    const auto made = baseline({"make", vmlinuz_of("6.1-cloud")});
    ASSERT_EQ(made.status, 0) << made.output;
    const auto finding = agent_->wait_for_finding("code_unlike_baseline");
    EXPECT_EQ(used_baseline().size(), 40u);
    const auto listed = baseline({"ls"});
    EXPECT_NE(listed.output.find(TestVm::release_of("6.1-cloud")), std::string::npos)
        << listed.output;
    EXPECT_NE(listed.output.find(vm_->name()), std::string::npos) << listed.output;
    EXPECT_FALSE(agent_->logged("'baseline add'").empty());

    // It is there after a restart of the agent, and of the guest.
    agent_->kill(SIGKILL);
    agent_->start();
    agent_->wait_until("the baseline is used again", [&] {
        return agent_->instance(vm_->name()).has_value() && used_baseline().size() == 40;
    });
    rootkit_.reset();
    vm_->reset();
    ASSERT_TRUE(vm_->wait_until_ready().has_value());
    agent_->wait_until("the finding is closed", [&] {
        return agent_->findings("code_unlike_baseline").empty() && used_baseline().size() == 40;
    });

    const std::string build_id = used_baseline();
    ASSERT_EQ(baseline({"rm", build_id}).status, 0);
    agent_->wait_until("it is used no more", [&] { return used_baseline() != build_id; });
    EXPECT_EQ(baseline({"rm", build_id}).status, 3);
}

TEST_F(BaselineOf, a_kernel_is_not_needed_for_what_is_altered_meanwhile) {
    start_agent("[schedule]\nkernel_code = \"1s\"");
    agent_->wait_until("its constants are known", [&] { return !used_baseline().empty(); });
    vm_->pause();
    rootkit_.emplace(&*vm_);
    alter_constants(*rootkit_);
    vm_->resume();
    agent_->wait_for_finding("altered_constant");
    agent_->wait_until("both are told",
                       [&] { return agent_->findings("altered_constant").size() == 2; });
}

TEST_F(BaselineOf, the_agents_guests_is_changed_only_by_who_may_act) {
    start_agent();
    EXPECT_EQ(baseline({"rm", "abcd"}, kNobody).status, 5);
    EXPECT_FALSE(agent_->logged("was refused 'baseline rm'").empty());
}

TEST_F(BaselineOf, a_kernel_that_somebody_has_changed_is_not_used) {
    start_agent();
    ASSERT_EQ(baseline({"make", vmlinuz_of("6.1-cloud")}).status, 0);
    agent_->wait_until("it is used", [&] { return used_baseline().size() == 40; });
    const std::string build_id = used_baseline();
    const std::string kept =
        fmt::format("{}/state/baselines/{}/kernel.baseline", agent_->directory(), build_id);
    {
        const Fd file = open_file(kept, O_WRONLY).value();
        ASSERT_EQ(::pwrite(file.get(), "x", 1, 1000), 1);
    }
    EXPECT_EQ(agent_->kill(SIGTERM), 0);
    agent_->start();
    agent_->wait_until_watched(vm_->name());
    EXPECT_NE(used_baseline(), build_id);
    EXPECT_NE(agent_->errors().find("is not what was kept"), std::string::npos);
}

}  // namespace
}  // namespace underseer::testing
