#include "testing/test_vm.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <thread>

namespace underseer::testing {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
constexpr auto kBootTime = std::chrono::seconds(120), kAnswerTime = std::chrono::seconds(60);

fs::path cache_directory() {
    if (const char* set = std::getenv("UNDERSEER_CACHE")) return set;
    if (const char* set = std::getenv("XDG_CACHE_HOME")) return fs::path(set) / "underseer";
    const char* home = std::getenv("HOME");
    return fs::path(home ? home : "/root") / ".cache/underseer";
}

fs::path kernel_directory(const std::string& kernel) {
    return cache_directory() / "kernels" / kernel;
}

fs::path disk_image() {
    return cache_directory() / "disks/disk.ext4";
}

// Waits until the socket is there and takes a connection.
Result<Fd> connect_to(const std::string& path, Clock::time_point deadline) {
    for (;;) {
        Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path.copy(address.sun_path, sizeof address.sun_path - 1);
        if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) {
            return fd;
        }
        if (Clock::now() > deadline) return fail(os_error(fmt::format("connecting to {}", path)));
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
}

// An entry of a "newc" archive (Documentation/driver-api/early-userspace/buffer-format.rst).
std::string archive_entry(const std::string& name, unsigned mode, const std::string& bytes) {
    std::string entry = fmt::format(
        "070701{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}", 0,
        mode, 0, 0, 1, 0, bytes.size(), 0, 0, 0, 0, name.size() + 1, 0);
    entry += name + '\0';
    entry.resize((entry.size() + 3) / 4 * 4);
    entry += bytes;
    entry.resize((entry.size() + 3) / 4 * 4);
    return entry;
}

// The initial RAM disk; with another kernel and its RAM disk in /kexec if one is asked for, and
// with what goes on from the disk.
Result<fs::path> initrd_for(const VmSpec& spec, const std::string& directory) {
    constexpr std::size_t kMaxFileBytes = 256u << 20;
    fs::path initrd = kernel_directory(spec.kernel) / "initrd.gz";
    if (spec.kexec.empty() && !spec.disk) return initrd;
    std::string all = TRY(read_file(initrd, kMaxFileBytes));
    all.resize((all.size() + 3) / 4 * 4);
    if (!spec.kexec.empty()) {
        const fs::path other = kernel_directory(spec.kexec);
        all += archive_entry("kexec", 0040755, {});
        for (const char* file : {"vmlinuz", "initrd.gz"}) {
            all += archive_entry(fmt::format("kexec/{}", file), 0100644,
                                 TRY(read_file(other / file, kMaxFileBytes)));
        }
        all += archive_entry("TRAILER!!!", 0, {});
    }
    if (spec.disk) all += TRY(read_file(kernel_directory(spec.kernel) / "disk.gz", kMaxFileBytes));
    fs::path joined = directory + "/initrd";
    const Fd out = TRY(open_file(joined, O_CREAT | O_WRONLY, 0600));
    TRY(write_all(out.get(), as_bytes(all)));
    return joined;
}

std::vector<std::string> command_line(const VmSpec& spec, const std::string& name,
                                      const std::string& directory, const fs::path& kernel,
                                      const fs::path& initrd) {
    // With ACPI, its kernel gets no interrupt of a timer on a busy host (QEMU 7.2), and waits for
    // the first tick for ever, before its first word.
    const bool one_port = spec.machine == "microvm";
    std::string machine = one_port ? "microvm,acpi=off" : spec.machine;
    std::vector<std::string> words{"/usr/bin/qemu-system-x86_64",
                                   "-name",
                                   name,
                                   "-accel",
                                   spec.one_thread ? "tcg,thread=single" : "tcg",
                                   "-cpu",
                                   spec.cpu,
                                   "-smp",
                                   std::to_string(spec.vcpus),
                                   "-m",
                                   std::to_string(spec.memory_mib),
                                   "-display",
                                   "none",
                                   "-nodefaults",
                                   "-no-user-config",
                                   "-nic",
                                   "none"};
    const auto backend = [&](const std::string& id, unsigned mib) {
        const char* kind = spec.ram == Ram::memfd       ? "memory-backend-memfd,share=on"
                           : spec.ram == Ram::anonymous ? "memory-backend-ram"
                                                        : "memory-backend-file,share=on";
        std::string text = fmt::format("{},id={},size={}M", kind, id, mib);
        if (spec.ram == Ram::file) text += fmt::format(",mem-path={}/{}", directory, id);
        if (spec.ram == Ram::hugetlbfs) text += ",prealloc=on,mem-path=" + spec.ram_directory;
        words.insert(words.end(), {"-object", text});
    };
    if (spec.numa_nodes > 1) {
        for (unsigned node = 0; node < spec.numa_nodes; ++node) {
            backend(fmt::format("node{}", node), spec.memory_mib / spec.numa_nodes);
            words.insert(words.end(), {"-numa", fmt::format("node,memdev=node{}", node)});
        }
    } else {
        backend("ram", spec.memory_mib);
        machine += ",memory-backend=ram";
    }
    if (!spec.mac.empty()) {
        words.insert(words.end(), {"-netdev", "hubport,id=net,hubid=0", "-device",
                                   "virtio-net-pci,netdev=net,mac=" + spec.mac});
    }
    // microvm has one serial port: the shell takes it, and there is no console.
    // noirqdebug: where interrupts are threaded (RT), QEMU's serial port raises more of them than
    // its driver finds work for, and after megabytes over it the kernel would turn it off.
    const std::string append = fmt::format(
        "{} quiet panic=-1 noirqdebug {} {} {}", one_port ? "underseer.tty=ttyS0" : "console=ttyS0",
        spec.workload ? "" : "underseer.idle", spec.disk ? "rdinit=/disk_init" : "", spec.append);
    if (!spec.uuid.empty()) words.insert(words.end(), {"-uuid", spec.uuid});
    words.insert(words.end(), {"-machine", machine, "-kernel", kernel / "vmlinuz", "-initrd",
                               initrd, "-append", append});
    if (spec.disk) {
        words.insert(words.end(), {"-drive", fmt::format("file={},format=raw,if=virtio,snapshot=on",
                                                         disk_image().native())});
    }
    if (!spec.incoming.empty()) {
        words.insert(words.end(), {"-incoming", fmt::format("exec:cat {}", spec.incoming)});
    }
    if (!one_port) {
        words.insert(words.end(), {"-serial", fmt::format("file:{}/console", directory)});
    }
    words.insert(
        words.end(),
        {"-chardev", fmt::format("socket,id=shell,path={}/shell,server=on,wait=off", directory),
         "-serial", "chardev:shell", "-qmp",
         fmt::format("unix:{}/qmp,server=on,wait=off", directory)});
    return words;
}

}  // namespace

std::vector<std::string> TestVm::kernels_at_hand() {
    std::vector<std::string> names;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(cache_directory() / "kernels", error)) {
        if (fs::exists(entry.path() / "initrd.gz")) names.push_back(entry.path().filename());
    }
    std::ranges::sort(names);
    return names;
}

std::string TestVm::disk_path() {
    return disk_image().native();
}

std::string TestVm::kernel_path(const std::string& kernel) {
    return kernel_directory(kernel);
}

std::string TestVm::release_of(const std::string& kernel) {
    std::string release = read_file(kernel_directory(kernel) / "release", 4096).value_or("");
    while (release.ends_with('\n')) release.pop_back();
    return release;
}

Result<TestVm> TestVm::boot(const VmSpec& spec) {
    auto booted = boot_once(spec);
    // On a busy host an emulated machine loses the first tick of a timer now and then, and its
    // kernel waits for it for ever; that is nothing of what is tested.
    if (booted.has_value() || booted.error().code != Code::os) return booted;
    fmt::print(stderr, "{}\nIt is booted once more.\n", booted.error().to_text());
    return boot_once(spec);
}

Result<TestVm> TestVm::boot_once(const VmSpec& spec) {
    const fs::path kernel = kernel_directory(spec.kernel);
    if (!fs::exists(kernel / "initrd.gz")) {
        return fail(Code::unavailable, fmt::format("the guest kernel {} is not at hand; "
                                                   "tools/guests/make.py {} makes it",
                                                   spec.kernel, spec.kernel));
    }
    if (spec.disk && (!fs::exists(disk_image()) || !fs::exists(kernel / "disk.gz"))) {
        return fail(Code::unavailable, fmt::format("the disk of guests with real programs is not "
                                                   "at hand; tools/guests/make.py disk {} makes it",
                                                   spec.kernel));
    }
    std::string pattern = (fs::temp_directory_path() / "underseer-vm-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) return fail(os_error("making a directory"));
    const std::string name = fs::path(pattern).filename().string().substr(10);
    auto words = command_line(spec, name, pattern, kernel, TRY(initrd_for(spec, pattern)));
    auto qemu = TRY(jail::Child::fork([&] {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        const Fd log(::open((pattern + "/qemu.log").c_str(), O_CREAT | O_WRONLY, 0600));
        ::dup2(log.get(), 1);
        ::dup2(log.get(), 2);
        std::vector<char*> arguments;
        for (std::string& word : words) arguments.push_back(word.data());
        arguments.push_back(nullptr);
        ::execv(arguments[0], arguments.data());
        return 127;
    }));
    TestVm vm(name, pattern, std::move(qemu));
    vm.release_ = release_of(spec.kernel);
    if (!spec.incoming.empty()) {
        TRY(vm.wait_until_restored());
    } else if (spec.wait) {
        TRY(vm.wait_until_ready());
    } else {
        vm.shell_ = TRY(connect_to(pattern + "/shell", Clock::now() + kBootTime));
        // Answered by the main loop, which runs once the machine has its RAM; the socket is there
        // before.
        TRY(vm.qmp("query-status"));
        vm.monitor_ = {};
    }
    return vm;
}

TestVm::~TestVm() {
    if (directory_.empty()) return;
    qemu_.kill();
    (void)qemu_.wait(std::chrono::seconds(10));
    std::error_code error;
    fs::remove_all(directory_, error);
}

Result<void> TestVm::wait_until_restored() {
    const auto deadline = Clock::now() + kBootTime;
    shell_ = TRY(connect_to(directory_ + "/shell", deadline));
    for (;;) {
        const auto answer = TRY(qmp("query-status"));
        const std::string status = TRY(TRY(answer.at("status")).as_string());
        if (status == "running") return {};
        if (Clock::now() > deadline) return fail(Code::os, "the restored guest is " + status);
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
}

Result<void> TestVm::save_to(const std::string& path) {
    const auto deadline = Clock::now() + kBootTime;
    // Unbounded: a guest that dirties memory faster than it is written would never end.
    TRY(qmp("migrate-set-parameters", R"({"max-bandwidth": 10000000000})"));
    TRY(qmp("migrate", fmt::format(R"({{"uri": "exec:cat > {}"}})", path)));
    for (;;) {
        const auto answer = TRY(qmp("query-migrate"));
        const std::string status = TRY(TRY(answer.at("status")).as_string());
        if (status == "completed") return {};
        if (status == "failed" || Clock::now() > deadline) {
            return fail(Code::os, "saving the machine: " + status);
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
}

std::string TestVm::state() {
    std::string status = qmp("query-status").value().at("status").value().as_string().value();
    monitor_ = {};
    return status;
}

void TestVm::reset() {
    buffered_.clear();
    CHECK(qmp("system_reset").has_value());
}

void TestVm::kexec() {
    buffered_.clear();
    CHECK(write_all(shell_.get(), as_bytes("/bin/workload kexec\n")).has_value());
}

Result<void> TestVm::wait_until_between_kernels() {
    const auto deadline = Clock::now() + kAnswerTime;
    while (Clock::now() < deadline) {
        const auto answer =
            TRY(qmp("human-monitor-command", R"({"command-line": "info registers"})"));
        const std::string text = TRY(answer.as_string());
        const std::size_t rip = text.find("RIP=");
        if (rip == std::string::npos) return fail(Code::malformed, "no RIP in " + text);
        // Kernels run in the upper half, programs with CPL 3, and what loads a kernel neither.
        const bool low = std::stoull(text.substr(rip + 4, 16), nullptr, 16) < 1ull << 40;
        if (low && text.find("CPL=0") != std::string::npos) return {};
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return fail(Code::os, "the guest did not leave its kernel");
}

Result<void> TestVm::wait_until_ready() {
    const auto deadline = Clock::now() + kBootTime;
    if (!shell_) shell_ = TRY(connect_to(directory_ + "/shell", deadline));
    for (;;) {
        auto line = read_line(shell_.get());
        if (!line.has_value() || Clock::now() > deadline) {
            const std::string console = read_file(directory_ + "/console", 1u << 20).value_or("");
            const std::string log = read_file(directory_ + "/qemu.log", 1u << 20).value_or("");
            return fail(Code::os,
                        fmt::format("the guest did not come up.\n{}\nConsole:\n{}", log,
                                    console.substr(console.size() -
                                                   std::min<std::size_t>(2000, console.size()))));
        }
        if (line->find("ready") != std::string::npos) return {};
    }
}

Result<std::string> TestVm::read_bytes(int fd, std::size_t count) {
    while (buffered_.size() < count) {
        pollfd readable{fd, POLLIN, 0};
        const auto timeout = std::chrono::duration_cast<std::chrono::milliseconds>(kAnswerTime);
        if (::poll(&readable, 1, static_cast<int>(timeout.count())) <= 0) {
            return fail(Code::os, "the guest does not answer");
        }
        char part[65536];
        const ssize_t got = ::read(fd, part, sizeof part);
        if (got <= 0) return fail(Code::gone, "the guest's line is closed");
        buffered_.append(part, static_cast<std::size_t>(got));
    }
    std::string taken = buffered_.substr(0, count);
    buffered_.erase(0, count);
    return taken;
}

Result<std::string> TestVm::read_line(int fd) {
    std::size_t end = 0;
    while ((end = buffered_.find('\n')) == std::string::npos) {
        std::string all = TRY(read_bytes(fd, buffered_.size() + 1));
        buffered_.insert(0, all);
    }
    std::string line = TRY(read_bytes(fd, end + 1));
    line.pop_back();
    return line;
}

Result<RunResult> TestVm::run(const std::string& command) {
    CHECK(command.find('\n') == std::string::npos);
    TRY(write_all(shell_.get(), as_bytes(command + "\n")));
    const std::string head = TRY(read_line(shell_.get()));
    RunResult result;
    std::size_t bytes = 0;
    if (std::sscanf(head.c_str(), "%d %zu", &result.status, &bytes) != 2) {
        return fail(Code::malformed, fmt::format("the guest answered '{}'", head));
    }
    result.output = TRY(read_bytes(shell_.get(), bytes));
    return result;
}

std::string TestVm::output_of(const std::string& command) {
    const auto result = run(command);
    if (!result.has_value()) {
        fmt::print(stderr, "in the guest: {}: {}\n", command, result.error().to_text());
    }
    CHECK(result.has_value());
    if (result->status != 0) fmt::print(stderr, "in the guest: {}: {}\n", command, result->output);
    CHECK(result->status == 0);
    return result->output;
}

Result<json::Value> TestVm::qmp(const std::string& command, const std::string& arguments) {
    std::string pending;
    const auto next = [&]() -> Result<json::Value> {
        for (;;) {
            if (const std::size_t end = pending.find('\n'); end != std::string::npos) {
                auto value = json::Value::parse(pending.substr(0, end));
                pending.erase(0, end + 1);
                return value;
            }
            char part[65536];
            const ssize_t got = ::read(monitor_.get(), part, sizeof part);
            if (got <= 0) return fail(Code::gone, "the monitor is closed");
            pending.append(part, static_cast<std::size_t>(got));
        }
    };
    const auto call = [&](const std::string& text) -> Result<json::Value> {
        TRY(write_all(monitor_.get(), as_bytes(text + "\n")));
        for (;;) {
            json::Value answer = TRY(next());
            if (answer.find("error")) {
                return fail(Code::os, TRY(TRY(TRY(answer.at("error")).at("desc")).as_string()));
            }
            if (answer.find("return")) return answer.at("return");
        }
    };
    if (!monitor_) {
        monitor_ = TRY(connect_to(directory_ + "/qmp", Clock::now() + kAnswerTime));
        TRY(next());
        TRY(call(R"({"execute": "qmp_capabilities"})"));
    }
    return call(fmt::format(R"({{"execute": "{}", "arguments": {}}})", command, arguments));
}

Result<void> TestVm::dump_to(const std::string& path, const std::string& format) {
    TRY(qmp("dump-guest-memory",
            fmt::format(R"({{"paging": false, "protocol": "file:{}", "format": "{}"}})", path,
                        format)));
    return {};
}

}  // namespace underseer::testing
