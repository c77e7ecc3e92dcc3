#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

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
    Sleeper(const std::string& executable, const std::string& claimed_name) {
        pid_ = ::fork();
        if (pid_ == 0) {
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
