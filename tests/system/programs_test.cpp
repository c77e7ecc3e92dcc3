// Programs against the packages that they came from, on a real guest.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "acted_vm.h"
#include "base/os.h"
#include "program.h"

namespace underseer::testing {
namespace {

// The guest's programs are one: busybox, which is also that of this host.
class ProgramsOf : public ActedUponVm {
  protected:
    void SetUp() override {
        ActedUponVm::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        program_ = read_file("/bin/busybox", 64u << 20).value();
        // nopw 0(%rax,%rax,1) with a prefix: what gcc puts between functions, and nobody executes.
        const std::string padding("\x66\x2e\x0f\x1f\x84\x00\x00\x00\x00\x00", 10);
        altered_at_ = program_.find(padding, program_.size() / 4) + padding.size() - 1;
        ASSERT_LT(altered_at_, program_.size());
        const std::string same = vm_->output_of("sha256sum < /bin/busybox");
        if (run_program({"/bin/sh", "-c", "sha256sum < /bin/busybox"}).output != same) {
            GTEST_SKIP() << "the guest has another busybox than this host";
        }
    }

    // A package with busybox under these paths.
    std::string package(const std::string& name, const std::vector<std::string>& paths) {
        const std::string root = directory_ / name, made = directory_ / (name + ".deb");
        std::filesystem::create_directories(root + "/DEBIAN");
        for (const std::string& path : paths) {
            std::filesystem::create_directories(std::filesystem::path(root + path).parent_path());
            std::filesystem::copy("/bin/busybox", root + path);
        }
        const std::string control = fmt::format(
            "Package: {}\nVersion: 1:2.3-4\nArchitecture: amd64\nMaintainer: test "
            "<test@example.com>\nDescription: programs\n",
            name);
        const Fd file = open_file(root + "/DEBIAN/control", O_WRONLY | O_CREAT, 0644).value();
        EXPECT_TRUE(write_all(file.get(), as_bytes(control)).has_value());
        EXPECT_EQ(run_program({"/usr/bin/dpkg-deb", "-Zxz", "-z0", "--build", root, made}).status,
                  0);
        return made;
    }
    // A copy of busybox with another byte, which then runs.
    void run_altered(const std::string& path, std::size_t at) {
        vm_->output_of(fmt::format(
            "mkdir -p {2}; cp /bin/busybox {0}; printf '\\001' | dd of={0} bs=1 seek={1} "
            "conv=notrunc 2>/dev/null; {0} 12345 > /dev/null 2>&1 & sleep 0.2",
            path, at, std::filesystem::path(path).parent_path().native()));
    }
    void end_altered() { vm_->output_of("killall sleep; usleep 200000"); }
    std::string check_with(const std::string& file) {
        return fmt::format("check {} --direct --only program_integrity --baseline {}", vm_->name(),
                           file);
    }
    RunResult baseline(std::vector<std::string> words) {
        words.insert(words.begin(), "baseline");
        return agent_->cli(std::move(words), 0);
    }
    // "": it is not made.
    std::string outcome() {
        const auto instance = agent_->instance(vm_->name());
        if (!instance) return "";
        const auto each = instance->at("each").value().elements().value();
        for (const json::Value& check : each) {
            if (check.at("check").value().as_string().value() == "program_integrity") {
                return check.at("outcome").value().as_string().value();
            }
        }
        return "";
    }

    Directory directory_;
    std::string program_;
    std::size_t altered_at_ = 0;
};

TEST_F(ProgramsOf, a_package_show_which_was_altered) {
    const std::string deb = package("busybox", {"/bin/busybox"});
    const Ran clean = run(directory_, check_with(deb));
    EXPECT_EQ(clean.status, 0) << clean.out << clean.err;
    run_altered("/tmp/sleep", altered_at_);
    const Ran found = run(directory_, check_with(deb));
    EXPECT_EQ(found.status, 1) << found.out << found.err;
    EXPECT_NE(found.out.find("not as its package has it"), std::string::npos) << found.out;
    EXPECT_NE(found.out.find("/tmp/sleep"), std::string::npos) << found.out;
    EXPECT_NE(found.out.find("busybox_1:2.3-4_amd64"), std::string::npos) << found.out;
    EXPECT_NE(found.out.find(fmt::format("{:#x} of the file", altered_at_ & kPageMask)),
              std::string::npos)
        << found.out;
    end_altered();
    const Ran again = run(directory_, check_with(deb));
    EXPECT_EQ(again.status, 0) << again.out << again.err;
}

// The first byte of its build id: it is no program of the package any more, but is where it was.
TEST_F(ProgramsOf, a_package_show_that_another_one_is_in_their_place) {
    const std::string deb = package("tools", {"/bin/busybox", "/opt/tools/sleep"});
    const std::size_t note = program_.find(std::string("\x03\x00\x00\x00GNU\x00", 8));
    ASSERT_LT(note, kPageSize);
    run_altered("/opt/tools/sleep", note + 8);
    const Ran found = run(directory_, check_with(deb) + " --json");
    EXPECT_EQ(found.status, 0) << "it is informational only: " << found.out << found.err;
    EXPECT_NE(found.out.find("program_not_of_package"), std::string::npos) << found.out;
    EXPECT_NE(found.out.find("/opt/tools/sleep"), std::string::npos) << found.out;
    EXPECT_EQ(found.out.find("program_unlike_package"), std::string::npos) << found.out;
}

TEST_F(ProgramsOf, packages_that_nobody_has_told_are_not_compared) {
    const Ran ran =
        run(directory_, fmt::format("check {} --direct --only program_integrity", vm_->name()));
    EXPECT_EQ(ran.status, 10) << ran.out;
    EXPECT_NE(ran.out.find("underseer baseline make PACKAGE"), std::string::npos) << ran.out;
}

TEST_F(ProgramsOf, packages_are_kept_by_the_agent_for_all_its_guests) {
    start_agent("[schedule]\nprogram_integrity = \"1s\"");
    EXPECT_EQ(outcome(), "") << "there is nothing to compare with";
    const auto made = baseline(
        {"make", package("busybox", {"/bin/busybox"}), package("more", {"/usr/bin/another"})});
    ASSERT_EQ(made.status, 0) << made.output;
    EXPECT_NE(made.output.find("busybox_1:2.3-4_amd64: 1 program"), std::string::npos)
        << made.output;
    agent_->wait_until("programs are compared", [&] { return outcome() == "clean"; });
    const auto listed = baseline({"ls"});
    EXPECT_NE(listed.output.find("more_1:2.3-4_amd64"), std::string::npos) << listed.output;
    run_altered("/tmp/sleep", altered_at_);
    agent_->wait_for_finding("program_unlike_package");
    EXPECT_EQ(agent_->findings("program_unlike_package").size(), 1u);
    EXPECT_FALSE(agent_->logged("'baseline add' of busybox_1:2.3-4_amd64").empty());
    end_altered();
    agent_->wait_until("the finding is closed",
                       [&] { return agent_->findings("program_unlike_package").empty(); });

    // It is there after a restart of the agent, and of the guest.
    agent_->kill(SIGKILL);
    agent_->start();
    vm_->reset();
    ASSERT_TRUE(vm_->wait_until_ready().has_value());
    agent_->wait_until("programs are compared again", [&] { return outcome() == "clean"; });
    run_altered("/tmp/sleep", altered_at_);
    agent_->wait_for_finding("program_unlike_package");
    ASSERT_EQ(baseline({"rm", "busybox_1:2.3-4_amd64", "more_1:2.3-4_amd64"}).status, 0);
    agent_->wait_until("nothing is compared any more", [&] { return outcome().empty(); });
}

// Of what the disk of such a guest has: programs that were found under load are as they were
// installed.
TEST(ProgramsOfDebian, are_as_they_were_installed) {
    auto vm = TestVm::boot({.memory_mib = 1536, .vcpus = 2, .workload = false, .disk = true});
    if (!vm.has_value() && vm.error().code == Code::unavailable) {
        GTEST_SKIP() << vm.error().to_text();
    }
    ASSERT_TRUE(vm.has_value()) << vm.error().to_text();
    const Directory directory;
    const std::string usr = directory / "usr", archive = directory / "debian.tar";
    std::filesystem::create_directories(usr);
    for (const char* folder : {"bin", "sbin", "lib"}) {
        const RunResult dumped =
            run_program({"/usr/sbin/debugfs", "-R", fmt::format("rdump /usr/{} {}", folder, usr),
                         TestVm::disk_path()});
        ASSERT_EQ(dumped.status, 0) << dumped.output;
    }
    ASSERT_EQ(
        run_program({"/usr/bin/tar", "-C", directory / "", "-cf", archive,
                     "--exclude=usr/lib/llvm*", "--exclude=libclang*", "--exclude=libLLVM*", "usr"})
            .status,
        0);
    vm->output_of("hold=1 files=60 load compile tracers debugger > /dev/null 2>&1 & sleep 5");
    const std::string made = directory / "debian";
    const Ran kept = run(directory, fmt::format("baseline make {} --output {}", archive, made));
    ASSERT_EQ(kept.status, 0) << kept.err;
    for (int i = 0; i < 5; ++i) {
        const Ran clean =
            run(directory, fmt::format("check {} --direct --only program_integrity --baseline {}",
                                       vm->name(), made));
        EXPECT_EQ(clean.status, 0) << clean.out << clean.err;
        EXPECT_EQ(clean.out.find("another one"), std::string::npos) << clean.out;
    }
}

}  // namespace
}  // namespace underseer::testing
