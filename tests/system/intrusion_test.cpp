// Every technique by itself, on every kernel at hand: exactly the finding that belongs to it, and
// none when it has ended.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <thread>

#include "agent/managers.h"
#include "detect/check.h"
#include "guests.h"
#include "hypervisor/discover.h"
#include "outside_rootkit.h"

namespace underseer::testing {
namespace {

using Rules = std::multiset<std::string>;

class Intrusion : public ::testing::TestWithParam<std::string> {
  protected:
    // One guest serves all tests of its kernel that run in this process.
    void SetUp() override {
        if (GetParam() != "6.1-cloud" && !nightly()) GTEST_SKIP() << "in the nightly run only";
        if (!guest_ || guest_->kernel != GetParam()) {
            guest_.reset();
            auto booted = TestVm::boot({.kernel = GetParam(), .workload = false});
            if (!booted.has_value() && booted.error().code == Code::unavailable) {
                GTEST_SKIP() << booted.error().to_text();
            }
            ASSERT_TRUE(booted.has_value()) << booted.error().to_text();
            guest_.emplace(GetParam(), std::move(*booted));
        }
        expect_findings({});
    }
    static void TearDownTestSuite() { guest_.reset(); }

    TestVm& vm() { return guest_->vm; }

    std::vector<event::Finding> findings() {
        const auto answer =
            guest_->introspector.ask<event::CheckReport>({.topic = agent::Topic::checks});
        EXPECT_TRUE(answer.has_value()) << answer.error().to_text();
        std::vector<event::Finding> all;
        if (!answer.has_value()) return all;
        // All but event_rules and program_integrity: there are no rules and no packages.
        EXPECT_EQ(answer->items.size(), detect::all_checks().size() - 2);
        for (const event::CheckReport& report : answer->items) {
            EXPECT_NE(report.outcome, event::Outcome::unavailable)
                << report.check << ": " << report.reason;
            for (const event::Finding& finding : report.findings) {
                // Our own modules did not come with the kernel.
                const bool is_fixture =
                    finding.rule == "foreign_module" && finding.subject.starts_with("underseer_");
                if (!is_fixture) all.push_back(finding);
            }
        }
        return all;
    }
    void expect_findings(const Rules& wanted) {
        const auto found = findings();
        Rules rules;
        for (const event::Finding& finding : found) rules.insert(finding.rule);
        EXPECT_EQ(rules, wanted);
        if (rules == wanted) return;
        for (const event::Finding& finding : found) {
            fmt::print("{}: {}\n", finding.rule, finding.subject);
            for (const event::Evidence& item : finding.evidence) {
                fmt::print("    {}: {}\n", item.name, item.text);
            }
        }
    }
    // Exactly this one, about that process, or about its program.
    void expect_finding(const std::string& rule, std::uint32_t pid,
                        const std::string& program = {}) {
        const auto found = findings();
        ASSERT_EQ(found.size(), 1u) << "of " << rule;
        EXPECT_EQ(found[0].rule, rule);
        EXPECT_EQ(found[0].pid, pid);
        const std::string of_process = fmt::format("(pid {})", pid);
        if (program.empty()) {
            EXPECT_TRUE(found[0].subject.ends_with(of_process)) << found[0].subject;
        } else {
            EXPECT_EQ(found[0].subject, program);
            EXPECT_TRUE(found[0].evidence[0].text.ends_with(of_process));
        }
    }

    // Exactly that something which begins with this was altered, when the eight bytes at a place
    // are.
    void expect_altered(const std::string& subject, auto&& place) {
        vm().pause();
        OutsideRootkit rootkit(&vm());
        const GuestVirt at = place(rootkit.guest());
        if (!at) GTEST_SKIP() << "there is no such place";
        const auto was = rootkit.kernel().memory().read<std::uint64_t>(at).value();
        rootkit.write(at, was ^ 0x0101'0101'0101'0101);
        const auto found = findings();
        rootkit.undo();
        vm().resume();
        ASSERT_EQ(found.size(), 1u);
        EXPECT_EQ(found[0].rule, "altered_code");
        EXPECT_TRUE(found[0].subject.starts_with(subject)) << found[0].subject;
        expect_findings({});
    }

    // Who looks for the first time now sees by the kernel's baseline whether its code was altered,
    // and what the kernel itself has patched into it for the hook is no alteration.
    void expect_as_built_but_for(std::string rule) {
        if (rule == "altered_code") rule = "code_unlike_baseline";
        auto introspector = attach(vm());
        const auto used = use_baseline(introspector, baseline_of(GetParam()));
        ASSERT_TRUE(used.has_value()) << used.error().to_text();
        auto report =
            introspector
                .ask<event::CheckReport>({.topic = agent::Topic::checks, .checks = {"kernel_code"}})
                .value()
                .items.at(0);
        const bool is_of_code =
            detect::find_check("kernel_code") != nullptr &&
            std::ranges::find(detect::rules_of("kernel_code"), rule, &detect::Rule::id) !=
                detect::rules_of("kernel_code").end();
        EXPECT_EQ(report.findings.size(), is_of_code ? 1u : 0u);
        for (const event::Finding& finding : report.findings) {
            EXPECT_EQ(finding.rule, rule) << finding.subject;
        }
    }

    // Returns its pid.
    std::uint32_t intrude(const std::string& technique) {
        const std::string text = vm().output_of(
            fmt::format("rm -f /tmp/.intruder; /bin/intruder {} > /tmp/.intruder 2>&1 & "
                        "until grep -qs . /tmp/.intruder; do sleep 0.1; done; cat /tmp/.intruder",
                        technique));
        std::uint32_t pid = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), pid);
        EXPECT_EQ(error, std::errc{}) << text;
        return pid;
    }
    void end_intruders() {
        vm().output_of(
            "for p in $(ls /proc | grep '^[0-9]*$'); do "
            "case $(readlink /proc/$p/exe) in "
            "/bin/intruder|/tmp/*|/memfd:*|/usr/bin/*) kill -9 $p;; esac; done; "
            "sleep 0.2; true");
        expect_findings({});
    }

    struct Guest {
        std::string kernel;
        TestVm vm;
        agent::Introspector introspector;
        Guest(std::string name, TestVm machine)
            : kernel(std::move(name)), vm(std::move(machine)), introspector(attach(vm)) {}
    };
    static std::optional<Guest> guest_;
};
std::optional<Intrusion::Guest> Intrusion::guest_;
INSTANTIATE_TEST_SUITE_P(, Intrusion, ::testing::ValuesIn(all_kernels()), test_name);

TEST_P(Intrusion, an_intruder_who_does_nothing_is_none) {
    intrude("rest");
    end_intruders();
}

TEST_P(Intrusion, disguised_as_a_kernel_thread_by_name) {
    const auto pid = intrude("name kworker/0:9");
    expect_finding("disguised_process", pid);
    end_intruders();
}

TEST_P(Intrusion, disguised_as_a_kernel_thread_by_command_line) {
    const auto pid = intrude("argv '[kswapd0]'");
    expect_finding("disguised_process", pid);
    end_intruders();
}

TEST_P(Intrusion, dropped_program_under_a_systems_name) {
    const auto pid = intrude("false-name");
    expect_finding("false_name", pid);
    end_intruders();
}

TEST_P(Intrusion, program_in_memory_only) {
    const auto pid = intrude("memfd payload");
    const auto found = findings();
    Rules rules;
    for (const event::Finding& finding : found) {
        rules.insert(finding.rule);
        EXPECT_TRUE(finding.subject.ends_with(fmt::format("(pid {})", pid))) << finding.subject;
    }
    EXPECT_EQ(rules, (Rules{"memory_only_program"}));
    end_intruders();
}

TEST_P(Intrusion, a_container_that_starts_is_none) {
    intrude("memfd runc_cloned:/proc/self/exe");
    expect_findings({});
    end_intruders();
}

TEST_P(Intrusion, program_that_was_deleted) {
    const auto pid = intrude("deleted /tmp/gone");
    expect_finding("deleted_program", pid);
    end_intruders();
}

TEST_P(Intrusion, program_that_was_replaced) {
    vm().output_of("mkdir -p /usr/bin");
    const auto pid = intrude("deleted /usr/bin/service");
    expect_finding("replaced_program", pid);
    end_intruders();
}

TEST_P(Intrusion, all_capabilities_without_being_root) {
    const auto pid = intrude("capable");
    expect_finding("full_capabilities", pid);
    end_intruders();
}

TEST_P(Intrusion, root_out_of_nothing) {
    const auto pid = intrude("orphan-root");
    expect_finding("root_without_ancestry", pid);
    end_intruders();
}

TEST_P(Intrusion, debugger) {
    const auto victim = intrude("rest");
    const auto pid = intrude(fmt::format("trace {}", victim));
    expect_finding("traced_process", pid, "/bin/intruder");
    end_intruders();
}

TEST_P(Intrusion, dropped_program_that_traces) {
    const auto victim = intrude("rest");
    const auto pid = intrude(fmt::format("dropped trace {}", victim));
    expect_finding("traced_by_dropped_program", pid);
    end_intruders();
}

TEST_P(Intrusion, sniffer) {
    const auto pid = intrude("packets");
    expect_finding("other_sniffer", pid, "/bin/intruder");
    end_intruders();
}

TEST_P(Intrusion, dropped_sniffer) {
    const auto pid = intrude("dropped packets");
    expect_finding("foreign_sniffer", pid);
    end_intruders();
}

TEST_P(Intrusion, listener_that_no_process_has) {
    const auto pid = intrude("listen");
    expect_findings({});
    vm().pause();
    OutsideRootkit rootkit(&vm());
    auto& kernel = rootkit.kernel();
    const auto follow = [&](GuestVirt at, std::string_view structure, std::string_view member) {
        return kernel.read_pointer(at, kernel.field(structure, member)).value();
    };
    const GuestVirt table = follow(follow(rootkit.task_of(pid), "task_struct", "files"),
                                   "files_struct", "fdt"),
                    files = follow(table, "fdtable", "fd");
    constexpr std::uint64_t kListener = 9;  // as intruder.c has it
    rootkit.write(files + 8 * kListener, 0);
    vm().resume();
    const auto found = findings();
    vm().pause();
    rootkit.undo();
    vm().resume();
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].rule, "hidden_socket");
    EXPECT_EQ(found[0].subject, "tcp 0.0.0.0:31337");
    end_intruders();
}

// A thread may have files of its own, and the first one may have ended: a process all the same.
TEST_P(Intrusion, a_listener_of_a_thread_is_none) {
    const auto pid = intrude("thread listen");
    expect_findings({});
    vm().output_of(fmt::format("kill -9 {}", pid));
    expect_findings({});
}

TEST_P(Intrusion, dropped_sniffer_whose_first_thread_has_ended) {
    const auto pid = intrude("dropped thread packets");
    expect_finding("foreign_sniffer", pid);
    vm().output_of(fmt::format("kill -9 {}", pid));
    end_intruders();
}

TEST_P(Intrusion, interface_that_takes_all_packets) {
    vm().output_of("ip link set lo promisc on");
    expect_findings({"promiscuous_interface"});
    vm().output_of("ip link set lo promisc off");
    expect_findings({});
}

TEST_P(Intrusion, ring) {
    intrude("ring");
    expect_findings({"io_uring_in_use"});
    end_intruders();
}

TEST_P(Intrusion, ring_of_a_dropped_program) {
    const auto pid = intrude("dropped ring");
    expect_finding("dropped_program_uses_io_uring", pid);
    end_intruders();
}

TEST_P(Intrusion, program_whose_code_was_altered) {
    const auto pid = intrude("alter");
    expect_finding("altered_program_code", pid);
    end_intruders();
}

TEST_P(Intrusion, program_whose_vdso_was_altered) {
    const auto pid = intrude("vdso");
    expect_finding("altered_program_code", pid);
    end_intruders();
}

TEST_P(Intrusion, code_of_the_kernel_altered_before_anybody_looked) {
    vm().pause();
    OutsideRootkit rootkit(&vm());
    rootkit.write(rootkit.kernel().symbol("__x64_sys_acct").value() + 16, 0xcccc'cccc'cccc'cccc);
    expect_as_built_but_for("code_unlike_baseline");
    rootkit.undo();
    vm().resume();
    expect_findings({});
}

// What the kernel has written down as constant, altered from outside of it.
TEST_P(Intrusion, vdso_of_all_programs) {
    expect_altered("vDSO+0x", [](guest_linux::Guest& guest) {
        auto& kernel = guest.kernel();
        const GuestVirt image = kernel.symbol({"vdso_image_64", "vdso64_image"}).value();
        return kernel.read_pointer(image, kernel.field("vdso_image", "data")).value() + 8;
    });
}

TEST_P(Intrusion, code_of_a_module) {
    expect_altered("module ", [](guest_linux::Guest& guest) {
        const auto code = guest.code_map().value();
        for (const guest_linux::ModuleCode& module : code.modules) {
            if (module.is_live && module.size_bytes > 64) return module.end() - 64;
        }
        return GuestVirt{};
    });
}

// Another table of the kernel's own: nothing leads out of it.
TEST_P(Intrusion, sockets_that_another_table_shows) {
    vm().pause();
    OutsideRootkit rootkit(&vm());
    for (const guest_linux::Binding& one : rootkit.guest().bindings().bindings) {
        if (one.thing != "/proc/net/tcp" || one.member != "seq_ops") continue;
        rootkit.write(one.record, rootkit.kernel().symbol("udp_seq_ops").value().value);
    }
    const auto found = findings();
    rootkit.undo();
    vm().resume();
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].rule, "view_altered");
    EXPECT_EQ(found[0].subject, "sockets");
    EXPECT_EQ(found[0].evidence[1].text, "the kernel, udp_seq_ops");
    expect_findings({});
}

TEST_P(Intrusion, program_that_no_file_is_behind) {
    const auto pid = intrude("elf");
    expect_finding("program_in_memory", pid);
    end_intruders();
}

TEST_P(Intrusion, debuggers_breakpoints) {
    const auto pid = intrude("breakpoints");
    expect_finding("breakpoints_in_program", pid, "/bin/intruder");
    end_intruders();
}

TEST_P(Intrusion, memory_that_waits_for_code) {
    intrude("jit");
    expect_findings({"writable_program_code"});
    end_intruders();
}

TEST_P(Intrusion, bpf_program_that_writes_into_processes) {
    intrude("bpf-write");
    const auto found = findings();
    ASSERT_EQ(found.size(), 2u);
    EXPECT_EQ(found[0].rule, "bpf_writes_user_memory");
    EXPECT_TRUE(found[0].subject.starts_with("underseer (id ")) << found[0].subject;
    EXPECT_EQ(found[1].rule, "view_altered");
    EXPECT_EQ(found[1].subject, "everything");
    end_intruders();
}

TEST_P(Intrusion, library_forced_into_a_program) {
    intrude("preload /tmp/libhide.so");
    expect_findings({"preloaded_foreign_library"});
    end_intruders();
    intrude("preload /usr/lib/x86_64-linux-gnu/libeatmydata.so");
    expect_findings({"preloaded_library"});
    end_intruders();
}

TEST_P(Intrusion, library_forced_into_every_program) {
    vm().output_of("mkdir -p /etc; echo '# /tmp/no.so' > /etc/ld.so.preload");
    expect_findings({});
    vm().output_of("echo /tmp/libhide.so >> /etc/ld.so.preload");
    const auto found = findings();
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].rule, "preloaded_foreign_library");
    EXPECT_EQ(found[0].subject, "/tmp/libhide.so");
    vm().output_of("rm /etc/ld.so.preload");
    expect_findings({});
}

TEST_P(Intrusion, process_that_has_left_its_container) {
    const std::string group = "/sys/fs/cgroup/docker-" + std::string(64, 'a') + ".scope";
    vm().output_of("mkdir -p " + group);
    const auto pid = intrude(fmt::format("cgroup {}/cgroup.procs", group));
    expect_findings({});  // it may be on its way in
    std::this_thread::sleep_for(std::chrono::seconds(32));
    expect_finding("container_escape", pid);
    end_intruders();
}

class IntrusionByModule : public Intrusion {
  protected:
    void load(const std::string& module) {
        if (vm().output_of("ls /lib/modules").find(module + ".ko") == std::string::npos) {
            GTEST_SKIP() << "no module of ours is built for " << GetParam();
        }
        vm().output_of(
            fmt::format("grep -q {0} /proc/modules || insmod /lib/modules/{0}.ko", module));
        module_ = module;
        expect_findings({});  // it is idle
    }
    void tell(const std::string& command) {
        vm().output_of(
            fmt::format("echo '{}' > /sys/module/{}/parameters/command", command, module_));
    }
    std::string module_;
};
INSTANTIATE_TEST_SUITE_P(, IntrusionByModule, ::testing::ValuesIn(all_kernels()), test_name);

class Posing : public IntrusionByModule {
  protected:
    void SetUp() override {
        Intrusion::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        load("underseer_pose");
        if (!IsSkipped()) victim_ = intrude("rest");
    }
    void stop() {
        tell("0");
        end_intruders();
    }
    std::uint32_t victim_ = 0;
};
INSTANTIATE_TEST_SUITE_P(IntrusionByModule, Posing, ::testing::ValuesIn(all_kernels()), test_name);

TEST_P(Posing, the_kernels_own_credentials) {
    tell(fmt::format("init_cred {}", victim_));
    expect_finding("kernel_credentials", victim_);
    stop();
}

TEST_P(Posing, credentials_of_another_process) {
    tell(fmt::format("share {} 1", victim_));
    expect_finding("shared_credentials", victim_);
    stop();
}

TEST_P(Posing, credentials_written_over) {
    const auto ordinary = intrude("ordinary");
    tell(fmt::format("uid {}", ordinary));
    expect_finding("tampered_credentials", ordinary);
    stop();
}

TEST_P(Posing, process_with_the_flag_of_a_kernel_thread) {
    tell(fmt::format("kthread {}", victim_));
    expect_finding("false_kernel_thread", victim_);
    stop();
}

TEST_P(IntrusionByModule, module_that_hides) {
    load("underseer_unseen");
    if (IsSkipped()) return;
    const std::string missing[] = {"list", "list, sysfs", "list, sysfs, bug list"};
    for (int level = 1; level <= 3; ++level) {
        SCOPED_TRACE(level);
        tell(std::to_string(level));
        const auto found = findings();
        ASSERT_EQ(found.size(), 1u);
        EXPECT_EQ(found[0].rule, "hidden_module");
        EXPECT_EQ(found[0].subject, "underseer_unseen");
        EXPECT_EQ(found[0].evidence[1].text, missing[level - 1]);
        tell("0");
        expect_findings({});
    }
}

TEST_P(IntrusionByModule, module_that_did_not_come_with_the_kernel) {
    load("underseer_unseen");
    if (IsSkipped()) return;
    const auto reports =
        guest_->introspector
            .ask<event::CheckReport>({.topic = agent::Topic::checks, .checks = {"kernel_modules"}})
            .value()
            .items;
    ASSERT_EQ(reports.size(), 1u);
    ASSERT_FALSE(reports[0].findings.empty());
    for (const event::Finding& finding : reports[0].findings) {
        EXPECT_EQ(finding.rule, "foreign_module");
        EXPECT_TRUE(finding.subject.starts_with("underseer_")) << finding.subject;
    }
}

// Of a hook of the kernel: how it is put in, what is found, and in which words; and what of that
// which the guest shows is not to be believed then.
struct HookCase {
    std::string command, rule, subject, view = "";
    // Where it writes, the kernel itself never does once it is up; that is told too.
    bool in_constants = false;
};

class Hooking : public IntrusionByModule {
  protected:
    void SetUp() override {
        Intrusion::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        load("underseer_hook");
    }
    // Exactly what belongs to it, and nothing when it is out again.
    void expect_found(const HookCase& hook) {
        SCOPED_TRACE(hook.command);
        const auto told = vm().run(
            fmt::format("echo {} > /sys/module/underseer_hook/parameters/command", hook.command));
        if (told.value().status != 0) {
            GTEST_SKIP() << GetParam() << " has no place for the hook '" << hook.command << "'";
        }
        std::string view;
        auto found = findings();
        std::erase_if(found, [&](const event::Finding& finding) {
            if (finding.rule != "view_altered") return false;
            view = finding.subject;
            return true;
        });
        const auto constants = std::erase_if(found, [](const event::Finding& finding) {
            return finding.rule == "altered_constant";
        });
        EXPECT_EQ(constants > 0, hook.in_constants);
        expect_as_built_but_for(hook.rule);
        EXPECT_EQ(view, hook.view);
        EXPECT_EQ(found.size(), 1u);
        for (const event::Finding& finding : found) {
            EXPECT_EQ(finding.rule, hook.rule) << finding.subject;
            EXPECT_TRUE(finding.subject.starts_with(hook.subject)) << finding.subject;
        }
        tell("0");
        expect_findings({});
    }
};
INSTANTIATE_TEST_SUITE_P(IntrusionByModule, Hooking, ::testing::ValuesIn(all_kernels()), test_name);

TEST_P(Hooking, table_of_system_calls) {
    expect_found({"syscall", "system_call_redirected", "getdents64 (sys_call_table[217])",
                  "processes, files, modules"});
}

TEST_P(Hooking, switch_of_system_calls) {
    expect_found({"switch", "system_call_redirected", "x64_sys_call+", "everything"});
}

TEST_P(Hooking, gate_of_an_interrupt) {
    expect_found({"idt", "interrupt_redirected", "interrupt 0x81"});
}

TEST_P(Hooking, sequence_of_proc_net_tcp) {
    expect_found({"seq", "constant_redirected", "tcp4_seq_ops", "sockets"});
}

TEST_P(Hooking, operations_of_the_proc_folder) {
    expect_found({"proc", "constant_redirected", "proc_root_operations", "processes"});
}

TEST_P(Hooking, other_operations_for_the_proc_folder) {
    expect_found({"procops", "operations_replaced", "/proc", "processes"});
}

TEST_P(Hooking, function_that_lists_folders_by_ftrace) {
    expect_found(
        {"ftrace", "view_hooked", "ftrace: __x64_sys_getdents64", "processes, files, modules"});
}

TEST_P(Hooking, function_that_signals_by_kprobe) {
    expect_found({"kprobe", "view_hooked", "kprobe: __x64_sys_kill", "processes"});
}

TEST_P(Hooking, return_of_a_function_that_signals) {
    expect_found({"kretprobe", "view_hooked", "kprobe: __x64_sys_kill", "processes"});
}

TEST_P(Hooking, tracepoint_of_system_calls) {
    expect_found({"tracepoint", "foreign_hook", "tracepoint: sys_enter", "everything"});
}

TEST_P(Hooking, packets_in_netfilter) {
    expect_found({"netfilter", "foreign_hook", "netfilter: IPv4 input"});
}

TEST_P(Hooking, packets_as_they_come_in) {
    expect_found({"packet", "foreign_hook", "packet: all packets"});
}

TEST_P(Hooking, keys) {
    expect_found({"keyboard", "foreign_hook", "notifier: keyboard_notifier_list"});
}

TEST_P(Hooking, reboot) {
    expect_found({"reboot", "foreign_hook", "notifier: reboot_notifier_list"});
}

TEST_P(Hooking, input_of_terminals) {
    expect_found({"ldisc", "operation_redirected", "line discipline: tty_ldiscs[0]"});
}

TEST_P(Hooking, decision_about_opening_a_file) {
    expect_found(
        {.command = "lsm",
         .rule = "security_hook_redirected",
         .subject = "security module: file_open",
         // Since 6.12 hooks are called by static calls, whose targets are no constants.
         .in_constants = !GetParam().starts_with("6.12") && !GetParam().starts_with("7.")});
}

TEST_P(Hooking, bpf_program_that_hides) {
    intrude("bpf");
    expect_findings({});
    expect_found({"bpf", "hidden_bpf_program", "underseer (id "});
    end_intruders();
}

// Of what a process has attached; each is gone from its table alone, and goes on.
class HidingBpf : public Hooking {
  protected:
    // A guest of its own for each: what was attached without a link outlives its owner.
    void SetUp() override {
        guest_.reset();
        Hooking::SetUp();
    }
    static void TearDownTestSuite() { guest_.reset(); }
    void expect_hidden(const HookCase& hook) {
        if (IsSkipped()) return;
        vm().output_of(
            "/bin/bpf_user attach > /tmp/.bpf 2>&1 & until grep -q ready /tmp/.bpf; do sleep 0.1; "
            "done");
        expect_findings({});
        expect_found(hook);
        vm().output_of("kill -9 $(head -1 /tmp/.bpf); sleep 0.5; rmdir /sys/fs/cgroup/bpf");
        expect_findings({});
    }
};
INSTANTIATE_TEST_SUITE_P(IntrusionByModule, HidingBpf, ::testing::ValuesIn(all_kernels()),
                         test_name);

TEST_P(HidingBpf, bpf_program_in_no_table_that_is_attached) {
    expect_hidden({"bpf-twice", "hidden_bpf_program", "u_fentry (id "});
}

TEST_P(HidingBpf, bpf_map_that_hides) {
    expect_hidden({"bpf-map", "hidden_bpf_map", "u_hash (id "});
}

TEST_P(HidingBpf, bpf_link_of_a_tracepoint_that_hides) {
    expect_hidden({"bpf-raw", "hidden_bpf_link", "raw_tracepoint sys_enter"});
}

TEST_P(HidingBpf, bpf_link_of_a_function_that_hides) {
    expect_hidden({"bpf-fentry", "hidden_bpf_link", "fentry vfs_rmdir"});
}

TEST_P(HidingBpf, bpf_link_of_a_cgroup_that_hides) {
    expect_hidden({"bpf-group", "hidden_bpf_link", "cgroup /bpf (inet_sock_create)"});
}

TEST_P(Hooking, code_of_a_function) {
    expect_found({"text", "patched_code", "__x64_sys_getcpu"});
}

TEST_P(Hooking, code_that_stays_in_the_kernel) {
    expect_found({"flip", "altered_code", ""});
}

TEST_P(Hooking, code_that_nothing_accounts_for) {
    expect_found({"code", "unaccounted_code", "4 KiB at 0x"});
}

TEST_P(Hooking, write_protection_that_is_off) {
    const auto heard = [&] {
        const auto host = hypervisor::discover().value();
        const auto vm_here = hypervisor::select(host, vm().name()).value();
        const agent::Question question{.topic = agent::Topic::decoy_kernel,
                                       .cpus = agent::ask_registers(vm_here).value()};
        return guest_->introspector.ask<event::CheckReport>(question).value().items.front();
    };
    EXPECT_EQ(heard().outcome, event::Outcome::clean);
    tell("wp");
    (void)heard(), (void)heard();
    const auto report = heard();
    tell("0");
    ASSERT_EQ(report.findings.size(), 1u) << report.reason;
    EXPECT_EQ(report.findings[0].rule, "cpu_protection_off");
    EXPECT_EQ(report.findings[0].subject, "CPU 0");
    EXPECT_EQ(report.findings[0].evidence[0].text, "CR0.WP");
    EXPECT_EQ(heard().outcome, event::Outcome::clean);
}

// Every driver has timers and work.
TEST_P(Hooking, a_timer_of_a_module_is_none) {
    for (const char* command : {"timer", "work"}) {
        tell(command);
        expect_findings({});
        tell("0");
    }
}

// What the guest has made unreadable is no place where nobody hooks.
TEST_P(Intrusion, list_of_hooks_that_leads_nowhere) {
    vm().pause();
    {
        OutsideRootkit rootkit(&vm());
        auto& kernel = rootkit.kernel();
        rootkit.write(kernel.symbol("keyboard_notifier_list").value() +
                          kernel.field("atomic_notifier_head", "head").offset,
                      0xffff'8000'dead'0000);
        const auto report = guest_->introspector
                                .ask<event::CheckReport>(
                                    {.topic = agent::Topic::checks, .checks = {"kernel_hooks"}})
                                .value()
                                .items.front();
        EXPECT_EQ(report.outcome, event::Outcome::unavailable);
        EXPECT_NE(report.reason.find("keyboard_notifier_list"), std::string::npos) << report.reason;
        rootkit.undo();
    }
    vm().resume();
    expect_findings({});
}

TEST_P(Intrusion, program_that_the_kernel_starts_for_a_crash) {
    const std::string before = vm().output_of("cat /proc/sys/kernel/core_pattern");
    vm().output_of("echo '|/tmp/crash %p' > /proc/sys/kernel/core_pattern");
    expect_findings({"kernel_starts_foreign_program"});
    vm().output_of("echo '|/usr/share/apport/apport %p' > /proc/sys/kernel/core_pattern");
    expect_findings({});
    vm().output_of("echo '" + before.substr(0, before.find('\n')) +
                   "' > /proc/sys/kernel/core_pattern");
}

}  // namespace
}  // namespace underseer::testing
