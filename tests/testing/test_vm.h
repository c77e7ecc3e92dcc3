// TestVm: a real Linux guest in QEMU (TCG), with a line to a shell inside.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/os.h"
#include "jail/jail.h"
#include "json/value.h"

namespace underseer::testing {

enum class Ram : std::uint8_t { memfd, anonymous, file, hugetlbfs };

struct VmSpec {
    std::string kernel = "6.1-cloud";  // a name of tools/guests/make.py
    unsigned memory_mib = 512;
    unsigned vcpus = 1;
    // All CPUs by one thread of QEMU. Up to 8.0, with a thread for each, one can go on running code
    // that another has replaced: of a breakpoint that is gone from memory it never gets out, and a
    // kernel that patches itself (tracers, probes) stands still some day.
    bool one_thread = false;
    std::string append;  // kernel command line
    Ram ram = Ram::memfd;
    std::string ram_directory;  // of hugetlbfs: where it is mounted
    std::string machine = "q35";
    std::string cpu = "max";
    unsigned numa_nodes = 1;
    std::string mac;  // of a network card, with nothing at its other end; none if empty
    std::string uuid;
    bool workload = true;  // the processes of tests/testing/guest/workload.c
    // Debian's programs, on a disk (tools/guests/make.py), and /bin/load
    // (tests/testing/guest/load.sh).
    bool disk = false;
    bool wait = true;      // until the guest answers, not just the VMM
    std::string kexec;     // another kernel, laid into the guest for TestVm::kexec()
    std::string incoming;  // a file of TestVm::save_to() to go on from
};

struct RunResult {
    int status = 0;
    std::string output;
};

class TestVm {
  public:
    // Code::unavailable when the kernel is not at hand (tools/guests/make.py makes it).
    static Result<TestVm> boot(const VmSpec& spec);
    static std::vector<std::string> kernels_at_hand();
    static std::string disk_path();                             // of VmSpec::disk
    static std::string kernel_path(const std::string& kernel);  // of vmlinuz and initrd.gz
    static std::string release_of(const std::string& kernel);   // "6.1.0-44-cloud-amd64"

    TestVm(TestVm&&) = default;
    TestVm& operator=(TestVm&&) = default;
    ~TestVm();

    // Runs a shell command in the guest.
    Result<RunResult> run(const std::string& command);
    // The output of a command that must succeed; CHECKs that it did.
    std::string output_of(const std::string& command);

    Result<json::Value> qmp(const std::string& command, const std::string& arguments = "{}");
    // The monitor serves one client at a time: these leave it to others.
    void pause() { CHECK(qmp("stop").has_value()), monitor_ = {}; }
    void resume() { CHECK(qmp("cont").has_value()), monitor_ = {}; }
    std::string state();  // "running", "paused", ..
    // As pressing the button does. The guest is not up again when this returns, nor after kexec().
    void reset();
    // The guest starts spec.kexec by itself, without firmware.
    void kexec();
    Result<void> wait_until_ready();
    // That kexec() has left the old kernel, and the new one is only about to be unpacked.
    Result<void> wait_until_between_kernels();
    // Writes the state of the whole machine into a file; the VM stands still afterwards.
    Result<void> save_to(const std::string& path);
    // Ends the VMM, as pulling the plug does.
    void power_off() { qemu_.kill(), (void)qemu_.wait(std::chrono::seconds(10)); }
    // QEMU's dump-guest-memory: "elf", ..
    Result<void> dump_to(const std::string& path, const std::string& format);

    const std::string& name() const { return name_; }
    pid_t pid() const { return qemu_.pid(); }
    const std::string& release() const { return release_; }

  private:
    TestVm(std::string name, std::string directory, jail::Child qemu)
        : name_(std::move(name)), directory_(std::move(directory)), qemu_(std::move(qemu)) {}
    static Result<TestVm> boot_once(const VmSpec& spec);
    Result<void> wait_until_restored();
    Result<std::string> read_line(int fd);
    Result<std::string> read_bytes(int fd, std::size_t count);

    std::string name_, directory_, release_;
    jail::Child qemu_;
    Fd shell_, monitor_;
    std::string buffered_;  // of the shell's line
};

}  // namespace underseer::testing
