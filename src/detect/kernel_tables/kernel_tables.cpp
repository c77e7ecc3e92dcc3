#include "detect/kernel_tables/kernel_tables.h"

#include <fmt/format.h>

#include "detect/code_report.h"

namespace underseer::detect::kernel_tables {

namespace {

constexpr std::string_view kAdvice =
    "The kernel has been altered where it cannot be written by ordinary means. Save its memory "
    "(underseer dump), take the instance off the network, and rebuild it.";

constexpr Rule kRules[] = {
    {.id = "constant_redirected",
     .title = "Constant table of the kernel that leads to code outside of it",
     .severity = event::Severity::critical,
     .confidence = 95,
     .technique = "T1014",
     .subject_kind = "table",
     .reads = "Every word of the kernel's read-only data: operations of files, /proc, /sys, "
              "sockets, terminals and all else that is a constant. None may point to executable "
              "memory outside of the kernel's image.",
     .misses = "A pointer that was set to another function of the kernel, and operations that lie "
               "in memory that may be written (see kernel_hooks).",
     .benign = "None known on the kernels that the tests boot.",
     .advice = kAdvice},
    {.id = "operations_replaced",
     .title = "File or folder that is answered by somebody else",
     .severity = event::Severity::critical,
     .confidence = 90,
     .technique = "T1014",
     .subject_kind = "file",
     .reads = "The tables of operations that each entry of /proc and the root folder of each file "
              "system is bound to: they must lie in the kernel's image or in a module, and those "
              "of what the kernel has itself (/proc, /proc/modules, /proc/net/tcp, ..) in the "
              "image.",
     .misses = "Other files and folders than these; a table of the kernel that was exchanged for "
               "another one of it.",
     .benign = "None known on the kernels that the tests boot.",
     .advice = kAdvice},
};

void judge_bindings(const guest_linux::CodeMap& code, Snapshot& snapshot,
                    event::CheckReport& report) {
    const guest_linux::BindingList& list = snapshot.bindings();
    report.coverage.looked_at += list.bindings.size();
    add_gaps(report, list.gaps);
    std::string doubt = list.gaps.broken;
    for (const guest_linux::Binding& one : list.bindings) {
        const auto owner = code.memory.find(one.target.value);
        using Kind = guest_linux::CodeOwner::Kind;
        if (owner && (!one.is_built_in || owner->value.kind == Kind::kernel)) continue;
        // A module that could not be read may own it.
        if (!owner && !code.gaps.empty()) {
            doubt = code.gaps.texts.front();
            continue;
        }
        event::Finding finding = kRules[1].about(
            one.thing, fmt::format("{:x}:{:x}", one.record.value, one.target.value));
        finding.evidence = {
            {"bound by", one.member, one.record.value, {}},
            {"to a table of", owner ? owner->value.to_text() : "nobody", one.target.value, {}}};
        add_finding(report, std::move(finding));
    }
    settle_doubt(report, doubt);
}

// system_calls and kernel_hooks judge these, and say which call it is.
bool is_judged_elsewhere(std::string_view table) {
    return table.ends_with("sys_call_table") || table.starts_with("__SCK__lsm_static_call");
}

// Where memory for code may lie (mm/execmem.c): the begin of that is where the first code is.
constexpr std::string_view kBounds = "execmem_info";

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    const auto& code = snapshot.code();
    if (!code.has_value()) return code_unknown(code.error());
    const auto& ways = snapshot.ways_out_of_constants();
    if (!ways.has_value()) return code_unknown(ways.error());
    event::CheckReport report{};
    report.outcome = event::Outcome::clean;
    report.coverage.looked_at = ways->bytes / kPageSize;
    report.coverage.unreadable = ways->unreadable_bytes / kPageSize;
    if (ways->unreadable_bytes > 0) {
        add_gap(report,
                fmt::format("{} KiB of constants cannot be read", ways->unreadable_bytes >> 10));
    }
    for (const guest_linux::WayOut& way : ways->found) {
        const std::string place = guest_linux::symbol_text(snapshot.kernel(), way.at);
        const std::string_view table = std::string_view(place).substr(0, place.find('+'));
        if (is_judged_elsewhere(table) || table == kBounds) continue;
        event::Finding finding =
            kRules[0].about(place, fmt::format("{:x}:{:x}", way.at.value, way.target.value));
        finding.evidence = {{"written at", place, way.at.value, {}},
                            code_evidence("leads to", way.target, snapshot)};
        add_finding(report, std::move(finding));
    }
    judge_bindings(*code, snapshot, report);
    return report;
}

}  // namespace underseer::detect::kernel_tables
