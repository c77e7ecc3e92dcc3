#include "detect/bpf_programs/bpf_programs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <span>
#include <unordered_map>

#include "detect/code_report.h"

namespace underseer::detect::bpf_programs {

namespace {

using event::BpfLink;
using event::BpfMap;
using event::BpfProgram;

// Of what one finding names of a kind.
constexpr std::size_t kMaxNamed = 32;

constexpr std::string_view kHidesInKernel =
    "Code that hides runs in the kernel: nothing that the guest says of itself can be relied on. "
    "Save its memory (underseer dump), take the instance off the network, and rebuild it.";

constexpr Rule kRules[] = {
    {.id = "hidden_bpf_program",
     .title = "BPF program hidden inside the guest",
     .severity = event::Severity::critical,
     .confidence = 95,
     .technique = "T1014",
     .subject_kind = "BPF program",
     .reads = "The kernel's table of BPF programs, which bpftool and every other tool reads, "
              "against its list of their symbols, its links, and the places where it finds the "
              "programs that it runs: cgroups, trampolines of functions, tracepoints, perf events, "
              "XDP, tc and tcx of interfaces, netfilter, network namespaces.",
     .misses = "A program that is in none of these: of a socket, of a map of programs or sockets, "
               "of a tunnel's route, of an action or a class of tc, of a netkit device, of several "
               "functions at once (kprobe_multi, uprobe_multi), of an iterator or of struct_ops; "
               "one of a perf event whose maker has ended.",
     .benign = "None known: the kernel takes a program out of them at about the same time.",
     .advice = kHidesInKernel},
    {.id = "hidden_bpf_map",
     .title = "BPF map hidden inside the guest",
     .severity = event::Severity::critical,
     .confidence = 95,
     .technique = "T1014",
     .subject_kind = "BPF map",
     .reads = "The kernel's table of BPF maps, which bpftool reads, against those that its "
              "programs use.",
     .misses = "A map that no program uses by itself: one inside another, or of processes alone.",
     .benign = "None known: a map is in the table for as long as a program uses it.",
     .advice = kHidesInKernel},
    {.id = "hidden_bpf_link",
     .title = "BPF link hidden inside the guest",
     .severity = event::Severity::critical,
     .confidence = 95,
     .technique = "T1014",
     .subject_kind = "BPF link",
     .reads = "The kernel's table of BPF links, which bpftool reads to tell where programs are "
              "attached, against the links at these places: cgroups, trampolines of functions, "
              "raw tracepoints, XDP and tcx of interfaces, netfilter, network namespaces.",
     .misses = "A link of a perf event, of a netkit device, of several functions (kprobe_multi, "
               "uprobe_multi), of an iterator or of struct_ops: no place that is looked at names "
               "it.",
     .benign = "None known: the kernel takes a link from its place right after the table.",
     .advice = kHidesInKernel},
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
     .advice = "Who loaded it (underseer bpf, underseer dmesg)? What the guest's own tools show "
               "may be false."},
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
constexpr const Rule &kHiddenProgram = kRules[0], &kHiddenMap = kRules[1], &kHiddenLink = kRules[2],
                     &kWrites = kRules[3], &kOverrides = kRules[4];

class Judge {
  public:
    Judge(Snapshot& snapshot, const guest_linux::BpfObjects& objects, event::CheckReport& report)
        : snapshot_(snapshot), objects_(objects), report_(report) {
        for (const BpfProgram& program : objects_.programs) programs_.emplace(program.id, &program);
    }

    void judge() {
        for (const BpfProgram& program : objects_.programs) judge(program);
        for (const BpfMap& map : objects_.maps) judge(map);
        for (const BpfLink& link : objects_.links) judge(link);
    }

  private:
    template <typename T>
    static std::string named(const T& object) {
        return fmt::format("{} (id {})", object.name.empty() ? "without a name" : object.name,
                           object.id);
    }
    static std::string key_of(std::uint32_t id, std::uint64_t address) {
        return fmt::format("{}:{:x}", id, address);
    }

    static const Rule* rule_of(const BpfProgram& program) {
        const auto calls = [&](std::string_view helper) {
            return std::ranges::find(program.helpers, helper) != program.helpers.end();
        };
        if (!program.listed) return &kHiddenProgram;
        if (calls("bpf_probe_write_user")) return &kWrites;
        return calls("bpf_override_return") ? &kOverrides : nullptr;
    }

    void judge(const BpfProgram& program) {
        const Rule* rule = rule_of(program);
        if (rule == nullptr) return;
        if (is_full(report_)) return add_finding(report_, {});
        event::Finding finding = rule->about(named(program), key_of(program.id, program.address));
        finding.evidence = {{"type", program.type, 0, {}},
                            {"loaded by", fmt::format("uid {}", program.uid), 0, {}},
                            {"attached to", attachments_of(program), 0, {}},
                            {"held by", holders_of(program.address), 0, {}},
                            {"calls", joined(program.helpers, ", "), 0, {}},
                            {"struct bpf_prog", "", program.address, {}}};
        if (program.code != 0) {
            finding.evidence.push_back(code_evidence("code", GuestVirt{program.code}, snapshot_));
        }
        add_finding(report_, std::move(finding));
    }

    void judge(const BpfMap& map) {
        if (map.listed) return;
        if (is_full(report_)) return add_finding(report_, {});
        event::Finding finding = kHiddenMap.about(named(map), key_of(map.id, map.address));
        std::vector<std::string> users;
        for (const std::uint32_t id : map.program_ids.value_or({}))
            users.push_back(program_text(id));
        finding.evidence = {{"type", map.type, 0, {}},
                            {"used by", joined(users, ", "), 0, {}},
                            {"held by", holders_of(map.address), 0, {}},
                            {"struct bpf_map", "", map.address, {}}};
        add_finding(report_, std::move(finding));
    }

    void judge(const BpfLink& link) {
        if (link.listed) return;
        if (is_full(report_)) return add_finding(report_, {});
        const std::string what = fmt::format("{} {}", link.kind, link.target.value_or("?"));
        const std::string subject =
            link.address == 0 ? what : fmt::format("{} (id {})", what, link.id);
        // Of one that only its program shows, the place is what makes it the same.
        event::Finding finding = kHiddenLink.about(
            subject, link.address != 0 ? key_of(link.id, link.address)
                                       : fmt::format("{}:{}", link.program_id.value_or(0), what));
        finding.evidence = {{"program", program_text(link.program_id.value_or(0)), 0, {}}};
        if (link.address != 0) {
            finding.evidence.push_back({"held by", holders_of(link.address), 0, {}});
            finding.evidence.push_back({"struct bpf_link", "", link.address, {}});
        }
        add_finding(report_, std::move(finding));
    }

    std::string program_text(std::uint32_t id) const {
        const auto program = programs_.find(id);
        return program == programs_.end() ? fmt::format("id {}", id) : named(*program->second);
    }

    // What a guest forges has as many as it likes.
    static std::string joined(std::span<const std::string> all, std::string_view between) {
        const auto shown = all.first(std::min(all.size(), kMaxNamed));
        std::string text = fmt::format("{}", fmt::join(shown, between));
        if (shown.size() < all.size()) {
            text += fmt::format("{}and {} more", between, all.size() - shown.size());
        }
        return text;
    }

    static std::string attachments_of(const BpfProgram& program) {
        if (!program.attachments.available()) return program.attachments.reason();
        std::vector<std::string> places;
        for (const event::BpfAttachment& one : program.attachments.value()) {
            places.push_back(fmt::format("{} {}", one.kind, one.target));
        }
        return places.empty() ? "nothing that is known" : joined(places, "; ");
    }

    // Only asked for where something was found.
    std::string holders_of(std::uint64_t address) {
        if (!holders_) find_holders();
        const auto found = holders_->find(address);
        if (found == holders_->end()) return "no process";
        std::vector<std::string> holders;
        for (const std::uint32_t pid : found->second) holders.push_back(process_text(pid));
        return joined(holders, ", ");
    }
    void find_holders() {
        holders_.emplace();
        guest_linux::BpfObjects owned = objects_;
        add_gaps(report_, snapshot_.guest().add_bpf_owners(owned));
        const auto add = [&](auto& items) {
            for (auto& item : items) {
                if (!item.owner_pids.empty()) holders_->emplace(item.address, item.owner_pids);
            }
        };
        add(owned.programs), add(owned.maps), add(owned.links);
    }
    std::string process_text(std::uint32_t pid) {
        const event::Task* task = snapshot_.process(pid);
        return task == nullptr ? fmt::format("pid {}", pid)
                               : fmt::format("{} (pid {})", task->comm, pid);
    }

    Snapshot& snapshot_;
    const guest_linux::BpfObjects& objects_;
    event::CheckReport& report_;
    std::unordered_map<std::uint32_t, const BpfProgram*> programs_;  // by number
    std::optional<std::unordered_map<std::uint64_t, std::vector<std::uint32_t>>> holders_;
};

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    const auto& objects = snapshot.bpf();
    if (!objects.has_value()) return code_unknown(objects.error());
    event::CheckReport report{};
    report.outcome = event::Outcome::clean;
    report.coverage.looked_at = objects->programs.size();
    add_gaps(report, objects->gaps);
    Judge(snapshot, *objects, report).judge();
    // With one record alone nothing can be seen to be missing in the other.
    settle_doubt(report, objects->gaps.empty() ? "" : objects->gaps.texts.front());
    return report;
}

}  // namespace underseer::detect::bpf_programs
