#include "detect/guest_view/guest_view.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "detect/code_report.h"
#include "detect/guest_view/views.h"

namespace underseer::detect::guest_view {

namespace {

using event::BpfProgram;
using guest_linux::Hook;
using guest_linux::HookKind;

constexpr std::size_t kMaxCauses = 16;  // that are told

constexpr Rule kRules[] = {
    {.id = "view_altered",
     .title = "What the guest shows of itself can be false",
     .severity = event::Severity::high,
     .confidence = 90,
     .technique = "T1564",
     .subject_kind = "view",
     .reads =
         "The ways by which programs in the guest see its processes, files, sockets, modules, BPF "
         "programs and its kernel's log, from the system call to what gathers the answer: the "
         "dispatch of these calls, the tables of operations on the way (each word must lead to "
         "the function that it is for), what /proc and /sys are bound to, the code of the "
         "functions (against the first look, and ways out of it), and whoever hooks them by "
         "ftrace, kprobes, tracepoints of system calls or BPF.",
     .misses =
         "Code that was altered before the first look and stays in the kernel, what is hidden "
         "in the kernel's own lists (see hidden_process, kernel_modules, network), programs "
         "that were replaced, and file systems that are modules.",
     .benign = "A tracing tool that works by its own module (SystemTap), or a live patch, while it "
               "is at one of these functions.",
     .advice =
         "Do not believe these tools inside the instance. What is there, underseer ps, files, "
         "sockets, modules and dmesg show from outside. Then see to the causes, each of which "
         "is a finding of its own."},
};

class LieDetector {
  public:
    LieDetector(Snapshot& snapshot, event::CheckReport& report)
        : snapshot_(snapshot), kernel_(snapshot.kernel()), report_(report) {}

    // Returns what keeps the answer from being whole; "" when nothing does.
    std::string inspect(const guest_linux::CodeMap& code) {
        note(code.gaps);
        judge_system_calls();
        for (const View& view : views()) {
            for (const TableWord& word : view.tables) judge_table(view, word);
        }
        judge_bindings(code);
        judge_code(code);
        judge_hooks(code);
        judge_bpf();
        if (!causes_.empty()) add_finding(report_, finding());
        return std::move(doubt_);
    }

  private:
    struct Cause {
        std::set<const View*> views;  // empty: all
        event::Evidence evidence;
    };

    void note(const guest_linux::Gaps& gaps) {
        add_gaps(report_, gaps);
        if (doubt_.empty()) doubt_ = gaps.broken;
    }
    void doubt(std::string why) {
        add_gap(report_, why);
        if (doubt_.empty()) doubt_ = std::move(why);
    }
    void steps(std::uint64_t count) { report_.coverage.looked_at += count; }

    template <typename Is>
    std::set<const View*> views_where(Is&& is) const {
        std::set<const View*> found;
        for (const View& view : views()) {
            if (is(view)) found.insert(&view);
        }
        return found;
    }
    std::set<const View*> views_through(std::string_view function) const {
        return views_where([&](const View& view) { return is_on_the_way(view, function); });
    }

    // ---- a call is answered by its function ----------------------------------------------------
    void judge_system_calls() {
        const auto& gates = snapshot_.system_calls();
        steps(gates.gates);
        note(gates.gaps);
        for (const guest_linux::Misdirection& one : gates.misdirected) {
            // Of a switch it is not known which call it is: any may be.
            const std::string_view name = std::string_view(one.gate).substr(0, one.gate.find(' '));
            const bool is_known = name.size() < one.gate.size();
            auto through = views_where([&](const View& view) {
                return std::ranges::find(view.system_calls, name) != view.system_calls.end();
            });
            if (is_known && through.empty()) continue;
            if (!is_known) through.clear();
            causes_.push_back({std::move(through),
                               code_evidence(fmt::format("system call {} is answered by", one.gate),
                                             one.target, snapshot_)});
        }
    }

    // ---- tables lead to their functions --------------------------------------------------------
    void judge_table(const View& view, const TableWord& word) {
        const auto table = kernel_.symbol(word.table);
        const auto member = kernel_.field(word.structure, word.member);
        if (!table.has_value() && !word.is_always) return;
        const auto target = [&]() -> Result<GuestVirt> {
            TRY(kernel_.require({member}));
            return kernel_.read_pointer(TRY(Result(table)), member);
        }();
        if (!target.has_value()) {
            doubt(fmt::format("{}: {}", view.name, target.error().to_text()));
            return;
        }
        steps(1);
        if (is_one_of(*target, word.functions)) return;
        causes_.push_back({{&view},
                           code_evidence(fmt::format("{}.{} leads to", word.table, word.member),
                                         *target, snapshot_)});
    }

    // Whether it is the begin of one of these, whatever the compiler has put behind its name.
    bool is_one_of(GuestVirt address, std::span<const std::string_view> names) const {
        const guest_linux::Symbols& symbols = kernel_.symbols();
        for (std::size_t i = symbols.index_of(address);
             i < symbols.size() && symbols.at(i).address == address; ++i) {
            const std::string_view name = symbols.at(i).name;
            if (std::ranges::find(names, name.substr(0, name.find('.'))) != names.end())
                return true;
        }
        return false;
    }

    // ---- files of /proc and /sys are bound to their tables -----------------------------------
    void judge_bindings(const guest_linux::CodeMap& code) {
        const auto& list = snapshot_.bindings();
        note(list.gaps);
        for (const View& view : views()) {
            for (const Bound& bound : view.bound) {
                bool is_there = false;
                for (const guest_linux::Binding& one : list.bindings) {
                    if (one.thing != bound.thing || one.member != bound.member) continue;
                    is_there = true;
                    steps(1);
                    if (is_one_of(one.target, bound.tables)) continue;
                    const auto owner = code.memory.find(one.target.value);
                    causes_.push_back(
                        {{&view},
                         {fmt::format("{} ({}) is bound to", one.thing, one.member),
                          fmt::format("{}, {}", owner ? owner->value.to_text() : "nobody",
                                      guest_linux::symbol_text(kernel_, one.target)),
                          one.record.value,
                          {}}});
                }
                if (!is_there && bound.is_always && list.gaps.empty()) {
                    doubt(fmt::format("{}: {} is not bound ({})", view.name, bound.thing,
                                      bound.member));
                }
            }
        }
    }

    // ---- functions are what they were ----------------------------------------------------------
    void judge_code(const guest_linux::CodeMap& code) {
        const auto about = [&](GuestVirt at, std::string_view what) {
            const auto function = kernel_.symbols().nearest(at);
            if (!function) return;
            auto through = views_through(function->name);
            if (through.empty()) return;
            causes_.push_back(
                {std::move(through),
                 code_evidence(fmt::format("{} {}", what, guest_linux::symbol_text(kernel_, at)),
                               at, snapshot_)});
        };
        const auto judge = [&](const guest_linux::CodeAlteration& one, std::string_view what) {
            if (!one.is_constant) return about(one.at, what);
            if (misleads(one)) doubt(one.place + " is a constant that was altered (kernel_code)");
        };
        const auto& ways = snapshot_.ways_out_of_code();
        if (!ways.has_value()) return doubt(ways.error().to_text());
        note(ways->gaps);
        for (const guest_linux::WayOut& way : ways->found) about(way.at, "altered code:");
        const auto& altered = snapshot_.altered_code();
        if (!altered.has_value()) return doubt(altered.error().to_text());
        add_gaps(report_, altered->gaps);
        add_gaps(report_, altered->uncompared);
        for (const std::string& limit : altered->limits.texts) add_limit(report_, limit);
        if (altered->unreadable > 0) {
            report_.coverage.unreadable += altered->unreadable;
            doubt(fmt::format("{} pages of code cannot be read", altered->unreadable));
        }
        // Who could not be asked may have been the one.
        const auto& gaps = code.gaps.empty() ? altered->gaps : code.gaps;
        if (!altered->altered.empty() && !gaps.empty()) return doubt(gaps.texts.front());
        for (const guest_linux::CodeAlteration& one : altered->altered) {
            judge(one, "altered code:");
        }
        const auto* unlike = snapshot_.code_unlike_built();
        if (unlike == nullptr) return;
        if (!unlike->has_value()) return doubt(unlike->error().to_text());
        for (const guest_linux::CodeAlteration& one : (*unlike)->altered) {
            judge(one, "code unlike its baseline:");
        }
    }

    // Of a constant: what the kernel says of itself may lead this check past where it should look,
    // and that one function of its own stands for another looks right to it.
    bool misleads(const guest_linux::CodeAlteration& one) const {
        constexpr std::size_t kWord = sizeof(std::uint64_t);
        const GuestVirt begins{one.at.value & ~std::uint64_t{kWord - 1}};
        const auto word = begins < one.shown_from ? std::nullopt
                                                  : load_le<std::uint64_t>(as_bytes(one.after),
                                                                           begins - one.shown_from);
        return (word && kernel_.image().executable(GuestVirt{*word})) ||
               one.place.starts_with("BTF+") || one.place.starts_with("kallsyms+");
    }

    // ---- nobody else is called on the way ------------------------------------------------------
    void judge_hooks(const guest_linux::CodeMap& code) {
        const auto& hooks = snapshot_.hooks();
        note(hooks.gaps);
        using Kind = guest_linux::CodeOwner::Kind;
        for (const Hook& hook : hooks.hooks) {
            const bool is_of_functions =
                hook.kind == HookKind::ftrace || hook.kind == HookKind::kprobe;
            const bool is_of_calls = hook.kind == HookKind::tracepoint &&
                                     (hook.point == "sys_enter" || hook.point == "sys_exit");
            if (!is_of_functions && !is_of_calls) continue;
            steps(1);
            const auto owner = code.owner_of(hook.target);
            if (owner && owner->kind != Kind::module) continue;
            std::set<const View*> through;
            for (const std::string& function : hook.functions) {
                through.merge(views_through(function));
            }
            if (through.empty() && !hook.functions.empty()) continue;
            if (!owner && !code.gaps.empty()) {  // who could not be asked may own it
                doubt(code.gaps.texts.front());
                continue;
            }
            causes_.push_back(
                {std::move(through),
                 code_evidence(fmt::format("{} hook of {} calls", guest_linux::to_string(hook.kind),
                                           hook.point),
                               hook.target, snapshot_)});
        }
    }

    // What a program in the guest reads may be written over before it sees it.
    void judge_bpf() {
        const auto& list = snapshot_.bpf();
        if (!list.has_value()) return doubt(list.error().to_text());
        note(list->gaps);
        steps(list->programs.size());
        for (const BpfProgram& program : list->programs) {
            const bool writes =
                std::ranges::find(program.helpers, "bpf_probe_write_user") != program.helpers.end();
            if (!writes) continue;
            causes_.push_back({{},
                               {"BPF program that writes into processes",
                                fmt::format("{} (id {})", program.name, program.id),
                                program.address,
                                {}}});
        }
    }

    event::Finding finding() const {
        const bool is_all =
            std::ranges::any_of(causes_, [](const Cause& cause) { return cause.views.empty(); });
        std::vector<std::string_view> names, tools;
        for (const View& view : views()) {
            const bool is_affected =
                is_all || std::ranges::any_of(causes_, [&](const Cause& cause) {
                    return cause.views.contains(&view);
                });
            if (!is_affected) continue;
            names.push_back(view.name);
            tools.push_back(view.seen_by);
        }
        event::Finding finding = kRules[0].about(
            is_all ? "everything" : fmt::format("{}", fmt::join(names, ", ")), "view");
        finding.evidence.push_back({"seen by", fmt::format("{}", fmt::join(tools, "; ")), 0, {}});
        for (const Cause& cause : causes_) {
            if (finding.evidence.size() > kMaxCauses) break;
            finding.evidence.push_back(cause.evidence);
        }
        return finding;
    }

    Snapshot& snapshot_;
    guest_linux::Kernel& kernel_;
    event::CheckReport& report_;
    std::vector<Cause> causes_;
    std::string doubt_;
};

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    const auto& code = snapshot.code();
    if (!code.has_value()) return code_unknown(code.error());
    event::CheckReport report{};
    report.outcome = event::Outcome::clean;
    settle_doubt(report, LieDetector(snapshot, report).inspect(*code));
    return report;
}

}  // namespace underseer::detect::guest_view
