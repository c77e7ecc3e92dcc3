#include "detect/kernel_modules/kernel_modules.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <map>

#include "detect/code_report.h"

namespace underseer::detect::kernel_modules {

namespace {

using guest_linux::ModuleView;
using guest_linux::ModuleViewResult;

constexpr Rule kRules[] = {
    {.id = "hidden_module",
     .title = "Kernel module hidden inside the guest",
     .severity = event::Severity::critical,
     .confidence = 95,
     .technique = "T1547.006",
     .subject_kind = "module",
     .reads = "The kernel's records of its modules, each by itself: the list that lsmod shows, "
              "/sys/module, the tree that finds whose code an address is, the list of warnings, "
              "modules with types, and whom the others say they use. A module that is up is in "
              "the first four.",
     .misses = "A module that has taken itself out of all of them, and one that says it is still "
               "being loaded or unloaded: that is told as a gap.",
     .benign = "None known.",
     .advice = "Code that hides runs in the kernel: nothing that the guest says of itself can be "
               "relied on. Save its memory (underseer dump), take the instance off the network, "
               "and rebuild it."},
    {.id = "forced_module",
     .title = "Kernel module that was loaded against the kernel's own checks",
     .severity = event::Severity::medium,
     .confidence = 80,
     .technique = "T1547.006",
     .subject_kind = "module",
     .reads = "The taint flags that the kernel keeps for each module: loaded by force, without "
              "matching version or symbols (insmod -f).",
     .misses = "A module that clears its flags.",
     .benign = "An administrator who forces an old driver.",
     .advice = "Who loaded it, and why? (underseer dmesg)"},
    {.id = "foreign_module",
     .title = "Kernel module that did not come with the kernel",
     .severity = event::Severity::informational,
     .confidence = 90,
     .technique = "T1547.006",
     .subject_kind = "module",
     .reads =
         "The taint flags that the kernel keeps for each module: built outside of the kernel's "
         "tree (O), without a valid signature (E), proprietary (P), staging (C).",
     .misses = "A module that clears its flags.",
     .benign = "Drivers that are built by DKMS: graphics, file systems, networks.",
     .advice = "Is this driver meant to be in this instance?"},
};
constexpr const Rule& kHidden = kRules[0];
constexpr const Rule& kForced = kRules[1];
constexpr const Rule& kForeign = kRules[2];

constexpr std::uint32_t bit(ModuleView view) {
    return 1u << static_cast<unsigned>(view);
}
// The others show some modules only.
constexpr std::uint32_t kExpected = bit(ModuleView::list) | bit(ModuleView::sysfs) |
                                    bit(ModuleView::tree) | bit(ModuleView::bug_list);

std::string names_of(std::uint32_t views) {
    std::string text;
    for (const ModuleView view : guest_linux::kAllModuleViews) {
        if ((views & bit(view)) == 0) continue;
        if (!text.empty()) text += ", ";
        text += to_string(view);
    }
    return text;
}

event::Finding about_module(const Rule& rule, const event::Module& module) {
    event::Finding finding =
        rule.about(module.name, fmt::format("{}:{:x}", module.name, module.address));
    finding.evidence = {
        {"code", fmt::format("{} bytes in all", module.size_bytes), module.text_begin, {}},
        {"taints", module.taints.empty() ? "none" : module.taints, 0, {}},
        {"struct module", "", module.address, {}}};
    return finding;
}

void judge_taints(const event::Module& module, event::CheckReport& report) {
    const auto has = [&](std::string_view letters) {
        return module.taints.find_first_of(letters) != std::string::npos;
    };
    if (has("F")) {
        add_finding(report, about_module(kForced, module));
    } else if (has("OEPC")) {
        add_finding(report, about_module(kForeign, module));
    }
}

}  // namespace

std::span<const Rule> rules() {
    return kRules;
}

event::CheckReport inspect(Snapshot& snapshot) {
    guest_linux::Guest& guest = snapshot.guest();
    event::CheckReport report{};
    report.outcome = event::Outcome::clean;
    std::map<GuestVirt, std::uint32_t> shown;
    std::uint32_t complete = 0;
    std::string doubt;
    for (const ModuleViewResult& view : guest.module_views()) {
        for (const GuestVirt module : view.modules) shown[module] |= bit(view.view);
        if (view.gap) {
            const std::string text =
                fmt::format("{}: {}", to_string(view.view), view.gap->to_text());
            add_gap(report, text);
            if (guest_linux::is_broken(*view.gap)) doubt = text;
        } else {
            complete |= bit(view.view);
        }
    }
    const std::uint32_t comparable = complete & kExpected;
    if (std::popcount(comparable) < 2) {
        report.outcome = event::Outcome::unavailable;
        report.reason = "fewer than two independent records of modules could be read: " +
                        (report.coverage.gaps.empty() ? "" : report.coverage.gaps.front());
        return report;
    }
    for (const auto& [address, views] : shown) {
        ++report.coverage.looked_at;
        const auto module = guest.module(address);
        if (!module.has_value()) {
            ++report.coverage.unreadable;
            const std::string text =
                fmt::format("the module at {:#x}: {}", address.value, module.error().to_text());
            add_gap(report, text);
            if (guest_linux::is_broken(module.error())) doubt = text;
            continue;
        }
        const std::uint32_t missing = comparable & ~views;
        if (missing == 0) {
            judge_taints(*module, report);
        } else if (module->state == "Live") {
            event::Finding finding = about_module(kHidden, *module);
            finding.evidence.insert(
                finding.evidence.begin(),
                {{"shown by", names_of(views), 0, {}}, {"missing in", names_of(missing), 0, {}}});
            add_finding(report, std::move(finding));
        } else {
            add_gap(report, fmt::format("{} is being loaded or unloaded", module->name));
        }
    }
    settle_doubt(report, doubt);
    return report;
}

}  // namespace underseer::detect::kernel_modules
