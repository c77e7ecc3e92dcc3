// From what an intruder does in a guest until the agent's finding of it is in the log: one
// technique after the other, at moments that no schedule knows, with the policy as it is installed.
// TCG guests, at rest and busy.
//
//     alert_bench [ROUNDS [KERNEL]]    a round of 6.1-cloud unless said otherwise
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <random>
#include <thread>

#include "testing/test_agent.h"
#include "testing/test_vm.h"

namespace {

using namespace underseer;
using namespace std::chrono_literals;
using testing::TestAgent;
using testing::TestVm;

struct Technique {
    const char* name;
    std::vector<std::string> rules;  // any of these is the alert
    std::string act, undo;
    std::string subject = "";  // and what they are about begins with this
};

std::string intrude(const std::string& how) {
    return "/bin/intruder " + how + " > /tmp/.intruder 2>&1 &";
}
std::string tell(const std::string& module, const std::string& what) {
    return fmt::format("echo \"{}\" > /sys/module/underseer_{}/parameters/command", what, module);
}

std::vector<Technique> techniques() {
    // No more programs than need be: each that starts is a reason to look.
    const std::string end = "kill -9 $(cat /tmp/.intruder)";
    std::vector<Technique> all = {
        {"name of a kernel thread", {"disguised_process"}, intrude("name kworker/0:9"), end},
        {"program in memory only", {"memory_only_program"}, intrude("memfd payload"), end},
        {"program that was deleted", {"deleted_program"}, intrude("deleted /tmp/gone"), end},
        {"all capabilities", {"full_capabilities"}, intrude("capable"), end},
        {"root out of nothing", {"root_without_ancestry"}, intrude("orphan-root"), end},
        {"sniffer", {"foreign_sniffer"}, intrude("dropped packets"), end},
        {"code of a program altered", {"altered_program_code"}, intrude("alter"), end},
        {"program that no file is behind", {"program_in_memory"}, intrude("elf"), end},
        {"library forced into a program",
         {"preloaded_foreign_library"},
         intrude("preload /tmp/libhide.so"),
         end},
        {"module loaded",
         {"foreign_module"},
         "insmod /lib/modules/underseer_unseen.ko",
         "rmmod underseer_unseen",
         "underseer_unseen"},
        {"module hidden",
         {"hidden_module"},
         "insmod /lib/modules/underseer_unseen.ko; " + tell("unseen", "3"),
         tell("unseen", "0") + "; rmmod underseer_unseen"},
        {"process hidden, at rest",
         {"hidden_process"},
         tell("hide", "2 $(cat /tmp/.victim)"),
         tell("hide", "0")},
        {"process hidden, runs",
         {"hidden_process", "hidden_process_ran"},
         "kill -CONT $(cat /tmp/.spinner); " + tell("hide", "2 $(cat /tmp/.spinner)"),
         tell("hide", "0") + "; kill -STOP $(cat /tmp/.spinner)"},
        {"the kernel's credentials",
         {"kernel_credentials"},
         tell("pose", "init_cred $(cat /tmp/.victim)"),
         tell("pose", "0")},
        {"program for crashes",
         {"kernel_program_changed", "kernel_starts_foreign_program"},
         "cat /proc/sys/kernel/core_pattern > /tmp/.core; "
         "echo '|/tmp/crash %p' > /proc/sys/kernel/core_pattern",
         "cat /tmp/.core > /proc/sys/kernel/core_pattern"},
    };
    const auto hook = [&](const char* name, const char* word, std::vector<std::string> rules) {
        all.push_back({name, std::move(rules), tell("hook", word), tell("hook", "0")});
    };
    hook("table of system calls", "syscall", {"system_call_redirected", "watched_memory_changed"});
    hook("operations of /proc", "proc", {"constant_redirected", "watched_memory_changed"});
    hook("ftrace hook", "ftrace", {"view_hooked", "foreign_hook"});
    hook("kprobe", "kprobe", {"view_hooked", "foreign_hook"});
    hook("tracepoint", "tracepoint", {"foreign_hook"});
    hook("netfilter", "netfilter", {"foreign_hook"});
    hook("keys", "keyboard", {"foreign_hook"});
    hook("code of a function", "text", {"patched_code"});
    return all;
}

double quantile(std::vector<double> values, double share) {
    std::ranges::sort(values);
    return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1) + 0.5)];
}

// The first of them that is open, in seconds after `from`.
std::optional<double> alerted(TestAgent& agent, const Technique& technique,
                              std::chrono::system_clock::time_point from) {
    std::optional<double> first;
    for (const json::Value& open : agent.findings()) {
        const auto finding = open.at("finding").value();
        const auto text = [&](const char* key) {
            return std::string(finding.at(key).value().as_string().value());
        };
        if (std::ranges::find(technique.rules, text("rule")) == technique.rules.end()) continue;
        if (!text("subject").starts_with(technique.subject)) continue;
        const auto seen = static_cast<double>(open.at("first_seen").value().as_uint().value());
        const double after =
            seen / 1e9 - std::chrono::duration<double>(from.time_since_epoch()).count();
        if (after >= 0 && (!first || after < *first)) first = after;
    }
    return first;
}

bool is_open(TestAgent& agent, const Technique& technique) {
    return alerted(agent, technique, {}).has_value();
}

void measure(TestVm& vm, TestAgent& agent, const char* what, int rounds) {
    constexpr auto kPatience = 90s;
    const auto all = techniques();
    std::vector<std::vector<double>> seconds(all.size());
    std::mt19937 random(1);
    int missed = 0;
    for (int round = 0; round < rounds; ++round) {
        for (std::size_t i = 0; i < all.size(); ++i) {
            const Technique& technique = all[i];
            for (const auto until = std::chrono::steady_clock::now() + 3min;
                 is_open(agent, technique) && std::chrono::steady_clock::now() < until;) {
                std::this_thread::sleep_for(500ms);
            }
            std::this_thread::sleep_for(15s + std::chrono::milliseconds(random() % 10000));
            const auto from = std::chrono::system_clock::now();
            const auto ran = vm.run(technique.act);
            if (!ran.has_value() || ran->status != 0) {
                fmt::print("{}: not possible in this guest\n", technique.name);
                continue;
            }
            std::optional<double> after;
            const auto patience = std::chrono::steady_clock::now() + kPatience;
            while (!after && std::chrono::steady_clock::now() < patience) {
                std::this_thread::sleep_for(250ms);
                after = alerted(agent, technique, from);
            }
            (void)vm.run(technique.undo);
            if (after) {
                seconds[i].push_back(*after);
            } else {
                ++missed;
                fmt::print("{}: no alert in {} s\n", technique.name, kPatience.count());
            }
        }
    }
    std::vector<double> together;
    for (std::size_t i = 0; i < all.size(); ++i) {
        if (seconds[i].empty()) continue;
        fmt::print("{:<8}{:<34}{:>7.2f} s (median), {:.2f} s (longest of {})\n", what, all[i].name,
                   quantile(seconds[i], 0.5), quantile(seconds[i], 1), seconds[i].size());
        together.insert(together.end(), seconds[i].begin(), seconds[i].end());
    }
    if (together.empty()) return;
    fmt::print(
        "{:<8}all, {} alerts, {} missed: {:.2f} s (median), {:.2f} (p95), {:.2f} (longest)\n", what,
        together.size(), missed, quantile(together, 0.5), quantile(together, 0.95),
        quantile(together, 1));
    const auto status = agent.instance(vm.name()).value();
    const auto number = [&](const char* key) {
        return static_cast<double>(status.at(key).value().as_uint().value());
    };
    fmt::print("{:<8}share of a core so far: {:.2f} %\n", what,
               100 * number("cpu_ns") / number("watched_ns"));
    std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 1;
    const std::string kernel = argc > 2 ? argv[2] : "6.1-cloud";
    if (rounds < 1) {
        fmt::print(stderr, "usage: alert_bench [ROUNDS [KERNEL]]\n");
        return 2;
    }
    auto vm = TestVm::boot({.kernel = kernel, .workload = false});
    if (!vm.has_value()) {
        fmt::print(stderr, "{}\n", vm.error().to_text());
        return 1;
    }
    for (const char* module : {"hide", "pose", "hook"}) {
        vm->output_of(fmt::format("insmod /lib/modules/underseer_{}.ko", module));
    }
    vm->output_of(
        "mkdir -p /usr/bin; sleep 100000 & echo $! > /tmp/.victim; "
        "(while :; do :; done) & echo $! > /tmp/.spinner; kill -STOP $!");
    TestAgent agent(fmt::format("[rules]\nsigma = [\"{}\"]\n", UNDERSEER_RULES));
    agent.start();
    std::this_thread::sleep_for(20s);
    measure(*vm, agent, "at rest", rounds);
    vm->output_of("(while :; do :; done) & (while :; do /bin/true; done) > /dev/null & sleep 1");
    measure(*vm, agent, "busy", rounds);
}
