#include "detect/bpf_programs/bpf_programs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "detect/code_report.h"

namespace underseer::detect::bpf_programs {

namespace {

using guest_linux::BpfProgram;

constexpr Rule kRules[] = {
    {.id = "hidden_bpf_program",
     .title = "BPF program hidden inside the guest",
     .severity = event::Severity::critical,
     .confidence = 95,
     .technique = "T1014",
     .subject_kind = "BPF program",
     .reads = "The kernel's table of BPF programs, which bpftool and every other tool reads, "
              "against its list of their symbols: a program with a number is in the first.",
     .misses = "A program that was taken out of both, and one that was never compiled.",
     .benign = "None known: the kernel itself takes a program out of both at about the same time.",
     .advice =
         "Code that hides runs in the kernel: nothing that the guest says of itself can be "
         "relied on. Save its memory (underseer dump), take the instance off the network, and "
         "rebuild it."},
    {.id = "bpf_writes_user_memory",
     .title = "BPF program that writes into the memory of processes",
     .severity = event::Severity::high,
     .confidence = 80,
     .technique = "T1565.003",
     .subject_kind = "BPF program",
     .reads = "The calls in each program's code: bpf_probe_write_user. With it a program changes "
              "what a process reads: lists of files, of processes, of sockets.",
     .misses = "A program that changes packets or answers of the network, as its type lets it.",
     .benign = "Experiments; the kernel itself warns of it in its log.",
     .advice = "Who loaded it (underseer dmesg; underseer files, of bpf-prog)? What the guest's "
               "own tools show may be false."},
    {.id = "bpf_overrides_functions",
     .title = "BPF program that makes functions of the kernel fail",
     .severity = event::Severity::medium,
     .confidence = 70,
     .technique = "T1562",
     .subject_kind = "BPF program",
     .reads = "The calls in each program's code: bpf_override_return.",
     .misses = "Programs of security modules (LSM) and of cgroups, which refuse by their type.",
     .benign = "Security agents that enforce by it (Tetragon), tests that inject faults.",
     .advice = "Is such an agent meant to be in this instance?"},
};

const Rule* judge(const BpfProgram& program) {
    const auto calls = [&](std::string_view helper) {
        return std::ranges::find(program.helpers, helper) != program.helpers.end();
    };
    if (!program.is_listed) return &kRules[0];
    if (calls("bpf_probe_write_user")) return &kRules[1];
    return calls("bpf_override_return") ? &kRules[2] : nullptr;
}

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    const auto& list = snapshot.bpf_programs();
    if (!list.has_value()) return code_unknown(list.error());
    event::CheckReport report{};
    report.outcome = event::Outcome::clean;
    report.coverage.looked_at = list->programs.size();
    add_gaps(report, list->gaps);
    for (const BpfProgram& program : list->programs) {
        const Rule* rule = judge(program);
        if (rule == nullptr) continue;
        event::Finding finding = rule->about(
            fmt::format("{} (id {})", program.name.empty() ? "without a name" : program.name,
                        program.id),
            fmt::format("{}:{:x}", program.id, program.address.value));
        finding.evidence = {{"type", program.type, 0, {}},
                            {"loaded by", fmt::format("uid {}", program.uid), 0, {}},
                            {"calls", fmt::format("{}", fmt::join(program.helpers, ", ")), 0, {}},
                            {"struct bpf_prog", "", program.address.value, {}}};
        if (program.code) {
            finding.evidence.push_back(code_evidence("code", program.code, snapshot));
        }
        add_finding(report, std::move(finding));
    }
    // With one record alone no program can be seen to be missing in the other.
    settle_doubt(report, list->gaps.empty() ? "" : list->gaps.texts.front());
    return report;
}

}  // namespace underseer::detect::bpf_programs
