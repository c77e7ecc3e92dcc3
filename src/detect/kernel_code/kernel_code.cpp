#include "detect/kernel_code/kernel_code.h"

#include <fmt/format.h>

#include <algorithm>

#include "detect/code_report.h"

namespace underseer::detect::kernel_code {

namespace {

using guest_linux::CodeMap;
using guest_linux::CodeRange;

constexpr std::size_t kInstructions = 3;
constexpr std::size_t kLongestInstruction = 15;

constexpr std::string_view kAdvice =
    "Save the guest's memory now (underseer dump): the code is nowhere else. Take the instance off "
    "the network, and rebuild it.";

constexpr std::string_view kConstantsAdvice =
    "Save the guest's memory now (underseer dump). If what was altered is in kallsyms or BTF, what "
    "else is said of this guest may be misled. Take it off the network, and "
    "rebuild it.";
constexpr std::string_view kAlteredConstant = "altered_constant";

constexpr Rule kRules[] = {
    {.id = "unaccounted_code",
     .title = "Executable memory in the kernel that nothing accounts for",
     .severity = event::Severity::critical,
     .confidence = 85,
     .technique = "T1014",
     .subject_kind = "code",
     .reads = "The page tables of the kernel's half of memory: every page that can be executed. It "
              "must be of the kernel's image, a module, a BPF program, an ftrace trampoline, a "
              "kprobe's slot or the code that starts a CPU, as the kernel's own records have them. "
              "A module that has wiped itself out of all lists still runs from its pages.",
     .misses =
         "Code in the rest of a page that is accounted for, and code that a record was forged "
         "for.",
     .benign = "None known on the kernels that the tests boot.",
     .advice = kAdvice},
    {.id = "writable_code",
     .title = "Memory in the kernel that is writable and executable",
     .severity = event::Severity::high,
     .confidence = 80,
     .technique = "T1014",
     .subject_kind = "code",
     .reads = "The rights of every executable page of the kernel's half of memory, over all levels "
              "of its page tables.",
     .misses = "A page that is made writable for a moment.",
     .benign = "None known on the kernels that the tests boot.",
     .advice = kAdvice},
    {.id = "patched_code",
     .title = "Code of the kernel that was altered to lead out of it",
     .severity = event::Severity::critical,
     .confidence = 90,
     .technique = "T1014",
     .subject_kind = "code",
     .reads =
         "Every call and jump of the kernel's code, and every address that stands in it: none "
         "may lead into a module, or where nothing accounts for the code. What the kernel has "
         "patched itself is told apart by its own records: ftrace, BPF, kprobes, static calls.",
     .misses = "A patch that stays in the kernel's code, or goes out by an address in a register "
               "that it computes.",
     .benign = "None known on the kernels that the tests boot.",
     .advice = kAdvice},
    {.id = "altered_code",
     .title = "Code of the kernel that was altered while it was watched",
     .severity = event::Severity::critical,
     .confidence = 85,
     .technique = "T1014",
     .subject_kind = "code",
     .reads = "Every byte of the kernel's code, of its modules' and of the vDSO that it gives to "
              "processes against what the first look at this guest has seen. "
              "Where the kernel alters its code itself it must be what such a place can hold: jump "
              "labels to their target, static calls to their function, calls of ftrace, BPF and "
              "kprobes.",
     .misses = "What was altered before the first look; of a module, before it was seen loaded, or "
               "with a new entry in sysfs that makes it another one.",
     .benign = "A live patch that is not by ftrace.",
     .advice = kAdvice},
    {.id = "code_unlike_baseline",
     .title = "Code of the kernel that is not as the kernel was built",
     .severity = event::Severity::critical,
     .confidence = 90,
     .technique = "T1014",
     .subject_kind = "code",
     .reads =
         "Every byte of the kernel's code against the kernel's own file, where its baseline is "
         "kept (underseer baseline make) or given (check --baseline). Told apart is what a "
         "kernel makes of its code itself: KASLR moves it; when it starts it takes "
         "alternative instructions for the CPU, calls paravirtual functions directly, and "
         "drops retpolines and return thunks that the CPU does not need; while it runs it "
         "patches jump labels, static calls, and calls of ftrace, BPF and kprobes. What "
         "stands at each of these places must be what it can hold.",
     .misses = "Modules: they are not in the baseline. An alternative that is in the "
               "kernel's lists and not meant for this CPU.",
     .benign = "A live patch that is not by ftrace; a hypervisor that patches the kernel itself.",
     .advice = kAdvice},
    {.id = kAlteredConstant,
     .title = "Constants of the kernel that were altered while it was watched",
     .severity = event::Severity::critical,
     .confidence = 90,
     .technique = "T1014",
     .subject_kind = "memory",
     .reads =
         "Every byte of the kernel's read-only data against what the first look at this guest "
         "has seen: its tables of operations, its strings, and what it says of itself "
         "(kallsyms, BTF), by which everything else in the guest is found. Nothing writes there "
         "once a kernel is up.",
     .misses = "What was altered before the first look. What leads out of the kernel is told by "
               "kernel_tables and system_calls instead.",
     .benign = "None known on the kernels that the tests boot.",
     .advice = kConstantsAdvice},
    {.id = "constant_unlike_baseline",
     .title = "Constants of the kernel that are not as the kernel was built",
     .severity = event::Severity::critical,
     .confidence = 90,
     .technique = "T1014",
     .subject_kind = "memory",
     .reads = "Every byte of the kernel's read-only data against the kernel's own file, where its "
              "baseline is kept (underseer baseline make) or given (check --baseline): tables of "
              "operations, strings, and what the kernel says of itself (kallsyms, BTF). Told apart "
              "are addresses, which KASLR moves, and what the kernel writes while it starts.",
     .misses = "What the kernel writes while it starts and never again (__ro_after_init).",
     .benign = "A hypervisor that patches the kernel itself.",
     .advice = kConstantsAdvice},
    {.id = kUnlikeFirstSeen,
     .title = "Code or constants of the kernel that are not as other guests have them",
     .severity = event::Severity::high,
     .confidence = 75,
     .technique = "T1014",
     .subject_kind = "code",
     .reads =
         "Where no baseline of the kernel's file is kept: every byte of the kernel's code and "
         "constants against "
         "what the first guest that ran the same build, on a CPU with the same features, was seen "
         "to run; kept by the agent, signed, over the ends of guests and its own. Told apart is "
         "what differs between guests anyway: where KASLR has put it, numbers that are known only "
         "when a kernel starts, and all that it patches while it runs. Where code differs, it is "
         "told about those guests that are fewer, even if one of them was the first.",
     .misses =
         "Modules. What all guests of the host have alike. Who can start more "
         "guests with the same altered kernel than there are others has them all told as odd.",
     .benign = "Of two guests that differ, it is told about the later one, and may be true of the "
               "earlier one. A live patch that is not by ftrace.",
     .advice =
         "Make a baseline of the kernel's own file (underseer baseline make), which says which "
         "guest is altered; then take evidence of it (underseer act VM capture)."},
};
constexpr const Rule& kAltered = kRules[3];
constexpr const Rule& kUnlike = kRules[4];
constexpr const Rule& kAlteredConstants = kRules[5];
constexpr const Rule& kUnlikeConstants = kRules[6];
constexpr const Rule& kUnlikeOthers = kRules[7];
constexpr const Rule& kUnaccounted = kRules[0];
constexpr const Rule& kWritable = kRules[1];
constexpr const Rule& kPatched = kRules[2];

// By the kernel itself: a kernel that is to be started by kexec, and until 5.19 the trampolines of
// BPF (bpf_jit_alloc_exec_page(), kernel/bpf/trampoline.c of 5.10).
bool is_made_writable(const guest_linux::CodeOwner& owner) {
    using Kind = guest_linux::CodeOwner::Kind;
    return owner.kind == Kind::kexec || (owner.kind == Kind::bpf && owner.is_stub);
}

event::Finding about_code(const Rule& rule, const CodeRange& range, Snapshot& snapshot) {
    event::Finding finding =
        rule.about(fmt::format("{} KiB at {:#x}", range.size_bytes >> 10, range.begin.value),
                   fmt::format("{:x}", range.begin.value));
    finding.evidence = {code_evidence("belongs to", range.begin, snapshot)};
    return finding;
}

// Returns them, those included that another check tells. `doubt` becomes what keeps them from being
// judged whole.
std::vector<guest_linux::WayOut> judge_ways_out(Snapshot& snapshot, event::CheckReport& report,
                                                std::string& doubt) {
    const auto& ways = snapshot.ways_out_of_code();
    if (!ways.has_value()) {
        doubt = ways.error().to_text();
        return {};
    }
    add_gaps(report, ways->gaps);
    if (!ways->gaps.empty()) doubt = ways->gaps.texts.front();
    if (ways->unreadable_bytes > 0) {
        report.coverage.unreadable += ways->unreadable_bytes / kPageSize;
        add_gap(report, fmt::format("{} KiB of the kernel's code cannot be read",
                                    ways->unreadable_bytes >> 10));
    }
    for (const guest_linux::WayOut& way : ways->found) {
        const std::string place = guest_linux::symbol_text(snapshot.kernel(), way.at);
        // system_calls judges these, and says what it is.
        if (place.substr(0, place.find('+')).ends_with("_sys_call")) continue;
        event::Finding finding =
            kPatched.about(place, fmt::format("{:x}:{:x}", way.at.value, way.target.value));
        finding.evidence = {code_evidence("altered", way.at, snapshot),
                            code_evidence("leads to", way.target, snapshot)};
        add_finding(report, std::move(finding));
    }
    return ways->found;
}

// What an alteration is of code or a constant, what its bytes are called, and from where on it is
// told apart.
struct Terms {
    const Rule &of_code, &of_constant;
    const char *then, *now;
    GuestVirt origin{};
};

// The word that was altered: as what it leads to, or as a number.
std::string word_text(const guest_linux::CodeAlteration& one, const std::string& bytes,
                      Snapshot& snapshot) {
    const GuestVirt begins{one.at.value & ~std::uint64_t{sizeof(std::uint64_t) - 1}};
    if (begins < one.shown_from) return {};
    const auto word = load_le<std::uint64_t>(as_bytes(bytes), begins - one.shown_from);
    if (!word) return {};
    return snapshot.kernel().image().executable(GuestVirt{*word})
               ? guest_linux::symbol_text(snapshot.kernel(), GuestVirt{*word})
               : fmt::format("{:#018x}", *word);
}

// `told`: what leads out of the kernel is told as that.
void judge_comparison(const Terms& terms, const Result<guest_linux::CodeComparison>& compared,
                      const CodeMap& code, const std::vector<guest_linux::WayOut>& told,
                      Snapshot& snapshot, event::CheckReport& report, std::string& doubt) {
    if (!compared.has_value()) {
        doubt = compared.error().to_text();
        return;
    }
    add_gaps(report, compared->gaps);
    add_gaps(report, compared->uncompared);
    for (const std::string& limit : compared->limits.texts) add_limit(report, limit);
    for (const guest_linux::CodeAlteration& one : compared->altered) {
        // Who could not be asked may have been the one. Nobody may write to a constant.
        const auto& gaps = code.gaps.empty() ? compared->gaps : code.gaps;
        if (!one.is_constant && !gaps.empty()) {
            doubt = gaps.texts.front();
            continue;
        }
        const std::uint64_t reach = one.is_constant ? sizeof(std::uint64_t) : kLongestInstruction;
        const bool leads_out = std::ranges::any_of(told, [&](const guest_linux::WayOut& way) {
            return one.at >= way.at && one.at - way.at < reach;
        });
        if (leads_out) continue;
        const Rule& rule = one.is_constant ? terms.of_constant : terms.of_code;
        event::Finding finding = rule.about(one.place, fmt::format("{:x}", one.at - terms.origin));
        guest_linux::Disassembler disassembler;
        const auto shown = [&](const char* name, const std::string& bytes) {
            const std::size_t skipped = one.at - one.shown_from;
            return event::Evidence{
                name,
                one.is_constant
                    ? word_text(one, bytes, snapshot)
                    : disassembler.text(as_bytes(bytes).subspan(skipped), one.at, kInstructions),
                one.shown_from.value, bytes};
        };
        finding.evidence = {shown(terms.then, one.before), shown(terms.now, one.after)};
        add_finding(report, std::move(finding));
    }
}

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    const auto& mapped = snapshot.code();
    if (!mapped.has_value()) return code_unknown(mapped.error());
    const CodeMap& map = *mapped;
    event::CheckReport report{};
    report.outcome = event::Outcome::clean;
    for (const CodeRange& range : map.executable) {
        report.coverage.looked_at += range.size_bytes / kPageSize;
        if (!range.writable) continue;
        const auto owner = map.owner_of(range.begin);
        if (owner && is_made_writable(*owner)) continue;
        add_finding(report, about_code(kWritable, range, snapshot));
    }
    std::string doubt = map.gaps.broken;
    auto told = judge_ways_out(snapshot, report, doubt);
    // What leads out of the constants is told by others.
    if (const auto& ways = snapshot.ways_out_of_constants(); ways.has_value()) {
        told.insert(told.end(), ways->found.begin(), ways->found.end());
    }
    judge_comparison({kAltered, kAlteredConstants, "before", "after"}, snapshot.altered_code(), map,
                     told, snapshot, report, doubt);
    const auto* built = snapshot.code_unlike_built();
    const auto* seen = snapshot.code_unlike_first_seen();
    if (built != nullptr) {
        judge_comparison({kUnlike, kUnlikeConstants, "as built", "now"}, *built, map, told,
                         snapshot, report, doubt);
    } else if (seen != nullptr) {
        // By where it is in the image: that is the same in all guests.
        const auto text = snapshot.kernel().symbol("_text");
        judge_comparison(
            {kUnlikeOthers, kUnlikeOthers, "as first seen", "now", text.value_or(GuestVirt{})},
            *seen, map, told, snapshot, report, doubt);
    }
    if (const auto* compared = built != nullptr ? built : seen) {
        if (compared->has_value() && (*compared)->unreadable > 0) {
            report.coverage.unreadable += (*compared)->unreadable;
            doubt = fmt::format(
                "{} pages of the kernel's code could not be read to compare them "
                "with its baseline",
                (*compared)->unreadable);
        }
    }
    add_gaps(report, map.gaps);
    for (const CodeMap::Stray& stray : map.strays) {
        // Who could not be asked may own it.
        if (!map.gaps.empty()) {
            doubt = map.gaps.texts.front();
            break;
        }
        event::Finding finding = about_code(kUnaccounted, stray.range, snapshot);
        if (!stray.area.empty()) {
            finding.evidence.push_back({"area asked for by", stray.area, 0, {}});
        }
        add_finding(report, std::move(finding));
    }
    settle_doubt(report, doubt);
    return report;
}

}  // namespace underseer::detect::kernel_code
