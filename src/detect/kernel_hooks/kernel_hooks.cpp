#include "detect/kernel_hooks/kernel_hooks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "detect/code_report.h"

namespace underseer::detect::kernel_hooks {

namespace {

using guest_linux::CodeOwner;
using guest_linux::Hook;
using guest_linux::HookKind;

constexpr std::string_view kRebuild =
    "Save the guest's memory (underseer dump), take the instance off the network, and rebuild it.";

constexpr Rule kRules[] = {
    {.id = "hook_to_unaccounted_code",
     .title = "The kernel calls code that nothing accounts for",
     .severity = event::Severity::critical,
     .confidence = 90,
     .technique = "T1014",
     .subject_kind = "hook",
     .reads = "Whom the kernel calls, by its own records: ftrace (every bucket), kprobes, "
              "tracepoints, security modules, netfilter, packet types, protocols, notifiers, "
              "terminals and their line disciplines, program formats, timers, and work that waits. "
              "Each must be code of the kernel, of a module, of BPF or of ftrace.",
     .misses =
         "Timers and work that are not waiting at the moment of the look; workqueues of their "
         "own.",
     .benign = "None known on the kernels that the tests boot.",
     .advice = kRebuild},
    {.id = "security_hook_redirected",
     .title = "Security decision of the kernel made by a module",
     .severity = event::Severity::critical,
     .confidence = 95,
     .technique = "T1562.001",
     .subject_kind = "hook",
     .reads = "The kernel's lists of security modules (security_hook_heads; static_calls_table "
              "since 6.12), which are closed when it has started: no module can be among them.",
     .misses = "A hook of BPF (see bpf programs), and one that was taken out.",
     .benign = "Security products of third parties that force themselves in.",
     .advice = kRebuild},
    {.id = "operation_redirected",
     .title = "The kernel's own table of operations leads into a module",
     .severity = event::Severity::critical,
     .confidence = 90,
     .technique = "T1056.001",
     .subject_kind = "hook",
     .reads =
         "Tables of operations that lie in the kernel's image and may be written: of terminals "
         "and line disciplines, protocols and program formats.",
     .misses = "Tables of other parts.",
     .benign = "None known on the kernels that the tests boot.",
     .advice = kRebuild},
    {.id = "view_hooked",
     .title = "A module hooks what the guest sees of itself",
     .severity = event::Severity::high,
     .confidence = 85,
     .technique = "T1014",
     .subject_kind = "hook",
     .reads = "ftrace hooks and kprobes whose function is a module's, at the functions by which "
              "directories, /proc and sockets are read, and by which processes are signalled.",
     .misses = "A hook of functions that these call, and BPF programs: they are judged by "
               "themselves.",
     .benign = "A tracing tool that works by its own module (SystemTap), while somebody uses it on "
               "just these.",
     .advice = "Who loaded that module (underseer modules, underseer dmesg)? If nobody is tracing: "
               "save the guest's memory (underseer dump) and rebuild it."},
    {.id = "function_redirected",
     .title = "A module sends a function of the kernel elsewhere",
     .severity = event::Severity::high,
     .confidence = 80,
     .technique = "T1014",
     .subject_kind = "hook",
     .reads = "ftrace hooks of a module that may change where the function goes on (IPMODIFY), and "
              "direct calls into a module.",
     .misses = "What is redirected by other means.",
     .benign = "A live patch (kpatch, livepatch).",
     .advice = "Is the instance live-patched? If not: save its memory (underseer dump) and rebuild "
               "it."},
    {.id = "function_hooked",
     .title = "A module hooks a function of the kernel",
     .severity = event::Severity::medium,
     .confidence = 70,
     .technique = "T1014",
     .subject_kind = "hook",
     .reads = "ftrace hooks and kprobes whose function is a module's.",
     .misses = "Hooks by BPF and perf, which are tools of the kernel itself.",
     .benign = "Tracing tools that work by their own module (SystemTap, LTTng, Sysdig).",
     .advice = "Does somebody trace this instance? (underseer modules)"},
    {.id = "foreign_hook",
     .title = "A module that did not come with the kernel watches it",
     .severity = event::Severity::medium,
     .confidence = 60,
     .technique = "T1205",
     .subject_kind = "hook",
     .reads =
         "Tracepoints, netfilter hooks, packet types, notifiers of keys and of terminals, line "
         "disciplines and program formats of modules that were built outside of the kernel's "
         "tree or have no valid signature.",
     .misses = "A module that clears its taint flags.",
     .benign = "Drivers of networks and tracing tools of third parties.",
     .advice = "Is this module meant to be in this instance? (underseer modules)"},
};
enum : std::size_t {
    kUnaccounted,
    kSecurity,
    kOperation,
    kView,
    kRedirected,
    kHooked,
    kForeign,
};

// By which programs in the guest see files, processes, modules and sockets, and act on processes.
// The names of system calls' functions begin with __x64_sys_ or __ia32_.
constexpr std::array<std::string_view, 37> kViewFunctions{"x64_sys_call",
                                                          "x32_sys_call",
                                                          "ia32_sys_call",
                                                          "getdents",
                                                          "getdents64",
                                                          "kill",
                                                          "tkill",
                                                          "tgkill",
                                                          "read",
                                                          "pread64",
                                                          "openat",
                                                          "newstat",
                                                          "newlstat",
                                                          "newfstatat",
                                                          "statx",
                                                          "readlink",
                                                          "readlinkat",
                                                          "bpf",
                                                          "recvmsg",
                                                          "iterate_dir",
                                                          "filldir",
                                                          "filldir64",
                                                          "compat_filldir",
                                                          "proc_pid_readdir",
                                                          "proc_root_readdir",
                                                          "proc_pid_lookup",
                                                          "next_tgid",
                                                          "find_ge_pid",
                                                          "tcp4_seq_show",
                                                          "tcp6_seq_show",
                                                          "udp4_seq_show",
                                                          "udp6_seq_show",
                                                          "raw_seq_show",
                                                          "unix_seq_show",
                                                          "packet_seq_show",
                                                          "m_show",
                                                          "tpacket_rcv"};

bool is_of_view(std::string_view function) {
    for (const std::string_view prefix : {"__x64_sys_", "__ia32_sys_", "__ia32_compat_sys_"}) {
        if (function.starts_with(prefix)) function.remove_prefix(prefix.size());
    }
    return std::ranges::find(kViewFunctions, function) != kViewFunctions.end();
}

bool is_watching(const Hook& hook) {
    switch (hook.kind) {
        case HookKind::tracepoint:
        case HookKind::netfilter:
        case HookKind::packet:
        case HookKind::line_discipline:
        case HookKind::program_format:
            return true;
        case HookKind::notifier:
            return hook.point == "keyboard_notifier_list" || hook.point == "vt_notifier_list" ||
                   hook.point == "reboot_notifier_list" || hook.point == "module_notify_list";
        default:
            return false;
    }
}

bool is_of_functions(const Hook& hook) {
    return hook.kind == HookKind::ftrace || hook.kind == HookKind::kprobe;
}

// Which rule says something about it; nothing: it is as it should be. `in_image`: its record lies
// in the kernel's image.
const Rule* judge(const Hook& hook, const std::optional<CodeOwner>& owner, bool in_image) {
    if (!owner) return &kRules[kUnaccounted];
    if (owner->kind != CodeOwner::Kind::module) return nullptr;
    if (hook.kind == HookKind::security) return &kRules[kSecurity];
    if (is_of_functions(hook)) {
        const bool every = hook.functions.empty();
        if (every || std::ranges::any_of(hook.functions, is_of_view)) return &kRules[kView];
        return &kRules[hook.redirects ? kRedirected : kHooked];
    }
    const bool is_table = hook.kind == HookKind::line_discipline ||
                          hook.kind == HookKind::terminal || hook.kind == HookKind::protocol ||
                          hook.kind == HookKind::program_format;
    if (is_table && in_image) return &kRules[kOperation];
    return owner->is_foreign && is_watching(hook) ? &kRules[kForeign] : nullptr;
}

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    const auto& code = snapshot.code();
    if (!code.has_value()) return code_unknown(code.error());
    const guest_linux::HookList& hooks = snapshot.hooks();
    event::CheckReport report{};
    report.outcome = event::Outcome::clean;
    report.coverage.looked_at = hooks.places;
    add_gaps(report, hooks.gaps);
    if (hooks.places == 0) {
        report.outcome = event::Outcome::unavailable;
        report.reason =
            hooks.gaps.empty() ? "there was nothing to look at" : hooks.gaps.texts.front();
        return report;
    }
    std::string doubt = hooks.gaps.broken;
    const guest_linux::KernelImage& image = snapshot.kernel().image();
    for (const Hook& hook : hooks.hooks) {
        const auto owner = code->owner_of(hook.target);
        const Rule* rule =
            judge(hook, owner, hook.record >= image.begin() && hook.record < image.end());
        if (rule == nullptr) continue;
        // Who could not be asked may own it.
        if (rule == &kRules[kUnaccounted] && !code->gaps.empty()) {
            doubt = code->gaps.texts.front();
            continue;
        }
        event::Finding finding = rule->about(
            fmt::format("{}: {}", to_string(hook.kind), hook.point),
            fmt::format("{:x}:{:x}:{}", hook.record.value, hook.target.value, hook.point));
        finding.evidence = {code_evidence("calls", hook.target, snapshot),
                            {"record", "", hook.record.value, {}}};
        if (hook.functions.size() > 1) {
            std::string all;
            for (const std::string& function : hook.functions) {
                if (all.size() > 1024) break;
                all += (all.empty() ? "" : ", ") + function;
            }
            finding.evidence.push_back({"functions", std::move(all), 0, {}});
        }
        add_finding(report, std::move(finding));
    }
    settle_doubt(report, doubt);
    return report;
}

}  // namespace underseer::detect::kernel_hooks
