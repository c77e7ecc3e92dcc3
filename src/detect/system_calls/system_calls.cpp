#include "detect/system_calls/system_calls.h"

#include <fmt/format.h>

#include "detect/code_report.h"

namespace underseer::detect::system_calls {

namespace {

using guest_linux::DispatchReport;
using guest_linux::Misdirection;

constexpr std::string_view kAdvice =
    "What programs in the guest ask of the kernel is answered by somebody else: nothing that they "
    "show can be relied on. Save its memory (underseer dump), take the instance off the network, "
    "and rebuild it.";

constexpr Rule kRules[] = {
    {.id = "system_call_redirected",
     .title = "System call answered by code that is not the kernel's own",
     .severity = event::Severity::critical,
     .confidence = 95,
     .technique = "T1014",
     .subject_kind = "system call",
     .reads =
         "Each entry of sys_call_table against the function of that number, those of the "
         "tables for 32-bit and x32 programs against the names of such functions; and since "
         "6.9, where the tables are not used any more, each jump of x64_sys_call and its like, "
         "as instructions.",
     .misses = "Two calls of x64_sys_call that were exchanged with each other, and of the tables "
               "of 32-bit programs. What is patched inside a function: see patched_code.",
     .benign = "None known on the kernels that the tests boot. Some security products of third "
               "parties hook system calls so.",
     .advice = kAdvice},
    {.id = "interrupt_redirected",
     .title = "Interrupt answered by code that is not the kernel's own",
     .severity = event::Severity::critical,
     .confidence = 95,
     .technique = "T1014",
     .subject_kind = "interrupt",
     .reads = "Every gate of the kernel's table of interrupts: it must go to the kernel's entry "
              "code.",
     .misses = "A CPU that uses another table (see decoy_kernel), and gates that were exchanged "
               "with each other.",
     .benign = "None known on the kernels that the tests boot.",
     .advice = kAdvice},
};

void tell(const Rule& rule, const DispatchReport& gates, Snapshot& snapshot,
          event::CheckReport& report) {
    report.coverage.looked_at += gates.gates;
    add_gaps(report, gates.gaps);
    for (const Misdirection& one : gates.misdirected) {
        event::Finding finding =
            rule.about(one.gate, fmt::format("{:x}:{:x}", one.record.value, one.target.value));
        finding.evidence = {{"expected", one.expected, 0, {}},
                            {"written at", "", one.record.value, {}},
                            code_evidence("answers", one.target, snapshot)};
        add_finding(report, std::move(finding));
    }
    settle_doubt(report, gates.gaps.broken);
}

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    event::CheckReport report{};
    report.outcome = event::Outcome::clean;
    tell(kRules[0], snapshot.system_calls(), snapshot, report);
    tell(kRules[1], snapshot.guest().interrupts(), snapshot, report);
    if (report.coverage.looked_at == 0) {
        report.outcome = event::Outcome::unavailable;
        report.reason = report.coverage.gaps.empty() ? "there was nothing to look at"
                                                     : report.coverage.gaps.front();
    }
    return report;
}

}  // namespace underseer::detect::system_calls
