// Every check there is: a folder, and a row here.
#include <algorithm>
#include <array>

#include "detect/bpf_programs/bpf_programs.h"
#include "detect/check.h"
#include "detect/confirmed_check.h"
#include "detect/container_escape/container_escape.h"
#include "detect/credentials/credentials.h"
#include "detect/decoy_kernel/decoy_kernel.h"
#include "detect/event_rules/event_rules.h"
#include "detect/guest_view/guest_view.h"
#include "detect/helper_programs/helper_programs.h"
#include "detect/hidden_process/hidden_process.h"
#include "detect/hidden_runner/hidden_runner.h"
#include "detect/io_uring/io_uring.h"
#include "detect/kernel_code/kernel_code.h"
#include "detect/kernel_hooks/kernel_hooks.h"
#include "detect/kernel_modules/kernel_modules.h"
#include "detect/kernel_tables/kernel_tables.h"
#include "detect/network/network.h"
#include "detect/packet_sockets/packet_sockets.h"
#include "detect/preload/preload.h"
#include "detect/process_code/process_code.h"
#include "detect/process_names/process_names.h"
#include "detect/program_files/program_files.h"
#include "detect/program_integrity/program_integrity.h"
#include "detect/system_calls/system_calls.h"
#include "detect/tracing/tracing.h"
#include "detect/watched_memory/watched_memory.h"

namespace underseer::detect {

namespace {

using guest_linux::kSignOfCode;
using guest_linux::kSignOfEnds;
using guest_linux::kSignOfHooks;
using guest_linux::kSignOfModules;
using guest_linux::kSignOfPrograms;
using guest_linux::kSignOfTasks;
using guest_linux::Signs;
using std::chrono::seconds;

std::unique_ptr<Check> make_hidden_process(CheckOptions options) {
    using SearchRam = HiddenProcessCheck::SearchRam;
    return std::make_unique<HiddenProcessCheck>(options.search_ram ? SearchRam::always
                                                                   : SearchRam::on_suspicion);
}

std::unique_ptr<Check> make_event_rules(CheckOptions options) {
    return make_event_rules_check(options.event_rules);
}

template <const std::string_view& name, ConfirmedCheck::Inspect inspect>
CheckKind confirmed(std::span<const Rule> rules, std::string_view summary, std::string_view counts,
                    seconds every, Signs signs = 0) {
    const auto make = [](CheckOptions) -> std::unique_ptr<Check> {
        return std::make_unique<ConfirmedCheck>(name, inspect);
    };
    return {name, summary, counts, every, rules, make, signs};
}

const std::array kChecks{
    CheckKind{HiddenProcessCheck::kName, "processes that the guest hides from itself", "task",
              seconds(10), std::span(&HiddenProcessCheck::kRule, 1), &make_hidden_process,
              kSignOfTasks | kSignOfEnds},
    confirmed<process_names::kName, process_names::inspect>(
        process_names::rules(),
        "programs that go by the name of a kernel thread or a system's program", "process",
        seconds(10), kSignOfTasks),
    confirmed<program_files::kName, program_files::inspect>(
        program_files::rules(), "programs that are no file, or whose file was deleted", "process",
        seconds(10), kSignOfTasks),
    confirmed<credentials::kName, credentials::inspect>(
        credentials::rules(), "credentials that the kernel's own ways cannot have made", "task",
        seconds(10), kSignOfTasks),
    confirmed<tracing::kName, tracing::inspect>(tracing::rules(),
                                                "processes that are traced, and by whom", "task",
                                                seconds(10), kSignOfTasks),
    confirmed<preload::kName, preload::inspect>(
        preload::rules(), "libraries that the environment forces into programs", "process",
        seconds(30), kSignOfTasks),
    confirmed<packet_sockets::kName, packet_sockets::inspect>(
        packet_sockets::rules(), "who reads the network below its own connections", "socket",
        seconds(30), kSignOfTasks | kSignOfHooks),
    confirmed<network::kName, network::inspect>(
        network::rules(), "sockets that no process has, and interfaces that take all packets",
        "socket", seconds(30), kSignOfTasks),
    confirmed<io_uring::kName, io_uring::inspect>(io_uring::rules(),
                                                  "who does input and output by io_uring", "task",
                                                  seconds(30), kSignOfTasks),
    confirmed<container_escape::kName, container_escape::inspect>(
        container_escape::rules(), "processes of containers that have left them", "process",
        seconds(10), kSignOfTasks),
    confirmed<process_code::kName, process_code::inspect>(
        process_code::rules(), "code in processes that is not what their files say", "process",
        seconds(60), kSignOfTasks),
    confirmed<program_integrity::kName, program_integrity::inspect>(
        program_integrity::rules(),
        "programs and libraries that are not as their packages have them", "process", seconds(300)),
    confirmed<kernel_modules::kName, kernel_modules::inspect>(
        kernel_modules::rules(),
        "modules that the guest hides, or that did not come with its kernel", "module", seconds(10),
        kSignOfModules),
    confirmed<kernel_code::kName, kernel_code::inspect>(
        kernel_code::rules(),
        "code in the kernel that nothing accounts for, and code of its own that was altered",
        "page", seconds(60), kSignOfModules | kSignOfCode),
    confirmed<system_calls::kName, system_calls::inspect>(
        system_calls::rules(), "who answers system calls and interrupts", "gate", seconds(10),
        kSignOfModules | kSignOfCode),
    confirmed<kernel_tables::kName, kernel_tables::inspect>(
        kernel_tables::rules(),
        "tables of the kernel's operations that lead to somebody else's code", "table", seconds(30),
        kSignOfModules),
    confirmed<kernel_hooks::kName, kernel_hooks::inspect>(
        kernel_hooks::rules(), "whom the kernel calls when something happens", "place", seconds(30),
        kSignOfModules | kSignOfCode | kSignOfHooks),
    confirmed<bpf_programs::kName, bpf_programs::inspect>(
        bpf_programs::rules(), "BPF programs that hide, or change what others see", "program",
        seconds(30), kSignOfPrograms),
    confirmed<helper_programs::kName, helper_programs::inspect>(
        helper_programs::rules(), "programs that the kernel itself is told to start", "setting",
        seconds(30)),
    confirmed<guest_view::kName, guest_view::inspect>(
        guest_view::rules(), "whether what the guest shows of itself can be believed", "step",
        seconds(30)),
    CheckKind{EventRules::kName,
              "what is started, connected and loaded, by Sigma rules",
              "event",
              seconds(5),
              {},
              &make_event_rules,
              kSignOfTasks | kSignOfModules},
};

}  // namespace

std::span<const CheckKind> all_checks() {
    return kChecks;
}

std::span<const std::string_view> check_names() {
    static const auto names = [] {
        std::array<std::string_view, kChecks.size()> all;
        std::ranges::transform(kChecks, all.begin(), &CheckKind::name);
        return all;
    }();
    return names;
}

const CheckKind* find_check(std::string_view name) {
    const auto found = std::ranges::find(kChecks, name, &CheckKind::name);
    return found == kChecks.end() ? nullptr : &*found;
}

std::vector<std::unique_ptr<Check>> make_checks(std::span<const std::string> names,
                                                CheckOptions options) {
    std::vector<std::unique_ptr<Check>> checks;
    for (const CheckKind& kind : kChecks) {
        if (!names.empty() && std::ranges::find(names, kind.name) == names.end()) continue;
        const bool has_rules = options.event_rules != nullptr && options.event_rules->has_work();
        if (names.empty() && kind.name == EventRules::kName && !has_rules) continue;
        if (names.empty() && kind.name == program_integrity::kName && !options.knows_programs) {
            continue;
        }
        checks.push_back(kind.make(options));
    }
    return checks;
}

bool is_rule_of(std::string_view rule, std::string_view check) {
    if (check == EventRules::kName) return rule.starts_with(sigma::kRulePrefix);
    return std::ranges::find(rules_of(check), rule, &Rule::id) != rules_of(check).end();
}

std::span<const Rule> rules_of(std::string_view check) {
    if (check == DecoyKernelCheck::kName) return DecoyKernelCheck::rules();
    if (check == MemoryWatch::kName) return MemoryWatch::rules();
    if (check == HiddenRunnerWatch::kName) return HiddenRunnerWatch::rules();
    const CheckKind* kind = find_check(check);
    return kind == nullptr ? std::span<const Rule>() : kind->rules;
}

}  // namespace underseer::detect
