// Everything Underseer says about a guest, against what the guest says about itself, on every
// kernel at hand.
#include "truth.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "guests.h"

namespace underseer::testing {
namespace {

using agent::Introspector;
using agent::Question;
using agent::Topic;

class EveryKernel : public ::testing::TestWithParam<std::string> {
  protected:
    // One guest serves all tests of its kernel that run in this process.
    void SetUp() override {
        if (!guest_ || guest_->kernel != GetParam()) {
            guest_.reset();
            auto booted = TestVm::boot({.kernel = GetParam()});
            if (!booted.has_value() && booted.error().code == Code::unavailable) {
                GTEST_SKIP() << booted.error().to_text();
            }
            ASSERT_TRUE(booted.has_value()) << booted.error().to_text();
            booted->output_of("sleep 2");  // the workload has settled
            Introspector introspector = attach(*booted);
            guest_.reset(new Guest{GetParam(), std::move(*booted), std::move(introspector)});
        }
        vm_ = &guest_->vm;
    }

    template <typename T>
    std::vector<T> ask(Topic topic, bool threads = false) {
        auto answer = guest_->introspector.ask<T>(
            Question{.topic = topic, .environment = true, .threads = threads});
        EXPECT_TRUE(answer.has_value()) << answer.error().to_text();
        if (!answer.has_value()) return {};
        // The shell that serves this test comes and goes while it is looked at.
        EXPECT_LE(answer->unreadable, 2u) << answer->first_gap;
        return std::move(answer->items);
    }

    struct Guest {
        std::string kernel;
        TestVm vm;
        Introspector introspector;
    };
    static inline std::unique_ptr<Guest> guest_;
    TestVm* vm_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(, EveryKernel, ::testing::ValuesIn(all_kernels()), test_name);

std::string field_of(const std::string& status, const std::string& key) {
    for (const std::string& line : lines_of(status)) {
        if (line.starts_with(key + ":\t")) return line.substr(key.size() + 2);
    }
    return "";
}

std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) text += word + '\1';
    return text;
}

TEST_P(EveryKernel, processes_and_threads_match_field_by_field) {
    const auto status_before = for_each_process(*vm_, "cat $p/status", true);
    const auto tasks = ask<event::Task>(Topic::tasks, true);
    const auto status = for_each_process(*vm_, "cat $p/status", true);
    const auto stat = for_each_process(*vm_, "cat $p/stat", true);
    const auto exe = for_each_process(*vm_, "readlink $p/exe", true);
    const auto cwd = for_each_process(*vm_, "readlink $p/cwd", true);
    const auto argv = for_each_process(*vm_, "cat $p/cmdline", true);
    const auto environment = for_each_process(*vm_, "cat $p/environ", true);
    const auto cgroup = for_each_process(*vm_, "cat $p/cgroup", true);
    const auto namespaces =
        for_each_process(*vm_, "for n in pid mnt net user; do readlink $p/ns/$n; done", true);
    std::map<std::uint32_t, const event::Task*> seen;
    for (const event::Task& task : tasks) seen[task.pid] = &task;
    unsigned compared = 0;
    for (const auto& [pid, text] : status) {
        if (!status_before.contains(pid) || text.empty()) continue;  // came or went meanwhile
        // The shell that runs these commands changes while it is looked at.
        if (exe.at(pid) == "/bin/busybox\n") continue;
        SCOPED_TRACE(fmt::format("pid {} {}", pid, field_of(text, "Name")));
        ASSERT_TRUE(seen.contains(pid)) << "not seen";
        const event::Task& task = *seen[pid];
        ++compared;
        EXPECT_EQ(std::to_string(task.tgid), field_of(text, "Tgid"));
        EXPECT_EQ(std::to_string(task.ppid), field_of(text, "PPid"));
        if (!task.kernel_thread) {
            EXPECT_EQ(task.state, field_of(text, "State").substr(0, 1));
        }
        const auto& c = task.credentials.value();
        EXPECT_EQ(fmt::format("{}\t{}\t{}\t{}", c.uid, c.euid, c.suid, c.fsuid),
                  field_of(text, "Uid"));
        EXPECT_EQ(fmt::format("{}\t{}\t{}\t{}", c.gid, c.egid, c.sgid, c.fsgid),
                  field_of(text, "Gid"));
        EXPECT_EQ(fmt::format("{:016x}", c.cap_effective), field_of(text, "CapEff"));
        EXPECT_EQ(fmt::format("{:016x}", c.cap_bounding), field_of(text, "CapBnd"));
        std::string numbers;
        for (const std::uint32_t number : task.namespace_pids.value()) {
            numbers += (numbers.empty() ? "" : "\t") + std::to_string(number);
        }
        EXPECT_EQ(numbers, field_of(text, "NSpid"));
        if (!task.kernel_thread) {  // the kernel shows a workqueue's name in place of its threads'
            EXPECT_EQ(stat.at(pid).substr(0, stat.at(pid).rfind(") ")),
                      fmt::format("{} ({}", pid, task.comm));
        }
        // stat: field 22 is the start in ticks of 10 ms since boot.
        const auto words = words_of(stat.at(pid).substr(stat.at(pid).rfind(") ") + 2));
        const auto boot = ask<event::SystemInfo>(Topic::info).front().boot_time.value();
        EXPECT_NEAR(static_cast<double>(task.start_time.value() - boot) / 1e7, std::stod(words[19]),
                    1.01);
        EXPECT_EQ(task.exe.value() + (task.exe.value().empty() ? "" : "\n"), exe.at(pid));
        EXPECT_EQ(task.cwd.value() + "\n", cwd.at(pid));
        EXPECT_EQ(joined(task.argv.value()), argv.at(pid));
        EXPECT_EQ(joined(task.environment.value()), environment.at(pid));
        EXPECT_NE(cgroup.at(pid).find("0::" + task.cgroup.value() + "\n"), std::string::npos)
            << cgroup.at(pid) << " against " << task.cgroup.value();
        const auto& ns = task.namespaces.value();
        EXPECT_EQ(namespaces.at(pid), fmt::format("pid:[{}]\nmnt:[{}]\nnet:[{}]\nuser:[{}]\n",
                                                  ns.pid, ns.mnt, ns.net, ns.user));
    }
    EXPECT_GT(compared, 40u);
    for (const event::Task& task : tasks) {
        if (status_before.contains(task.pid) && !status.contains(task.pid)) continue;
        EXPECT_TRUE(status.contains(task.pid) || status_before.contains(task.pid) ||
                    task.exe.value_or("") == "/bin/busybox" || task.kernel_thread)
            << "invented: " << task.pid << " " << task.comm;
    }
}

TEST_P(EveryKernel, the_container_is_named_by_its_cgroup) {
    unsigned found = 0;
    for (const event::Task& task : ask<event::Task>(Topic::tasks)) {
        found += task.container_id.value_or("") ==
                 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    }
    EXPECT_EQ(found, 1u);
}

TEST_P(EveryKernel, open_files_match) {
    const auto links = for_each_process(
        *vm_, "for f in $p/fd/*; do [ -L $f ] && echo ${f##*/} $(readlink $f); done");
    const auto positions = for_each_process(
        *vm_, "for f in $p/fdinfo/*; do echo ${f##*/} $(head -2 $f | tr '\\n' ' '); done");
    const auto exe = for_each_process(*vm_, "readlink $p/exe");
    std::map<std::uint32_t, std::set<std::string>> seen, seen_positions;
    for (const event::OpenFile& file : ask<event::OpenFile>(Topic::open_files)) {
        seen[file.pid].insert(fmt::format("{} {}", file.fd, file.path));
        seen_positions[file.pid].insert(
            fmt::format("{} {} {:o}", file.fd, file.position_bytes, file.flags));
    }
    unsigned compared = 0;
    for (const auto& [pid, text] : links) {
        // Gone meanwhile, or the shell that runs these commands and changes as it is looked at.
        if (!exe.contains(pid) || exe.at(pid) == "/bin/busybox\n") continue;
        SCOPED_TRACE(fmt::format("pid {}", pid));
        std::set<std::string> truth, truth_positions;
        for (const std::string& line : lines_of(text)) truth.insert(line);
        for (const std::string& line : lines_of(positions.at(pid))) {
            const auto words = words_of(line);  // fd pos: N flags: 0NNN
            if (words.size() != 5) continue;
            // O_CLOEXEC is a flag of the descriptor: fdinfo adds it, struct file does not have it.
            const unsigned long flags = std::stoul(words[4], nullptr, 8) & ~02000000ul;
            truth_positions.insert(fmt::format("{} {} {:o}", words[0], words[2], flags));
        }
        EXPECT_EQ(seen[pid], truth);
        EXPECT_EQ(seen_positions[pid], truth_positions);
        compared += static_cast<unsigned>(truth.size());
    }
    EXPECT_GT(compared, 30u);
}

TEST_P(EveryKernel, memory_maps_match) {
    const auto maps = for_each_process(*vm_, "cat $p/maps");
    const auto exe = for_each_process(*vm_, "readlink $p/exe");
    std::map<std::uint32_t, std::vector<std::string>> seen;
    for (const event::Vma& area : ask<event::Vma>(Topic::memory_maps)) {
        std::string line = fmt::format("{:08x}-{:08x} {} {:08x} {:02x}:{:02x} {} ", area.begin,
                                       area.end, area.permissions, area.offset_bytes,
                                       area.device_major, area.device_minor, area.inode);
        seen[area.pid].push_back(line + area.path);
    }
    unsigned compared = 0;
    for (const auto& [pid, text] : maps) {
        // Gone meanwhile, or the shell that runs these commands and changes as it is looked at.
        if (!exe.contains(pid) || exe.at(pid) == "/bin/busybox\n") continue;
        SCOPED_TRACE(fmt::format("pid {}", pid));
        std::vector<std::string> truth;
        for (const std::string& line : lines_of(text)) {
            // The path is padded to a column.
            const auto words = words_of(line);
            std::string path;
            if (words.size() > 5)
                path = line.substr(line.find(words[5], line.find(words[4]) + words[4].size()));
            truth.push_back(fmt::format("{} {} {} {} {} {}", words[0], words[1], words[2], words[3],
                                        words[4], path));
        }
        EXPECT_EQ(seen[pid], truth);
        compared += static_cast<unsigned>(truth.size());
    }
    EXPECT_GT(compared, 100u);
}

TEST_P(EveryKernel, modules_match) {
    std::map<std::string, std::string> truth;
    for (const std::string& line : lines_of(vm_->output_of("cat /proc/modules"))) {
        const auto words = words_of(line);
        std::string taints = words.size() > 6 ? words[6] : "";
        truth[words[0]] =
            fmt::format("{} {} {} {} {}", words[1], words[2], words[4], words[5], taints);
    }
    std::map<std::string, std::string> seen;
    for (const event::Module& module : ask<event::Module>(Topic::modules)) {
        seen[module.name] = fmt::format("{} {} {} 0x{:016x} {}", module.size_bytes,
                                        module.reference_count, module.state, module.text_begin,
                                        module.taints.empty() ? "" : "(" + module.taints + ")");
    }
    EXPECT_EQ(seen, truth);
    EXPECT_GE(truth.size(), 1u);
}

TEST_P(EveryKernel, mounts_match) {
    // mountinfo: id parent major:minor root target options [optional ..] - type source super
    std::set<std::string> truth;
    for (const std::string& line : lines_of(vm_->output_of("cat /proc/self/mountinfo"))) {
        const auto words = words_of(line);
        const auto dash = std::ranges::find(words, "-");
        truth.insert(fmt::format("{} {} {} {} {} {} {}", words[0], words[1], words[2], words[4],
                                 words[5], *(dash + 1), *(dash + 2)));
    }
    std::set<std::string> seen;
    const auto tasks = ask<event::Task>(Topic::tasks);
    const auto shell = std::ranges::find(tasks, 1u, &event::Task::pid);
    for (const event::Mount& mount : ask<event::Mount>(Topic::mounts)) {
        if (mount.mnt_namespace != shell->namespaces.value().mnt) continue;
        seen.insert(fmt::format("{} {} {}:{} {} {} {} {}", mount.id, mount.parent_id,
                                mount.device_major, mount.device_minor, mount.target, mount.options,
                                mount.fs_type, mount.source));
    }
    // /proc leaves out what its reader cannot reach (below the initial root); Underseer does not.
    for (const std::string& line : truth) EXPECT_TRUE(seen.contains(line)) << line;
}

TEST_P(EveryKernel, sockets_match) {
    std::set<std::string> truth, seen;
    const auto hex_v4 = [](const std::string& text) {
        const auto raw = static_cast<std::uint32_t>(std::stoul(text.substr(0, 8), nullptr, 16));
        return fmt::format("{}.{}.{}.{}:{}", raw & 255, raw >> 8 & 255, raw >> 16 & 255, raw >> 24,
                           std::stoul(text.substr(9), nullptr, 16));
    };
    for (const char* kind : {"tcp", "udp", "raw"}) {
        const auto lines = lines_of(vm_->output_of(fmt::format("cat /proc/net/{}", kind)));
        for (std::size_t i = 1; i < lines.size(); ++i) {
            const auto words = words_of(lines[i]);
            truth.insert(
                fmt::format("{} {} {} {}", kind, hex_v4(words[1]), hex_v4(words[2]), words[9]));
        }
    }
    for (const std::string& line : lines_of(vm_->output_of("tail -n +2 /proc/net/unix"))) {
        const auto words = words_of(line);
        truth.insert(fmt::format("unix {} {}", words[6], words.size() > 7 ? words[7] : ""));
    }
    for (const std::string& line : lines_of(vm_->output_of("tail -n +2 /proc/net/packet"))) {
        truth.insert("packet " + words_of(line)[8]);
    }
    for (const event::Socket& socket : ask<event::Socket>(Topic::sockets)) {
        if (socket.family == "inet") {
            seen.insert(fmt::format("{} {}:{} {}:{} {}", socket.type, socket.local_address,
                                    socket.local_port, socket.remote_address, socket.remote_port,
                                    socket.inode));
        } else if (socket.family == "unix") {
            seen.insert(fmt::format("unix {} {}", socket.inode, socket.local_address));
        } else if (socket.family == "packet") {
            seen.insert(fmt::format("packet {}", socket.inode));
        }
    }
    for (const std::string& line : truth) EXPECT_TRUE(seen.contains(line)) << line;
    EXPECT_GE(truth.size(), 9u);
}

TEST_P(EveryKernel, interfaces_log_and_system_match) {
    const auto interfaces = ask<event::NetworkInterface>(Topic::interfaces);
    const auto tasks = ask<event::Task>(Topic::tasks);
    const auto net = std::ranges::find(tasks, 1u, &event::Task::pid)->namespaces.value().net;
    for (const std::string& name : words_of(vm_->output_of("ls /sys/class/net"))) {
        const auto found =
            std::ranges::find_if(interfaces, [&](const event::NetworkInterface& item) {
                return item.name == name && item.net_namespace == net;
            });
        ASSERT_NE(found, interfaces.end()) << name;
        const auto attribute = [&](const char* file) {
            std::string text = vm_->output_of(fmt::format("cat /sys/class/net/{}/{}", name, file));
            text.pop_back();
            return text;
        };
        EXPECT_EQ(found->mac, attribute("address"));
        EXPECT_EQ(std::to_string(found->mtu), attribute("mtu"));
        EXPECT_EQ(fmt::format("0x{:x}", found->flags), attribute("flags"));
        EXPECT_EQ(std::to_string(found->index), attribute("ifindex"));
        for (const std::string& address : found->addresses) {
            EXPECT_NE(vm_->output_of("ip addr show dev " + name).find(address), std::string::npos)
                << address;
        }
    }
    const auto log = ask<event::KernelLogLine>(Topic::kernel_log);
    std::string all;
    for (const event::KernelLogLine& line : log) all += line.text + "\n";
    unsigned lines = 0;
    for (const std::string& line : lines_of(vm_->output_of("dmesg | cut -d']' -f2- | head -200"))) {
        if (line.size() < 2) continue;
        EXPECT_NE(all.find(line.substr(1)), std::string::npos) << line;
        ++lines;
    }
    EXPECT_GT(lines, 50u);
    const auto info = ask<event::SystemInfo>(Topic::info).front();
    EXPECT_EQ(info.kernel_release, vm_->release());
    EXPECT_EQ(info.host_name.value(), "edge-guest");
    const std::string stat = vm_->output_of("grep btime /proc/stat");
    EXPECT_NEAR(static_cast<double>(info.boot_time.value()) / 1e9, std::stod(stat.substr(6)), 1.5);
    EXPECT_EQ(std::to_string(info.cpus), vm_->output_of("nproc").substr(0, 1));
}

TEST_P(EveryKernel, a_clean_guest_has_no_hidden_process) {
    const auto reports = ask<event::CheckReport>(Topic::hidden_processes);
    ASSERT_EQ(reports.size(), 1u);
    EXPECT_EQ(reports[0].outcome, event::Outcome::clean) << reports[0].reason;
    EXPECT_TRUE(reports[0].coverage.gaps.empty()) << reports[0].coverage.gaps.front();
    EXPECT_GT(reports[0].coverage.looked_at, 40u);
}

}  // namespace
}  // namespace underseer::testing
