// Everything Underseer says about a guest, against what the guest says about itself, on every
// kernel at hand.
#include "truth.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <regex>
#include <set>
#include <thread>

#include "detect/check.h"
#include "guests.h"

namespace underseer::testing {
namespace {

using agent::Introspector;
using agent::Question;
using agent::Topic;

// Of the guest's network card, and what the guest calls itself instead.
constexpr const char* kPermanentMac = "52:54:00:de:ad:01";
constexpr const char* kOwnMac = "02:00:00:c0:ff:ee";

class EveryKernel : public ::testing::TestWithParam<std::string> {
  protected:
    // One guest serves all tests of its kernel that run in this process.
    void SetUp() override {
        if (!guest_ || guest_->kernel != GetParam()) {
            guest_.reset();
            auto booted = TestVm::boot({.kernel = GetParam(),
                                        // See listed_sockets().
                                        .append = "no_hash_pointers hash_pointers=never",
                                        .mac = kPermanentMac});
            if (!booted.has_value() && booted.error().code == Code::unavailable) {
                GTEST_SKIP() << booted.error().to_text();
            }
            ASSERT_TRUE(booted.has_value()) << booted.error().to_text();
            booted->output_of("echo 1 > /proc/sys/kernel/kptr_restrict");
            booted->output_of(fmt::format("ip link set eth0 address {}", kOwnMac));
            booted->output_of("ip link set dummy7 promisc on");
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

    // Some process, by its network namespace.
    std::map<std::uint32_t, std::uint32_t> reader_in_each_network() {
        const auto seen = [&] {
            std::set<std::pair<std::uint32_t, std::uint32_t>> all;
            for (const event::Task& task : ask<event::Task>(Topic::tasks)) {
                const std::uint32_t net = task.namespaces.value().net;
                if (net != 0) all.emplace(net, task.pid);
            }
            return all;
        };
        // Of two looks: what comes and goes cannot be asked.
        const auto before = seen();
        std::this_thread::sleep_for(std::chrono::milliseconds(500));
        std::map<std::uint32_t, std::uint32_t> readers;
        for (const auto& one : seen()) {
            if (before.contains(one)) readers.insert(one);
        }
        return readers;
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

// "net -> net:[4026531840]" of every line of `ls -l /proc/PID/ns`; what a task has given up is 0.
event::Namespaces namespaces_of(const std::string& listing) {
    event::Namespaces result;
    for (const std::string& line : lines_of(listing)) {
        event::for_each_field<event::Namespaces>([&](const auto& field) {
            const std::string link = fmt::format(" {0} -> {0}:[", field.name);
            const std::size_t at = line.find(link);
            if (at == std::string::npos) return;
            result.*field.member =
                static_cast<std::uint32_t>(std::stoul(line.substr(at + link.size())));
        });
    }
    return result;
}

std::string in_a_row(const std::vector<std::uint32_t>& numbers) {
    return fmt::format("{}", fmt::join(numbers, "\t"));
}

// A link that /proc shows: nothing, of a task that has given up what it leads to.
std::string link(const event::Observed<std::string>& path) {
    const std::string text = path.value_or("");
    return text.empty() ? "" : text + "\n";
}

void expect_same_ids(const event::Task& task, const std::string& status) {
    EXPECT_EQ(std::to_string(task.tgid), field_of(status, "Tgid"));
    EXPECT_EQ(std::to_string(task.ppid.value_or(~0u)), field_of(status, "PPid"));
    EXPECT_EQ(in_a_row(task.namespace_pids.value()), field_of(status, "NSpid"));
    EXPECT_EQ(in_a_row(task.namespace_tgids.value()), field_of(status, "NStgid"));
    EXPECT_EQ(std::to_string(task.thread_count.value()), field_of(status, "Threads"));
}

void expect_same_credentials(const event::Credentials& c, const std::string& status) {
    EXPECT_EQ(in_a_row({c.uid, c.euid, c.suid, c.fsuid}), field_of(status, "Uid"));
    EXPECT_EQ(in_a_row({c.gid, c.egid, c.sgid, c.fsgid}), field_of(status, "Gid"));
    EXPECT_EQ(fmt::format("{:016x}", c.cap_inheritable), field_of(status, "CapInh"));
    EXPECT_EQ(fmt::format("{:016x}", c.cap_permitted), field_of(status, "CapPrm"));
    EXPECT_EQ(fmt::format("{:016x}", c.cap_effective), field_of(status, "CapEff"));
    EXPECT_EQ(fmt::format("{:016x}", c.cap_bounding), field_of(status, "CapBnd"));
    EXPECT_EQ(fmt::format("{:016x}", c.cap_ambient), field_of(status, "CapAmb"));
}

// `shown` is "number:controllers:path" of each hierarchy, the unified one's number being 0.
void expect_same_cgroup(const event::Task& task, const std::string& shown) {
    std::string path, id;
    for (const std::string& line : lines_of(shown)) {
        const std::string here = line.substr(line.find(':', line.find(':') + 1) + 1);
        std::smatch found;
        const bool contained = std::regex_search(here, found, std::regex("[0-9a-f]{64}"));
        if (contained) id = found.str();
        if (contained || (line.starts_with("0:") && id.empty())) path = here;
    }
    EXPECT_EQ(task.cgroup.value(), path) << shown;
    EXPECT_EQ(task.container_id.value(), id) << shown;
}

// `shown` is what stat has between its parentheses. Of a kernel thread that is its full name, and
// what a workqueue's thread works at; the kernel keeps both elsewhere (proc_task_name()).
void expect_same_name(const event::Task& task, const std::string& shown) {
    constexpr std::size_t kCommBytes = 15;
    if (task.comm.starts_with("kworker/") || (task.kernel_thread && shown.size() > kCommBytes)) {
        EXPECT_EQ(task.comm, shown.substr(0, task.comm.size()));
    } else {
        EXPECT_EQ(task.comm, shown);
    }
}

TEST_P(EveryKernel, processes_and_threads_match_field_by_field) {
    const auto status_before = for_each_process(*vm_, "cat $p/status", true);
    const auto tasks = ask<event::Task>(Topic::tasks, true);
    const auto boot = ask<event::SystemInfo>(Topic::info).front().boot_time.value();
    const auto status = for_each_process(*vm_, "cat $p/status", true);
    const auto stat = for_each_process(*vm_, "cat $p/stat", true);
    const auto exe = for_each_process(*vm_, "readlink $p/exe", true);
    const auto cwd = for_each_process(*vm_, "readlink $p/cwd", true);
    const auto root = for_each_process(*vm_, "readlink $p/root", true);
    const auto argv = for_each_process(*vm_, "cat $p/cmdline", true);
    const auto environment = for_each_process(*vm_, "cat $p/environ", true);
    const auto cgroup = for_each_process(*vm_, "cat $p/cgroup", true);
    const auto namespaces = for_each_process(*vm_, "ls -l $p/ns", true);
    std::map<std::uint32_t, const event::Task*> seen;
    for (const event::Task& task : tasks) seen[task.pid] = &task;
    unsigned compared = 0;
    std::set<std::string> states, containers;
    for (const auto& [pid, text] : status) {
        if (!status_before.contains(pid) || text.empty()) continue;  // came or went meanwhile
        // The shell that runs these commands changes while it is looked at.
        if (exe.at(pid) == "/bin/busybox\n") continue;
        SCOPED_TRACE(fmt::format("pid {} {}", pid, field_of(text, "Name")));
        ASSERT_TRUE(seen.contains(pid)) << "not seen";
        const event::Task& task = *seen[pid];
        ++compared;
        expect_same_ids(task, text);
        expect_same_credentials(task.credentials.value(), text);
        const std::string state = field_of(text, "State").substr(0, 1);
        if (state == field_of(status_before.at(pid), "State").substr(0, 1)) {
            // A kernel thread has something to do now and then.
            EXPECT_TRUE(task.state == state || (task.kernel_thread && task.state == "R"))
                << task.state << " against " << state;
            states.insert(task.state);
        }
        const std::size_t name_end = stat.at(pid).rfind(") "), name = stat.at(pid).find('(') + 1;
        expect_same_name(task, stat.at(pid).substr(name, name_end - name));
        // stat: field 22 is the start in ticks of 10 ms since boot.
        const auto words = words_of(stat.at(pid).substr(name_end + 2));
        EXPECT_NEAR(static_cast<double>(task.start_time.value() - boot) / 1e7, std::stod(words[19]),
                    1.01);
        EXPECT_EQ(link(task.exe), exe.at(pid));
        EXPECT_EQ(link(task.cwd), cwd.at(pid));
        EXPECT_EQ(link(task.root), root.at(pid));
        EXPECT_EQ(joined(task.argv.value()), argv.at(pid));
        EXPECT_EQ(joined(task.environment.value()), environment.at(pid));
        expect_same_cgroup(task, cgroup.at(pid));
        containers.insert(task.container_id.value());
        EXPECT_EQ(task.namespaces.value(), namespaces_of(namespaces.at(pid))) << namespaces.at(pid);
    }
    EXPECT_GT(compared, 60u);
    EXPECT_EQ(containers.size(), 4u) << "none, Docker's, containerd's and one by cgroup v1";
    for (const char* state : {"S", "T", "t", "Z", "D", "I"}) EXPECT_TRUE(states.contains(state));
    for (const event::Task& task : tasks) {
        if (status_before.contains(task.pid) && !status.contains(task.pid)) continue;
        EXPECT_TRUE(status.contains(task.pid) || status_before.contains(task.pid) ||
                    task.exe.value_or("") == "/bin/busybox" || task.kernel_thread)
            << "invented: " << task.pid << " " << task.comm;
    }
}

TEST_P(EveryKernel, open_files_match) {
    const auto links = for_each_process(
        *vm_, "for f in $p/fd/*; do [ -L $f ] && echo ${f##*/} $(readlink $f); done");
    const auto positions = for_each_process(
        *vm_, "for f in $p/fdinfo/*; do echo ${f##*/} $(head -2 $f | tr '\\n' ' '); done");
    const auto inodes = for_each_process(*vm_, "stat -L -c '%n %i %f' $p/fd/*");
    const auto exe = for_each_process(*vm_, "readlink $p/exe");
    std::map<std::uint32_t, std::set<std::string>> seen, seen_positions, seen_inodes;
    for (const event::OpenFile& file : ask<event::OpenFile>(Topic::open_files)) {
        seen[file.pid].insert(fmt::format("{} {}", file.fd, file.path));
        seen_positions[file.pid].insert(
            fmt::format("{} {} {:o}", file.fd, file.position_bytes, file.flags));
        seen_inodes[file.pid].insert(fmt::format("{} {} {:x}", file.fd, file.inode, file.mode));
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
        std::set<std::string> truth_inodes;
        for (const std::string& line : lines_of(inodes.at(pid))) {
            truth_inodes.insert(line.substr(line.rfind('/') + 1));
        }
        EXPECT_EQ(seen_inodes[pid], truth_inodes);
        compared += static_cast<unsigned>(truth.size());
    }
    EXPECT_GT(compared, 60u);
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
    // name size references users state address [taints]; users is "a,b," or "-"
    std::map<std::string, std::string> truth, structures;
    for (const std::string& line : lines_of(vm_->output_of("cat /proc/modules"))) {
        const auto words = words_of(line);
        std::string taints = words.size() > 6 ? words[6] : "";
        truth[words[0]] = fmt::format("{} {} {} {} {} {}", words[1], words[2],
                                      words[3] == "-" ? "" : words[3], words[4], words[5], taints);
    }
    for (const std::string& line : lines_of(vm_->output_of("grep __this_module /proc/kallsyms"))) {
        const auto words = words_of(line);  // address d __this_module [name]
        structures[words[3].substr(1, words[3].size() - 2)] = words[0];
    }
    std::map<std::string, std::string> seen, seen_structures;
    for (const event::Module& module : ask<event::Module>(Topic::modules)) {
        std::string users;
        for (const std::string& user : module.used_by) users += user + ",";
        seen[module.name] =
            fmt::format("{} {} {} {} 0x{:016x} {}", module.size_bytes, module.reference_count,
                        users, module.state, module.text_begin,
                        module.taints.empty() ? "" : "(" + module.taints + ")");
        seen_structures[module.name] = fmt::format("{:016x}", module.address);
    }
    EXPECT_EQ(seen, truth);
    EXPECT_EQ(seen_structures, structures);
    EXPECT_GE(truth.size(), 1u);
}

TEST_P(EveryKernel, mounts_match_in_every_namespace) {
    // mountinfo: id parent major:minor root target options [optional ..] - type source super
    std::map<std::uint32_t, std::set<std::string>> truth, seen;
    const auto mountinfo = for_each_process(*vm_, "cat $p/mountinfo");
    const auto tasks = ask<event::Task>(Topic::tasks);
    for (const event::Task& task : tasks) {
        // A reader with another root sees another tree.
        if (!mountinfo.contains(task.pid) || task.root.value_or("") != "/") continue;
        for (const std::string& line : lines_of(mountinfo.at(task.pid))) {
            const auto words = words_of(line);
            const auto dash = std::ranges::find(words, "-");
            truth[task.namespaces.value().mnt].insert(
                fmt::format("{} {} {} {} {} {} {} {}", words[0], words[1], words[2], words[3],
                            words[4], words[5], *(dash + 1), *(dash + 2)));
        }
    }
    const auto mounts = ask<event::Mount>(Topic::mounts);
    for (const event::Mount& mount : mounts) {
        // /proc leaves out what its reader cannot reach: a root that another one was mounted over.
        const bool covered = std::ranges::any_of(mounts, [&](const event::Mount& other) {
            return other.parent_id == mount.id && other.id != mount.id && other.target == "/";
        });
        if (covered) continue;
        seen[mount.mnt_namespace].insert(fmt::format("{} {} {}:{} {} {} {} {} {}", mount.id,
                                                     mount.parent_id, mount.device_major,
                                                     mount.device_minor, mount.root, mount.target,
                                                     mount.options, mount.fs_type, mount.source));
    }
    EXPECT_EQ(seen, truth);
    EXPECT_GE(truth.size(), 2u) << "the guest's own and its container's";
}

// Numbers as /proc/net/tcp has them: hexadecimal, an address in words of 32 bits of the machine.
std::string endpoint_of(const std::string& hexadecimal) {
    const std::size_t colon = hexadecimal.find(':');
    std::array<std::uint32_t, 4> words{};
    for (std::size_t i = 0; i * 8 < colon; ++i) {
        words[i] =
            static_cast<std::uint32_t>(std::stoul(hexadecimal.substr(i * 8, 8), nullptr, 16));
    }
    char text[INET6_ADDRSTRLEN] = "";
    ::inet_ntop(colon == 8 ? AF_INET : AF_INET6, words.data(), text, sizeof text);
    return fmt::format("{}:{}", text, std::stoul(hexadecimal.substr(colon + 1), nullptr, 16));
}

// What /proc/net lists to process `pid`, each socket as described() words it. Where a struct sock
// lies is printed to root if kptr_restrict is 1 (restricted_pointer(), lib/vsprintf.c), and
// by newer kernels only if they were told at boot not to hash addresses.
std::set<std::string> listed_sockets(TestVm& vm, std::uint32_t pid) {
    std::set<std::string> lines;
    const auto for_each_row = [&](std::string_view file, auto&& add) {
        for (const std::string& line :
             lines_of(vm.output_of(fmt::format("tail -n +2 /proc/{}/net/{}", pid, file)))) {
            lines.insert(add(words_of(line)));
        }
    };
    static const std::map<std::string, std::string> kStates{
        {"01", "ESTABLISHED"}, {"05", "FIN_WAIT2"},  {"06", "TIME_WAIT"},
        {"07", "CLOSE"},       {"08", "CLOSE_WAIT"}, {"0A", "LISTEN"}};
    for (const std::string file : {"tcp", "udp", "raw", "tcp6", "udp6", "raw6"}) {
        for_each_row(file, [&](const std::vector<std::string>& words) {
            return fmt::format("{} {} {} {} {} {} user {} inode {}",
                               file.ends_with('6') ? "inet6" : "inet", file.substr(0, 3), words[11],
                               kStates.at(words[3]), endpoint_of(words[1]), endpoint_of(words[2]),
                               words[7], words[9]);
        });
    }
    static const std::map<std::string, std::string> kTypes{
        {"0001", "stream"}, {"0002", "dgram"}, {"0005", "seqpacket"}};
    for_each_row("unix", [](const std::vector<std::string>& words) {
        const bool listens = words[3] == "00010000";  // __SO_ACCEPTCON
        return fmt::format("unix {} {} {} {} inode {}", kTypes.at(words[4]),
                           words[0].substr(0, words[0].size() - 1),  // a colon
                           listens            ? "LISTEN"
                           : words[5] == "03" ? "CONNECTED"
                                              : "UNCONNECTED",
                           words.size() > 7 ? words[7] : "", words[6]);
    });
    for_each_row("packet", [](const std::vector<std::string>& words) {
        return fmt::format("packet {} {} {} {} user {} inode {}", words[2] == "3" ? "raw" : "dgram",
                           words[0], words[4] == "0" ? "" : "if" + words[4],
                           std::stoul(words[3], nullptr, 16), words[7], words[8]);
    });
    for_each_row("netlink", [](const std::vector<std::string>& words) {
        return fmt::format("netlink {} {} {} inode {}", words[0], words[1], words[2], words[9]);
    });
    // The kernel's own ends of netlink: port 0.
    std::erase_if(lines, [](const std::string& line) {
        return line.starts_with("netlink ") && words_of(line)[3] == "0";
    });
    return lines;
}

std::string described(const event::Socket& socket) {
    const std::string at = fmt::format("{:016x}", socket.address);
    if (socket.family == "unix") {
        return fmt::format("unix {} {} {} {} inode {}", socket.type, at, socket.state,
                           socket.local_address, socket.inode);
    }
    if (socket.family == "packet") {
        return fmt::format("packet {} {} {} {} user {} inode {}", socket.type, at,
                           socket.local_address, socket.local_port, socket.uid, socket.inode);
    }
    if (socket.family == "netlink") {
        return fmt::format("netlink {} {} {} inode {}", at, socket.remote_port, socket.local_port,
                           socket.inode);
    }
    return fmt::format("{} {} {} {} {}:{} {}:{} user {} inode {}", socket.family, socket.type, at,
                       socket.state, socket.local_address, socket.local_port, socket.remote_address,
                       socket.remote_port, socket.uid, socket.inode);
}

TEST_P(EveryKernel, sockets_and_their_owners_match_in_every_namespace) {
    std::map<std::uint32_t, std::set<std::string>> truth, seen;
    for (const auto& [net, pid] : reader_in_each_network()) truth[net] = listed_sockets(*vm_, pid);
    std::map<std::uint64_t, std::set<std::uint32_t>> owners, seen_owners;  // by inode
    for (const auto& [pid, links] :
         for_each_process(*vm_, "for f in $p/fd/*; do readlink $f; done")) {
        for (const std::string& line : lines_of(links)) {
            if (line.starts_with("socket:[")) owners[std::stoull(line.substr(8))].insert(pid);
        }
    }
    std::set<std::string> kinds;
    for (const event::Socket& socket : ask<event::Socket>(Topic::sockets)) {
        seen[socket.net_namespace].insert(described(socket));
        kinds.insert(socket.family + " " + socket.type + " " + socket.state);
        if (socket.inode == 0) continue;
        seen_owners[socket.inode].insert(socket.owner_pids.begin(), socket.owner_pids.end());
    }
    EXPECT_EQ(seen, truth);
    EXPECT_EQ(seen_owners, owners);
    EXPECT_EQ(truth.size(), 2u) << "the guest's own and its container's";
    for (const char* kind :
         {"inet tcp LISTEN", "inet tcp ESTABLISHED", "inet tcp FIN_WAIT2", "inet tcp CLOSE_WAIT",
          "inet udp CLOSE", "inet udp ESTABLISHED", "inet raw CLOSE", "inet6 tcp LISTEN",
          "inet6 tcp ESTABLISHED", "inet6 udp CLOSE", "inet6 raw CLOSE", "unix stream LISTEN",
          "unix dgram UNCONNECTED", "unix seqpacket CONNECTED", "packet raw ", "packet dgram ",
          "netlink raw "}) {
        EXPECT_TRUE(kinds.contains(kind)) << kind;
    }
}

TEST_P(EveryKernel, interfaces_match_in_every_namespace) {
    std::map<std::uint32_t, std::set<std::string>> truth, seen;
    for (const auto& [net, pid] : reader_in_each_network()) {
        // A sysfs shows the network namespace that it was mounted in.
        const std::string attributes = vm_->output_of(fmt::format(
            "mkdir -p /tmp/net; nsenter -t {} -n sh -c 'mount -t sysfs sys /tmp/net; "
            "cd /tmp/net/class/net; for i in *; do [ -d $i ] && echo $i $(cat $i/ifindex "
            "$i/address $i/mtu $i/flags) $(ip addr show dev $i | grep -o \"inet6* [^ ]*\" | "
            "cut -d\" \" -f2); done; cd /; umount /tmp/net'",
            pid));
        for (const std::string& line : lines_of(attributes)) truth[net].insert(line);
        for (const std::string& line : lines_of(vm_->output_of(
                 fmt::format("nsenter -t {} -n /bin/workload permanent_macs", pid)))) {
            truth[net].insert(line);
        }
    }
    EXPECT_TRUE(truth.begin()->second.contains(fmt::format("eth0 {}", kPermanentMac)));
    bool promiscuous = false;
    for (const event::NetworkInterface& item : ask<event::NetworkInterface>(Topic::interfaces)) {
        seen[item.net_namespace].insert(fmt::format(
            "{} {} {} {} 0x{:x}{}{}", item.name, item.index, item.mac, item.mtu, item.flags,
            item.addresses.value().empty() ? "" : " ", fmt::join(item.addresses.value(), " ")));
        seen[item.net_namespace].insert(fmt::format("{} {}", item.name, item.permanent_mac));
        EXPECT_EQ(item.promiscuity, item.name == "dummy7" ? 1u : 0u) << item.name;
        EXPECT_EQ(item.bridge.value(), "") << item.name;
        promiscuous |= item.promiscuity > 0;
    }
    EXPECT_EQ(seen, truth);
    EXPECT_EQ(truth.size(), 2u) << "the guest's own and its container's";
    EXPECT_TRUE(promiscuous);
}

// As the kernel escapes a line for /dev/kmsg (msg_add_ext_text()).
std::string escaped(const std::string& text) {
    std::string result;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        result += byte < ' ' || byte >= 127 || c == '\\' ? fmt::format("\\x{:02x}", byte)
                                                         : std::string(1, c);
    }
    return result;
}

// "level and facility, sequence number, microseconds, flags;text", as in /dev/kmsg; the flags say
// whether a line goes on.
TEST_P(EveryKernel, the_kernel_log_matches) {
    std::vector<std::string> truth, seen;
    for (const std::string& line :
         lines_of(vm_->output_of("timeout 2 cat /dev/kmsg 2>/dev/null; true"))) {
        if (line.starts_with(' ')) continue;  // of a dictionary
        const std::size_t text = line.find(';');
        const std::string numbers = line.substr(0, line.rfind(',', text));
        truth.push_back(numbers + line.substr(text));
    }
    for (const event::KernelLogLine& line : ask<event::KernelLogLine>(Topic::kernel_log)) {
        seen.push_back(fmt::format("{},{},{};{}", line.facility * 8 + line.level, line.sequence,
                                   line.time_since_boot_ns / 1000, escaped(line.text)));
    }
    ASSERT_GT(truth.size(), 50u);
    ASSERT_GE(seen.size(), truth.size());
    for (std::size_t i = 0; i < truth.size(); ++i) EXPECT_EQ(seen[i], truth[i]);
}

TEST_P(EveryKernel, the_system_matches) {
    const auto info = ask<event::SystemInfo>(Topic::info).front();
    const auto number = [&](const std::string& command) {
        return std::stoull(vm_->output_of(command), nullptr, 0);
    };
    const auto seconds = [](const event::Observed<std::uint64_t>& time) {
        return static_cast<double>(time.value()) / 1e9;
    };
    EXPECT_EQ(info.banner + "\n", vm_->output_of("cat /proc/version"));
    EXPECT_EQ(info.kernel_release + "\n", vm_->output_of("uname -r"));
    EXPECT_EQ(info.host_name.value() + "\n", vm_->output_of("hostname"));
    EXPECT_NEAR(seconds(info.boot_time),
                static_cast<double>(number("grep btime /proc/stat | cut -c7-")), 1.5);
    EXPECT_NEAR(seconds(info.wall_clock), static_cast<double>(number("date +%s")), 2.5);
    EXPECT_EQ(info.cpus, number("nproc"));
    // Notes of 12 bytes of header, a name ("GNU", NUL) and the id; NT_GNU_BUILD_ID is 3.
    const std::string notes = vm_->output_of("hexdump -v -e '1/1 \"%02x\"' /sys/kernel/notes");
    EXPECT_NE(notes.find("040000001400000003000000474e5500" + info.build_id.value()),
              std::string::npos)
        << notes;
    EXPECT_EQ(info.kaslr_slide_bytes + 0xffffffff81000000,
              number("echo 0x$(grep ' _text$' /proc/kallsyms | cut -c-16)"));
    EXPECT_EQ(info.physical_base,
              number("echo 0x$(grep 'Kernel code' /proc/iomem | cut -d- -f1 | tr -d ' ')"));
    EXPECT_EQ(
        info.page_table_root,
        info.physical_base +
            number("echo $((0x$(grep -E ' (init_top_pgt|swapper_pg_dir)$' /proc/kallsyms | "
                   "head -1 | cut -c-16) - 0x$(grep ' _text$' /proc/kallsyms | cut -c-16)))"));
    const bool levels_5 = vm_->run("grep -qw la57 /proc/cpuinfo").value().status == 0;
    EXPECT_EQ(info.page_table_levels, levels_5 ? 5u : 4u);
    const std::string meltdown =
        vm_->output_of("cat /sys/devices/system/cpu/vulnerabilities/meltdown");
    EXPECT_EQ(info.page_table_isolation.value(), meltdown == "Mitigation: PTI\n") << meltdown;
    // Of several symbols of one name, one is kept.
    EXPECT_NEAR(static_cast<double>(info.symbol_count),
                static_cast<double>(number("grep -vc '\\[' /proc/kallsyms")), 1.0);
}

// Of what is reported, how much has the name that a person looks for, by kind.
class Names {
  public:
    void count(const std::string& kind, bool named, const std::string& example) {
        Row& row = rows_[kind];
        ++(named ? row.named : row.nameless);
        if (!named && row.example.empty()) row.example = example;
    }
    // The kernel itself has no name for it.
    void count_none_by_nature(const std::string& kind) { ++rows_[kind].none_by_nature; }

    void print() const {
        fmt::print("{:16} {:>6} {:>9} {:>15}\n", "", "named", "nameless", "none by nature");
        for (const auto& [kind, row] : rows_) {
            fmt::print("{:16} {:>6} {:>9} {:>15}{}\n", kind, row.named, row.nameless,
                       row.none_by_nature, row.example.empty() ? "" : "  " + row.example);
        }
    }
    // Of every kind, for a large one would hide a small one.
    void expect_99_percent() const {
        for (const auto& [kind, row] : rows_) {
            EXPECT_LE(row.nameless * 100, row.named + row.nameless)
                << kind << ": " << row.nameless << " of " << row.named + row.nameless
                << " have no name, the first " << row.example;
        }
    }

  private:
    struct Row {
        std::size_t named = 0, nameless = 0, none_by_nature = 0;
        std::string example;  // of the nameless
    };
    std::map<std::string, Row> rows_;
};

// What prepend_path() says of everything that it cannot place is "/".
bool names_file(const std::string& path, bool directory) {
    if (path == "/") return directory;
    return path.starts_with('/') || path.starts_with("anon_inode:") ||
           path.find(":[") != std::string::npos;
}

// exit_mm(), kernel/exit.c: a zombie has given up its program, as a kernel thread never had one.
bool has_program(const event::Task& task) {
    return !task.kernel_thread && task.state != "Z";
}

// Addresses that are reported are those of what is counted here, and have its name: a task's of its
// task_struct, a socket's of its struct sock, a module's of its struct and its code.
TEST_P(EveryKernel, of_a_hundred_things_reported_ninety_nine_have_a_name) {
    Names names;
    // A file leads to its socket by sk_socket, and without it no process can hold the socket. That
    // is so of one that is closed but not yet done (sock_orphan(), include/net/sock.h), of one that
    // is not yet accepted (sock_graft() gives it one), and of TIME_WAIT and NEW_SYN_RECV, which are
    // no struct sock (inet_timewait_sock, request_sock). /proc/net shows inode 0 for all of these.
    std::set<std::string> listed_ownerless, ownerless;
    for (const auto& [net, pid] : reader_in_each_network()) {
        for (const std::string& line : listed_sockets(*vm_, pid)) {
            if (line.ends_with(" inode 0")) listed_ownerless.insert(line);
        }
    }
    std::this_thread::sleep_for(std::chrono::seconds(1));  // the shell that listed them has ended
    const auto look = [&]<typename T>(Topic topic, const std::string& kind, auto&& see) {
        const auto answer = guest_->introspector.ask<T>(Question{.topic = topic, .threads = true});
        ASSERT_TRUE(answer.has_value()) << answer.error().to_text();
        EXPECT_GE(answer->items.size(), 1u) << kind;
        for (const T& item : answer->items) see(item);
        // What could not be read at all has no name either.
        for (std::size_t i = 0; i < answer->unreadable; ++i) {
            names.count(kind, false, answer->first_gap);
        }
    };
    look.operator()<event::Task>(Topic::tasks, "task", [&](const event::Task& task) {
        names.count("task", !task.comm.empty(), fmt::format("pid {}", task.pid));
        if (has_program(task)) {
            names.count("program", names_file(task.exe.value_or(""), false),
                        fmt::format("of pid {}: \"{}\"", task.pid, task.exe.value_or("")));
        } else {
            names.count_none_by_nature("program");
        }
    });
    look.operator()<event::OpenFile>(Topic::open_files, "open file", [&](const auto& file) {
        names.count("open file", names_file(file.path, S_ISDIR(file.mode)),
                    fmt::format("{} of pid {}: \"{}\"", file.fd, file.pid, file.path));
    });
    look.operator()<event::Vma>(Topic::memory_maps, "mapped file", [&](const event::Vma& area) {
        const bool file = area.inode != 0 || area.device_major != 0 || area.device_minor != 0;
        if (!file) return names.count_none_by_nature("mapped file");  // anonymous memory
        names.count("mapped file", names_file(area.path, false),
                    fmt::format("{:x} of pid {}: \"{}\"", area.begin, area.pid, area.path));
    });
    look.operator()<event::Socket>(Topic::sockets, "socket owner", [&](const auto& socket) {
        if (socket.owner_pids.empty() && socket.inode == 0) {
            ownerless.insert(described(socket));
            return names.count_none_by_nature("socket owner");
        }
        names.count("socket owner", !socket.owner_pids.empty(), described(socket));
    });
    EXPECT_EQ(ownerless, listed_ownerless);
    EXPECT_GE(ownerless.size(), 1u) << "a connection that nobody accepts";
    look.operator()<event::Module>(Topic::modules, "module", [&](const event::Module& module) {
        names.count("module", !module.name.empty(), fmt::format("{:#x}", module.address));
        for (const std::string& user : module.used_by) {
            names.count("module user", !user.empty() && user != "?", "of " + module.name);
        }
    });
    look.operator()<event::Mount>(Topic::mounts, "mount", [&](const event::Mount& mount) {
        names.count("mount", mount.target.starts_with('/') && !mount.fs_type.empty(),
                    fmt::format("{} \"{}\"", mount.id, mount.target));
    });
    look.operator()<event::NetworkInterface>(
        Topic::interfaces, "interface", [&](const event::NetworkInterface& item) {
            names.count("interface", !item.name.empty(), std::to_string(item.index));
        });
    names.print();
    names.expect_99_percent();
}

// Some of what the workload does to be listed right is what an intruder does, and no more is told.
TEST_P(EveryKernel, checks_find_what_there_is_to_be_found) {
    const std::multiset<std::string> wanted{
        "deleted_program", "disguised_process",         "memory_only_program",
        "other_sniffer",   "preloaded_foreign_library", "traced_process",
        "changed_mac",     "promiscuous_interface"};
    const auto reports = ask<event::CheckReport>(Topic::checks);
    ASSERT_EQ(reports.size(),
              detect::all_checks().size() - 2);  // there are no rules of events, and no programs
    std::multiset<std::string> rules;
    std::string subjects;
    for (const event::CheckReport& report : reports) {
        SCOPED_TRACE(report.check);
        EXPECT_NE(report.outcome, event::Outcome::unavailable) << report.reason;
        for (const event::Finding& finding : report.findings) {
            rules.insert(finding.rule);
            subjects += finding.rule + ": " + finding.subject + "\n";
        }
        for (const std::string& gap : report.coverage.gaps) ADD_FAILURE() << gap;
        // This guest has loaded no BPF program.
        const std::uint64_t least = report.check == "bpf_programs" ? 0 : 3;
        EXPECT_GE(report.coverage.looked_at, least);
    }
    EXPECT_EQ(rules, wanted) << subjects;
}

}  // namespace
}  // namespace underseer::testing
