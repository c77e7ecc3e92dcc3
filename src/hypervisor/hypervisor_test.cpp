#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>

#include "hypervisor/command_line.h"
#include "hypervisor/discover.h"
#include "hypervisor/ram.h"

namespace underseer::hypervisor {
namespace {

constexpr std::uint64_t kGiB = 1u << 30;

Vm parsed(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "qemu-system-x86_64");
    Vm vm;
    apply_command_line(arguments, vm);
    return vm;
}

TEST(CommandLine, a_libvirt_domain_is_understood) {
    const Vm vm = parsed({"-name", "guest=edge-1,debug-threads=on", "-S", "-object",
                          "{\"qom-type\":\"secret\"}", "-machine",
                          "pc-q35-7.2,usb=off,memory-backend=pc.ram", "-accel", "kvm", "-m", "4096",
                          "-object", "memory-backend-memfd,id=pc.ram,size=4294967296,share=on",
                          "-uuid", "6f1a2b3c-0000-4000-8000-000000000001", "-chardev",
                          "socket,id=charmonitor,path=/var/lib/libvirt/qemu/d-1/monitor.sock",
                          "-mon", "chardev=charmonitor,id=monitor,mode=control"});
    EXPECT_EQ(vm.name, "edge-1");
    EXPECT_EQ(vm.machine, "q35");
    EXPECT_EQ(vm.accelerator, "kvm");
    EXPECT_EQ(vm.memory_bytes, 4 * kGiB);
    ASSERT_EQ(vm.ram_blocks.size(), 1u);
    EXPECT_TRUE(vm.ram_blocks[0].shared);
    EXPECT_EQ(vm.qmp_socket, "/var/lib/libvirt/qemu/d-1/monitor.sock");
}

TEST(CommandLine, numa_nodes_order_the_blocks) {
    const Vm vm = parsed({"-m", "1G", "-object", "memory-backend-ram,id=b,size=768M", "-object",
                          "memory-backend-ram,id=a,size=256M", "-numa", "node,memdev=a", "-numa",
                          "node,memdev=b"});
    ASSERT_EQ(vm.ram_blocks.size(), 2u);
    EXPECT_EQ(vm.ram_blocks[0].id, "a");
    EXPECT_EQ(vm.ram_blocks[1].size_bytes, 768u << 20);
}

TEST(CommandLine, objects_may_be_json) {
    const Vm vm = parsed(
        {"-machine", "pc-q35-7.2,memory-backend=pc.ram", "-m", "256", "-object",
         R"({"qom-type":"memory-backend-memfd","id":"pc.ram","share":true,"size":268435456})"});
    ASSERT_EQ(vm.ram_blocks.size(), 1u);
    EXPECT_EQ(vm.ram_blocks[0], (RamBlock{"pc.ram", 256u << 20, true, ""}));
    const Vm file = parsed({"-machine", "q35,memory-backend=r", "-object",
                            R"({"qom-type":"memory-backend-file","id":"r","size":1048576,)"
                            R"("mem-path":"/dev/hugepages/x","share":false})"});
    EXPECT_EQ(file.ram_blocks[0], (RamBlock{"r", 1u << 20, false, "/dev/hugepages/x"}));
    EXPECT_EQ(parsed({"-object", "{\"qom-type\": [", "-m", "16"}).memory_bytes, 16u << 20);
}

TEST(CommandLine, the_first_disk_is_its_image) {
    const auto image = [](std::vector<std::string> words) {
        words.insert(words.begin(), "qemu-system-x86_64");
        Vm vm;
        apply_command_line(words, vm);
        return vm.image;
    };
    EXPECT_EQ(image({"-m", "512"}), "");
    EXPECT_EQ(image({"-drive", "if=pflash,format=raw,file=/usr/share/OVMF.fd", "-drive",
                     "file=/srv/cd.iso,media=cdrom", "-drive", "file=/srv/a.qcow2,if=virtio",
                     "-drive", "file=/srv/b.qcow2,if=virtio"}),
              "/srv/a.qcow2");
    EXPECT_EQ(
        image({"-blockdev",
               R"({"driver":"file","filename":"/v/code.fd","node-name":"libvirt-pflash0-storage"})",
               "-blockdev",
               R"({"driver":"file","filename":"/v/web.qcow2","node-name":"libvirt-1-storage"})",
               "-blockdev",
               R"({"driver":"qcow2","file":"libvirt-1-storage","node-name":"libvirt-1-format"})"}),
        "/v/web.qcow2");
    EXPECT_EQ(image({"-blockdev", "driver=qcow2,node-name=d,file.driver=file,file.filename=/v/x"}),
              "/v/x");
    EXPECT_EQ(image({"-hda", "/v/y"}), "/v/y");
}

TEST(CommandLine, confidential_guests_are_not_introspectable) {
    EXPECT_FALSE(
        parsed({"-machine", "q35,confidential-guest-support=sev0"}).not_introspectable.empty());
}

TEST(CommandLine, sizes_and_nonsense) {
    EXPECT_EQ(parse_memory_size("512", 1 << 20).value(), 512u << 20);
    EXPECT_EQ(parse_memory_size("2G", 1).value(), 2 * kGiB);
    EXPECT_FALSE(parse_memory_size("", 1).has_value());
    EXPECT_FALSE(parse_memory_size("x", 1).has_value());
    EXPECT_FALSE(parse_memory_size("99999999999999999T", 1).has_value());
    EXPECT_EQ(parsed({"-m"}).memory_bytes, 128u << 20);
    EXPECT_EQ(parsed({"-name", ",,,=,"}).pid, -1);
}

std::uint64_t ram_address(std::string_view maps, const Vm& vm) {
    const auto slices = private_layout(maps, vm);
    return slices.has_value() ? slices->front().offset : 0;
}

TEST(Ram, the_pci_hole_is_where_the_machine_type_puts_it) {
    Vm vm;
    vm.machine = "q35";
    EXPECT_EQ(ram_below_4g(vm, 2 * kGiB), 2 * kGiB);
    EXPECT_EQ(ram_below_4g(vm, 5 * kGiB), 2 * kGiB);
    vm.machine = "pc";
    EXPECT_EQ(ram_below_4g(vm, 3 * kGiB), 3 * kGiB);
    EXPECT_EQ(ram_below_4g(vm, 5 * kGiB), 3 * kGiB);
    vm.max_ram_below_4g = kGiB;
    EXPECT_EQ(ram_below_4g(vm, 5 * kGiB), kGiB);
}

TEST(Ram, split_private_memory_is_one_block) {
    Vm vm = parsed({"-m", "16"});
    const std::string maps =
        "7f0000000000-7f0000800000 rw-p 00000000 00:00 0 \n"
        "7f0000800000-7f0001000000 rw-p 00000000 00:00 0 \n"
        "7f0001000000-7f0001001000 ---p 00000000 00:00 0 \n";
    EXPECT_EQ(backing_of(maps, vm), RamBacking::anonymous);
    EXPECT_EQ(backing_of("garbage\n\n-", vm), RamBacking::unknown);
}

TEST(Ram, huge_pages_are_told_by_the_file_system_they_lie_on) {
    const Vm vm = parsed({"-machine", "q35,memory-backend=r", "-m", "16", "-object",
                          "memory-backend-file,id=r,size=16M,share=on,mem-path=/anywhere"});
    const std::string maps =
        "7f0000000000-7f0001000000 rw-s 00000000 00:1f 77 /anywhere/qemu_back_mem.r (deleted)\n";
    EXPECT_EQ(backing_of(maps, vm,
                         "28 1 0:30 / / rw - ext4 /dev/vda rw\n"
                         "29 28 0:31 / /anywhere rw,relatime shared:9 - hugetlbfs none rw\n"),
              RamBacking::hugetlbfs);
    EXPECT_EQ(backing_of(maps, vm, "29 28 0:31 / /anywhere rw - tmpfs none rw\n"),
              RamBacking::shared_file);
    EXPECT_EQ(backing_of(maps, vm, "29 28 0:32 / /dev/hugepages rw - hugetlbfs none rw\n"),
              RamBacking::shared_file);
}

TEST(Ram, a_block_keeps_its_place_beside_other_private_memory) {
    Vm vm = parsed({"-m", "16"});
    const std::string maps =
        "7f00007ff000-7f0000800000 rw-p 00000000 00:00 0 \n"
        "7f0000800000-7f0001800000 rw-p 00000000 00:00 0 \n";
    EXPECT_EQ(ram_address(maps, vm), 0x7f0000800000u);
    const std::string merged = "7f00007ff000-7f0001801000 rw-p 00000000 00:00 0 \n";
    EXPECT_EQ(ram_address(merged, vm), 0x7f0000800000u);
}

// A process that sleeps until it is killed, under whatever name.
class Sleeper {
  public:
    // `before`: what the process does to itself first; false ends it.
    Sleeper(
        const std::string& executable, const std::string& claimed_name,
        const std::function<bool()>& before = [] { return true; }) {
        pid_ = ::fork();
        if (pid_ == 0) {
            if (!before()) ::_exit(1);
            ::execl(executable.c_str(), claimed_name.c_str(), "1000", nullptr);
            ::_exit(1);
        }
        // exec has happened when the command line is the new one.
        for (int i = 0; i < 1000; ++i) {
            std::ifstream file("/proc/" + std::to_string(pid_) + "/cmdline");
            std::string text;
            std::getline(file, text, '\0');
            if (text == claimed_name) break;
            ::usleep(1000);
        }
    }
    ~Sleeper() {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    pid_t pid() const { return pid_; }

  private:
    pid_t pid_ = -1;
};

std::string why_not_believed(pid_t pid) {
    const Host host = discover().value();
    for (const Vm& vm : host.vms) {
        if (vm.pid == pid) return "believed";
    }
    for (const Impostor& impostor : host.impostors) {
        if (impostor.pid == pid) return impostor.why;
    }
    return "not seen";
}

TEST(Discover, a_process_that_only_calls_itself_qemu_is_not_believed) {
    const Sleeper sleeper("/bin/sleep", "/usr/bin/qemu-system-x86_64");
    EXPECT_NE(why_not_believed(sleeper.pid()).find("but runs"), std::string::npos);
}

TEST(Discover, a_copied_binary_with_the_right_name_is_not_believed) {
    const auto directory = std::filesystem::temp_directory_path() / "underseer_fake_vmm";
    std::filesystem::create_directories(directory);
    const auto copy = directory / "qemu-system-x86_64";
    std::filesystem::copy_file("/bin/sleep", copy,
                               std::filesystem::copy_options::overwrite_existing);
    {
        const Sleeper sleeper(copy, copy);
        EXPECT_NE(why_not_believed(sleeper.pid()).find("no system directory"), std::string::npos);
    }
    std::filesystem::remove_all(directory);
}

// A root-owned place among the trusted directories, in a mount namespace of the process's own.
bool install_in_own_namespace(uid_t owner, mode_t mode) {
    namespace fs = std::filesystem;
    if (::unshare(CLONE_NEWNS) != 0) return false;
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return false;
    if (::mount("none", "/usr/local/bin", "tmpfs", 0, nullptr) != 0) return false;
    const fs::path path = "/usr/local/bin/qemu-system-x86_64";
    std::error_code error;
    fs::copy_file("/bin/sleep", path, error);
    return !error && ::chown(path.c_str(), owner, owner) == 0 && ::chmod(path.c_str(), mode) == 0;
}

TEST(Discover, an_executable_that_others_may_write_is_not_believed) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: it makes a mount namespace";
    const std::string path = "/usr/local/bin/qemu-system-x86_64";
    {
        const Sleeper owned(path, path, [] { return install_in_own_namespace(65534, 0755); });
        EXPECT_NE(why_not_believed(owned.pid()).find("written by others"), std::string::npos)
            << why_not_believed(owned.pid());
    }
    {
        const Sleeper writable(path, path, [] { return install_in_own_namespace(0, 0775); });
        EXPECT_NE(why_not_believed(writable.pid()).find("written by others"), std::string::npos);
    }
    // The same at the same place with the right owner and mode is: the test tests what it says.
    const Sleeper right(path, path, [] { return install_in_own_namespace(0, 0755); });
    EXPECT_EQ(why_not_believed(right.pid()), "believed");
}

TEST(Discover, a_thread_name_is_no_vmm) {
    const Sleeper sleeper("/bin/sleep", "sleep");
    std::ofstream("/proc/" + std::to_string(sleeper.pid()) + "/comm") << "qemu-system-x86";
    EXPECT_EQ(why_not_believed(sleeper.pid()), "not seen");
}

TEST(Discover, what_may_not_be_examined_is_listed_and_not_believed) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: another user looks";
    const Sleeper sleeper("/bin/sleep", "/usr/bin/qemu-system-x86_64");
    const pid_t looker = ::fork();
    if (looker == 0) {
        if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(2);
        const Host host = discover().value();
        const auto found = std::ranges::find(host.vms, sleeper.pid(), &Vm::pid);
        ::_exit(found != host.vms.end() && found->executable.empty() &&
                        found->not_introspectable.find("run as root") != std::string::npos
                    ? 0
                    : 1);
    }
    int status = 0;
    ::waitpid(looker, &status, 0);
    EXPECT_EQ(status, 0);
}

TEST(Discover, libvirts_pids_are_taken_from_roots_directory_alone) {
    namespace fs = std::filesystem;
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: it makes a mount namespace";
    const std::string path = "/usr/local/bin/qemu-system-x86_64";
    const Sleeper vmm(path, path, [] { return install_in_own_namespace(0, 0755); });
    const fs::path run = fs::temp_directory_path() / "underseer_libvirt_run";
    fs::create_directories(run);
    std::ofstream(run / "edge-1.pid") << vmm.pid();
    const auto name_of = [&] {
        const Host host = discover("/proc", run).value();
        const auto found = std::ranges::find(host.vms, vmm.pid(), &Vm::pid);
        return found == host.vms.end() ? "not seen" : found->managed_by + " " + found->libvirt_name;
    };
    EXPECT_EQ(name_of(), "libvirt edge-1");
    ::chmod(run.c_str(), 0777);
    EXPECT_EQ(name_of(), "by hand ");
    fs::remove_all(run);
}

TEST(Access, a_denial_names_its_reason_and_what_helps) {
    const Access root{.capable = true}, user{}, owner{.same_user = true};
    EXPECT_NE(explain_denial(EACCES, user).find("needs root"), std::string::npos);
    Access confined = root, strict = root, owner_yama = owner;
    confined.confinement = "underseerd (enforce)";
    EXPECT_NE(explain_denial(EACCES, confined).find("'underseerd (enforce)'"), std::string::npos);
    strict.yama_scope = 3;
    EXPECT_NE(explain_denial(EPERM, strict).find("ptrace_scope is 3"), std::string::npos);
    owner_yama.yama_scope = 1;
    EXPECT_NE(explain_denial(EPERM, owner_yama).find("ptrace_scope is 1"), std::string::npos);
    EXPECT_NE(explain_denial(EPERM, root).find("security module"), std::string::npos);
    EXPECT_NE(explain_denial(EIO, root).find("Input/output error"), std::string::npos);
}

TEST(Access, is_read_from_the_host) {
    namespace fs = std::filesystem;
    const fs::path proc = fs::temp_directory_path() / "underseer_fake_proc";
    fs::create_directories(proc / "self/attr");
    fs::create_directories(proc / "sys/kernel/yama");
    fs::create_directories(proc / "7/fd");
    std::ofstream(proc / "self/status") << "Name:\tx\nCapEff:\t0000000000080000\n";
    std::ofstream(proc / "sys/kernel/yama/ptrace_scope") << "2\n";
    std::ofstream(proc / "self/attr/current") << "system_u:system_r:underseerd_t:s0\n";
    const Access access = access_to(12345, proc);
    EXPECT_TRUE(access.capable);
    EXPECT_FALSE(access.same_user);
    EXPECT_EQ(access.yama_scope, 2);
    EXPECT_EQ(access.confinement, "system_u:system_r:underseerd_t:s0");
    std::ofstream(proc / "self/status") << "Name:\tx\nCapEff:\t0000000000000000\n";
    std::ofstream(proc / "self/attr/current") << "unconfined\n";
    EXPECT_FALSE(access_to(12345, proc).capable);
    EXPECT_EQ(access_to(12345, proc).confinement, "");
    fs::create_symlink("/memfd:kvm-gmem", proc / "7/fd/3");  // anyone may call a memfd so
    EXPECT_FALSE(holds_guest_memfd(proc / "7"));
    fs::create_symlink("anon_inode:[kvm-gmem]", proc / "7/fd/4");
    EXPECT_TRUE(holds_guest_memfd(proc / "7"));
    fs::remove_all(proc);
}

Vm vm_of_1_gib() {
    Vm vm = parsed({"-m", "1G", "-machine", "q35,memory-backend=ram", "-object",
                    "memory-backend-ram,id=ram,size=1G", "-uuid",
                    "6f1a2b3c-0000-4000-8000-000000000001"});
    vm.executable = "/usr/bin/qemu-system-x86_64";
    vm.managed_by = "by hand";
    return vm;
}

TEST(ManagerFacts, are_believed_against_the_command_line_and_contradictions_are_noted) {
    Vm vm = vm_of_1_gib();
    apply_facts({.source = "QMP",
                 .name = "edge",
                 .uuid = "6f1a2b3c-0000-4000-8000-000000000002",
                 .state = "paused",
                 .machine = "pc-i440fx-7.2-machine",
                 .kvm = true,
                 .memory_bytes = 2 * kGiB,
                 .plugged_bytes = kGiB,
                 .backends = {{"ram", 2 * kGiB, true, ""}}},
                vm);
    EXPECT_EQ(vm.state, "paused");
    EXPECT_EQ(vm.name, "edge");
    EXPECT_EQ(vm.uuid, "6f1a2b3c-0000-4000-8000-000000000001");
    EXPECT_EQ(vm.accelerator, "kvm");
    EXPECT_EQ(vm.machine, "pc");
    EXPECT_EQ(vm.memory_bytes, 2 * kGiB);
    EXPECT_EQ(vm.ram_blocks[0].size_bytes, 2 * kGiB);
    EXPECT_TRUE(vm.ram_blocks[0].shared);
    EXPECT_EQ(vm.notes.size(), 4u);  // UUID, size, backend, plugged
    EXPECT_EQ(vm.identity, Identity{});
}

TEST(ManagerFacts, agreement_notes_nothing_and_confidential_vms_are_not_introspectable) {
    Vm vm = vm_of_1_gib();
    ManagerFacts facts{.source = "QMP",
                       .uuid = vm.uuid,
                       .state = "running",
                       .machine = "pc-q35-7.2",
                       .memory_bytes = kGiB,
                       .backends = {{"ram", kGiB, false, ""}}};
    apply_facts(facts, vm);
    EXPECT_TRUE(vm.notes.empty());
    EXPECT_EQ(vm.not_introspectable, "");
    facts.confidential = "a confidential VM (sev0): its memory is encrypted";
    apply_facts(facts, vm);
    EXPECT_EQ(vm.not_introspectable, facts.confidential);
}

TEST(ManagerFacts, a_domain_is_the_vmm_that_libvirt_started_and_no_other_of_its_uuid) {
    Vm vm = vm_of_1_gib();
    const ManagerFacts facts{.source = "libvirt",
                             .name = "edge-1",
                             .uuid = vm.uuid,
                             .identity = {"acme", "app-1", "cache"}};
    EXPECT_FALSE(is_domain(facts, vm));  // a user's own QEMU with that UUID
    vm.libvirt_name = "other";
    EXPECT_FALSE(is_domain(facts, vm));
    vm.libvirt_name = "edge-1";
    EXPECT_TRUE(is_domain(facts, vm));
    vm.libvirt_name.clear();
    vm.in_libvirt_cgroup = true;
    EXPECT_TRUE(is_domain(facts, vm));
    apply_facts(facts, vm);
    EXPECT_EQ(vm.identity.tenant, "acme");
    EXPECT_EQ(vm.libvirt_name, "edge-1");
}

TEST(ManagerFacts, a_monitor_is_asked_only_by_hand_and_only_when_there_is_ram) {
    Vm vm = vm_of_1_gib();
    vm.qmp_socket = "/run/vm/qmp";
    EXPECT_FALSE(has_monitor(vm));  // it may wait for its first client before it starts
    vm.backing = RamBacking::anonymous;
    EXPECT_TRUE(has_monitor(vm));
    vm.managed_by = "libvirt";
    EXPECT_FALSE(has_monitor(vm));
    EXPECT_EQ(parsed({"-chardev", "socket,id=charmonitor,fd=31,server=on,wait=off", "-mon",
                      "chardev=charmonitor,id=monitor,mode=control"})
                  .managed_by,
              "libvirt");
}

TEST(Select, says_what_there_is) {
    Host host;
    host.vms.resize(2);
    host.vms[0].name = host.vms[1].name = "twin";
    host.vms[0].pid = 10;
    host.vms[1].pid = 11;
    EXPECT_EQ(select(host, "twin").error().code, Code::ambiguous);
    EXPECT_EQ(select(host, "11").value().pid, 11);
    const auto none = select(host, "other");
    EXPECT_EQ(none.error().code, Code::not_found);
    EXPECT_NE(none.error().message.find("twin"), std::string::npos);
}

}  // namespace
}  // namespace underseer::hypervisor
