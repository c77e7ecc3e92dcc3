// Whose VMs are, and what their managers say of them: QMP monitors, and a real libvirtd.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

#include "testing/test_agent.h"

namespace underseer::testing {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

std::string text(const json::Value& value, std::string_view key) {
    return value.at(key).value().as_string().value();
}

std::string write_file(const std::string& path, const std::string& content) {
    std::ofstream(path, std::ios::trunc) << content;
    ::chmod(path.c_str(), 0644);
    return path;
}

std::vector<std::string> cli(std::vector<std::string> words) {
    words.insert(words.begin(), program_path("underseer"));
    return words;
}

// The object of one VM in the JSON of `underseer ls`, which may have notes before it.
std::optional<json::Value> listed(const RunResult& ran, const std::string& name) {
    EXPECT_EQ(ran.status, 0) << ran.output;
    const auto all = json::Value::parse(
        std::string_view(ran.output).substr(std::min(ran.output.find("[\n"), ran.output.size())));
    if (!all.has_value()) return std::nullopt;
    const auto vms = all->elements().value();
    for (const json::Value& vm : vms) {
        if (text(vm, "name") == name) return vm;
    }
    return std::nullopt;
}

class ManagersTest : public ::testing::Test {
  protected:
    void SetUp() override {
        auto booted = TestVm::boot({.memory_mib = 256, .workload = false});
        if (!booted.has_value()) GTEST_SKIP() << booted.error().to_text();
        vm_.emplace(std::move(*booted));
        directory_ = (fs::temp_directory_path() / "underseer-managers").string();
        fs::create_directories(directory_);
        map_ = write_file(directory_ + "/instances.toml",
                          fmt::format("[[instance]]\nname = \"{}\"\ntenant = \"acme\"\n"
                                      "app_instance_id = \"8a7e\"\napp_d_id = \"cache-2.1\"\n",
                                      vm_->name()));
    }
    std::optional<json::Value> ls() {
        return listed(run_program(cli({"ls", "--json", "--instances", map_})), vm_->name());
    }

    std::optional<TestVm> vm_;
    std::string directory_, map_;
};

TEST_F(ManagersTest, ls_shows_owner_and_state_by_way_of_the_monitor) {
    auto vm = ls();
    ASSERT_TRUE(vm);
    EXPECT_EQ(text(*vm, "state"), "running");
    EXPECT_EQ(text(*vm, "tenant"), "acme");
    EXPECT_EQ(text(*vm, "app_instance_id"), "8a7e");
    EXPECT_EQ(text(*vm, "app_d_id"), "cache-2.1");
    EXPECT_TRUE(vm->at("notes").value().elements().value().empty());
    // The test's own client holds the monitor from now on: it is busy, and ls does not wait for it.
    ASSERT_TRUE(vm_->qmp("stop").has_value());
    const auto begun = std::chrono::steady_clock::now();
    vm = ls();
    EXPECT_LT(std::chrono::steady_clock::now() - begun, 20s);
    ASSERT_TRUE(vm);
    EXPECT_EQ(text(*vm, "state"), "");
    EXPECT_EQ(text(*vm, "tenant"), "acme");
    // Which kernel runs nobody can tell then: what memory holds is shown, and that it is only that.
    const RunResult ps = run_program(cli({"ps", "--direct", vm_->name()}));
    EXPECT_EQ(ps.status, 0) << ps.output;
    EXPECT_NE(ps.output.find("[kthreadd]"), std::string::npos) << ps.output;
    // Other agents of this host may be in the queue before us.
    const std::string unknown = "which kernel the guest's CPUs run is not known (the ";
    const bool is_told = ps.output.find(unknown + "monitor does not answer") != std::string::npos ||
                         (ps.output.find(unknown + "QMP socket ") != std::string::npos &&
                          ps.output.find("it is busy with other clients") != std::string::npos);
    EXPECT_TRUE(is_told) << ps.output;
}

TEST_F(ManagersTest, a_wrong_mapping_file_is_told_with_its_place) {
    write_file(map_, "[[instance]]\nnam = \"x\"\n");
    const RunResult ran = run_program(cli({"ls", "--json", "--instances", map_}));
    EXPECT_EQ(ran.status, 0);
    EXPECT_NE(run_program(cli({"ls", "--instances", map_}))
                  .output.find("instances.toml:2:1: instance.nam: there is no such key"),
              std::string::npos);
    const RunResult doctor = run_program(cli({"doctor", "--instances", map_}));
    EXPECT_EQ(doctor.status, 1) << doctor.output;
    EXPECT_NE(doctor.output.find("instances.toml:2:1"), std::string::npos);
}

TEST_F(ManagersTest, another_user_is_told_what_is_missing_and_sees_nothing_as_clean) {
    const RunResult ran = run_program(cli({"ls", "--instances", map_}), kNobody);
    EXPECT_EQ(ran.status, 0);
    EXPECT_NE(ran.output.find("not introspectable: its executable may not be examined"),
              std::string::npos)
        << ran.output;
    EXPECT_EQ(ran.output.find("acme"), std::string::npos);
    const RunResult doctor = run_program(cli({"doctor", "--json"}), kNobody);
    EXPECT_EQ(doctor.status, 1) << doctor.output;
    const auto checks = json::Value::parse(doctor.output.substr(doctor.output.find("[\n")));
    ASSERT_TRUE(checks.has_value()) << doctor.output;
    const json::Value rights = checks->elements().value().front();
    EXPECT_EQ(text(rights, "check"), "rights");
    EXPECT_EQ(text(rights, "state"), "missing");
    EXPECT_NE(text(rights, "next"), "");
}

TEST_F(ManagersTest, the_doctor_finds_this_host_well) {
    const RunResult ran = run_program(cli({"doctor", "--json", "--instances", map_, "--policy",
                                           directory_ + "/none", "--state", directory_}));
    EXPECT_EQ(ran.status, 0) << ran.output;
    const auto checks = json::Value::parse(ran.output.substr(ran.output.find("[\n")));
    ASSERT_TRUE(checks.has_value()) << ran.output;
    std::map<std::string, std::string> states;
    const auto items = checks->elements().value();
    for (const json::Value& check : items) {
        states[text(check, "check")] = text(check, "state") + ": " + text(check, "found");
    }
    EXPECT_EQ(states["jail"], "ok: a worker put on every layer");
    EXPECT_TRUE(states["mapping file"].starts_with("ok: ")) << states["mapping file"];
    EXPECT_TRUE(states["policy"].starts_with("note: ")) << states["policy"];
    EXPECT_EQ(states["VM " + vm_->name()], "ok: can be looked into, its monitor was asked");
}

TEST_F(ManagersTest, the_agent_knows_owner_and_state_and_tells_of_a_vm_it_cannot_look_into) {
    TestAgent agent(
        fmt::format("[schedule]\nhidden_process = \"1s\"\ncpu_percent = 100\n"
                    "[instances]\nonly = [\"tenant:acme\"]\n"));
    agent.use_instances(map_);
    agent.start();
    agent.wait_until_watched(vm_->name());
    const auto status = *agent.instance(vm_->name());
    EXPECT_EQ(text(status, "vm_state"), "running");
    EXPECT_EQ(text(status.at("instance").value(), "tenant"), "acme");
    EXPECT_EQ(text(status.at("instance").value(), "app_instance_id"), "8a7e");
    const auto here = agent.logged(fmt::format("VM {} is here", vm_->name()));
    ASSERT_EQ(here.size(), 1u);
    EXPECT_EQ(text(here[0].at("unmapped").value(), "app_d_id"), "cache-2.1");
    // The owner changes: by policy it is nobody's to look into then.
    write_file(map_,
               fmt::format("[[instance]]\nname = \"{}\"\ntenant = \"police\"\n", vm_->name()));
    agent.signal(SIGHUP);
    agent.wait_until("it is excluded",
                     [&] { return text(*agent.instance(vm_->name()), "state") == "excluded"; });
    EXPECT_EQ(agent.logged("belongs to another tenant").size(), 1u);
    EXPECT_TRUE(agent.workers("introspector").empty());
}

// A believed VMM that says it is confidential: a shell at a trusted place in a mount namespace of
// its own, for there is no SEV or TDX to be had everywhere.
TEST(ManagersOnce, a_confidential_vm_is_listed_and_told_as_not_introspectable_and_never_as_clean) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: it makes a mount namespace";
    const std::string program = "/usr/local/bin/qemu-system-x86_64";
    auto vmm = jail::Child::fork([&] {
        std::error_code error;
        if (::unshare(CLONE_NEWNS) != 0 ||
            ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
            ::mount("none", "/usr/local/bin", "tmpfs", 0, nullptr) != 0) {
            return 1;
        }
        fs::copy_file("/bin/dash", program, error);
        ::execl(program.c_str(), program.c_str(), "-c", "kill -STOP $$; :", "-name", "secret-vm",
                "-machine", "q35,confidential-guest-support=sev0", nullptr);
        return 1;
    });
    ASSERT_TRUE(vmm.has_value());
    constexpr std::string_view kWhy = "a confidential VM: its memory is encrypted";
    std::optional<json::Value> vm;
    for (int i = 0; i < 50 && !vm; ++i) {
        std::this_thread::sleep_for(100ms);
        vm = listed(run_program(cli({"ls", "--json"})), "secret-vm");
    }
    ASSERT_TRUE(vm);
    EXPECT_EQ(text(*vm, "not_introspectable"), kWhy);
    EXPECT_EQ(text(*vm, "state"), "stopped by a signal");
    const RunResult ps = run_program(cli({"ps", "secret-vm", "--direct"}));
    EXPECT_EQ(ps.status, 6) << ps.output;
    EXPECT_NE(ps.output.find(kWhy), std::string::npos);

    TestAgent agent("[instances]\nonly = [\"name:secret-vm\"]\n");
    agent.start();
    agent.wait_until("it is known", [&] { return agent.instance("secret-vm").has_value(); });
    const auto status = *agent.instance("secret-vm");
    EXPECT_EQ(text(status, "why"), kWhy);
    EXPECT_EQ(text(status, "last_outcome"), "unavailable");
    EXPECT_NE(agent.cli({"status"}).output.find("not introspectable: " + std::string(kWhy)),
              std::string::npos);
    agent.wait_until("it is told", [&] {
        return !agent.logged("secret-vm is not looked at: " + std::string(kWhy)).empty();
    });
    EXPECT_TRUE(agent.workers("introspector").empty());
}

// ---- libvirt ----------------------------------------------------------------------------------

// A libvirtd of the test's own: everything that it reads and writes on this host lies in a mount
// namespace of its own, in which its questions are asked too.
class OwnLibvirt {
  public:
    // "" when it runs, else why it cannot.
    std::string start(const std::string& directory) {
        if (::geteuid() != 0) return "it needs root";
        for (const char* program : {"/usr/sbin/libvirtd", "/usr/bin/virsh"}) {
            if (!fs::exists(program)) return fmt::format("there is no {}", program);
        }
        directory_ = directory;
        daemon_.emplace(jail::Child::fork([&] {
                            if (!enter()) return 120;
                            const std::string log = directory_ + "/libvirtd.log";
                            const Fd out(::open(log.c_str(), O_CREAT | O_WRONLY, 0600));
                            ::dup2(out.get(), 1);
                            ::dup2(out.get(), 2);
                            ::execl("/usr/sbin/libvirtd", "libvirtd", "-f",
                                    "/etc/libvirt/libvirtd.conf", "-p",
                                    (directory_ + "/libvirtd.pid").c_str(), nullptr);
                            return 121;
                        }).value());
        for (int i = 0; i < 150; ++i) {
            if (virsh({"version"}).status == 0) return "";
            if (daemon_->wait(0ms).has_value()) {
                daemon_.reset();
                break;
            }
            std::this_thread::sleep_for(200ms);
        }
        return "libvirtd does not run here: " +
               read_file(directory_ + "/libvirtd.log", 1u << 20).value_or("").substr(0, 2000);
    }
    ~OwnLibvirt() {
        if (!daemon_) return;
        (void)virsh({"destroy", "edge-1"});
        ::kill(daemon_->pid(), SIGTERM);
        (void)daemon_->wait(10s);
    }

    RunResult run(std::vector<std::string> words) {
        words.insert(words.begin(),
                     {"/usr/bin/nsenter", fmt::format("--mount=/proc/{}/ns/mnt", daemon_->pid())});
        return run_program(words);
    }
    RunResult virsh(std::vector<std::string> words) {
        words.insert(words.begin(), {"/usr/bin/virsh", "-c", "qemu:///system"});
        return run(words);
    }

  private:
    bool enter() {
        if (::unshare(CLONE_NEWNS) != 0) return false;
        if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return false;
        std::error_code error;
        for (const char* path : {"/run", "/var/lib/libvirt", "/var/cache/libvirt",
                                 "/var/log/libvirt", "/etc/libvirt"}) {
            fs::create_directories(path, error);
            if (::mount("none", path, "tmpfs", 0, "mode=755") != 0) return false;
        }
        // The user that the driver wants to exist, whether or not it is used.
        for (const std::string file : {"passwd", "group"}) {
            const std::string own = directory_ + "/" + file;
            std::ofstream(own) << read_file("/etc/" + file, 1u << 20).value_or("")
                               << (file == "passwd"
                                       ? "libvirt-qemu:x:64055:64055::/nonexistent:/bin/false\n"
                                       : "libvirt-qemu:x:64055:\n");
            if (::mount(own.c_str(), ("/etc/" + file).c_str(), nullptr, MS_BIND, nullptr) != 0) {
                return false;
            }
        }
        fs::create_directories("/etc/libvirt/qemu", error);
        std::ofstream("/etc/libvirt/qemu.conf")
            << "security_driver = \"none\"\ncgroup_controllers = []\nstdio_handler = \"file\"\n"
               "namespaces = []\nremember_owner = 0\ndynamic_ownership = 0\n"
               "user = \"libvirt-qemu\"\ngroup = \"libvirt-qemu\"\n";
        std::ofstream("/etc/libvirt/libvirtd.conf")
            << "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n";
        return true;
    }

    std::string directory_;
    std::optional<jail::Child> daemon_;
};

TEST(LibvirtTest, a_domain_has_the_owner_and_state_that_libvirt_says_and_is_not_tainted) {
    const auto kernels = TestVm::kernels_at_hand();
    if (std::ranges::find(kernels, "6.1-cloud") == kernels.end()) {
        GTEST_SKIP() << "the kernel 6.1-cloud is not at hand; tools/guests/make.py makes it";
    }
    // Not below a directory that only root may enter: QEMU is libvirt-qemu's.
    std::string pattern = (fs::temp_directory_path() / "underseer-libvirt-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    ::chmod(pattern.c_str(), 0755);
    for (const char* file : {"vmlinuz", "initrd.gz"}) {
        fs::copy_file(TestVm::kernel_path("6.1-cloud") + "/" + file, pattern + "/" + file);
        ::chmod((pattern + "/" + file).c_str(), 0644);
    }
    {
        OwnLibvirt libvirt;
        if (const std::string why = libvirt.start(pattern); !why.empty()) {
            fs::remove_all(pattern);
            GTEST_SKIP() << "NOT TESTED: libvirt: " << why;
        }
        const std::string xml = write_file(
            pattern + "/domain.xml",
            fmt::format(
                "<domain type='qemu'><name>edge-1</name>"
                "<uuid>6f1a2b3c-0000-4000-8000-000000000001</uuid><metadata>"
                "<underseer:instance xmlns:underseer='https://underseer.example/ns/instance/1'"
                " tenant='acme' app_instance_id='8a7e5d3c' app_d_id='acme.cache-2.1'/></metadata>"
                "<memory unit='MiB'>256</memory><vcpu>1</vcpu><memoryBacking>"
                "<source type='memfd'/><access mode='shared'/></memoryBacking>"
                "<os><type arch='x86_64' machine='q35'>hvm</type><kernel>{0}/vmlinuz</kernel>"
                "<initrd>{0}/initrd.gz</initrd><cmdline>quiet underseer.idle</cmdline></os>"
                "<cpu mode='maximum'/><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>"
                "<memballoon model='none'/></devices></domain>",
                pattern));
        const RunResult created = libvirt.virsh({"create", xml});
        ASSERT_EQ(created.status, 0) << created.output;
        // Its RAM can be read: the guest comes up, and its kernel is named.
        RunResult info;
        for (int i = 0; i < 60 && (i == 0 || info.status != 0); ++i) {
            std::this_thread::sleep_for(500ms);
            info = libvirt.run(cli({"info", "edge-1", "--direct"}));
        }
        EXPECT_NE(info.output.find(TestVm::release_of("6.1-cloud")), std::string::npos)
            << info.output;
        const auto ls = [&] { return listed(libvirt.run(cli({"ls", "--json"})), "edge-1"); };
        auto vm = ls();
        ASSERT_TRUE(vm);
        EXPECT_EQ(text(*vm, "uuid"), "6f1a2b3c-0000-4000-8000-000000000001");
        EXPECT_EQ(text(*vm, "managed_by"), "libvirt");
        EXPECT_EQ(text(*vm, "libvirt_name"), "edge-1");
        EXPECT_EQ(text(*vm, "state"), "running");
        EXPECT_EQ(text(*vm, "ram"), "shared memfd");
        EXPECT_EQ(text(*vm, "tenant"), "acme");
        EXPECT_EQ(text(*vm, "app_instance_id"), "8a7e5d3c");
        EXPECT_EQ(text(*vm, "app_d_id"), "acme.cache-2.1");
        ASSERT_EQ(libvirt.virsh({"suspend", "edge-1"}).status, 0);
        vm = ls();
        ASSERT_TRUE(vm);
        EXPECT_EQ(text(*vm, "state"), "paused");
        // An agent has it go on and stand still again, by way of libvirt.
        const RunResult acted = libvirt.run(
            {"/bin/sh", "-c",
             fmt::format(
                 "{0} --state /run/u/state --run /run/u 2> /run/u.log & agent=$!; "
                 "for i in $(seq 100); do {1} act edge-1 resume --run /run/u 2> /dev/null && "
                 "break; sleep 0.2; done; {1} act edge-1 pause --dry-run --run /run/u; "
                 "{1} act edge-1 pause --run /run/u; "
                 "{1} act edge-1 isolate --run /run/u 2>&1 | tail -1; "
                 "kill $agent; wait $agent; cat /run/u.log >&2",
                 program_path("underseerd"), program_path("underseer"))});
        EXPECT_NE(acted.output.find("edge-1: resumed\nedge-1: would be paused: it is running\n"
                                    "edge-1: paused\n"),
                  std::string::npos)
            << acted.output;
        EXPECT_NE(acted.output.find("virsh domif-setlink"), std::string::npos) << acted.output;
        EXPECT_EQ(text(*ls(), "state"), "paused");
        const RunResult domain = libvirt.virsh({"dominfo", "--domain", "edge-1"});
        EXPECT_EQ(domain.output.find("Messages"), std::string::npos) << domain.output;
        const RunResult log = libvirt.run({"/bin/cat", "/var/log/libvirt/qemu/edge-1.log"});
        EXPECT_EQ(log.status, 0);
        EXPECT_EQ(log.output.find("tainted"), std::string::npos) << log.output;
        // The test would see a taint: this is what makes one.
        EXPECT_EQ(
            libvirt.virsh({"qemu-monitor-command", "edge-1", R"({"execute": "query-status"})"})
                .status,
            0);
        const RunResult after = libvirt.run({"/bin/cat", "/var/log/libvirt/qemu/edge-1.log"});
        EXPECT_NE(after.output.find("tainted: custom-monitor"), std::string::npos);
    }
    fs::remove_all(pattern);
}

}  // namespace
}  // namespace underseer::testing
