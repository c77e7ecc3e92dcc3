#include "detect/decoy_kernel/decoy_kernel.h"

#include <fmt/format.h>

#include <algorithm>

namespace underseer::detect {

namespace {

using guest_linux::CpuStatement;
using guest_linux::Guest;
using guest_linux::Testimony;
using guest_linux::UnrunKernel;
using guest_memory::GuestMemory;

constexpr std::size_t kMaxSuspects = 8;

bool in_place(GuestMemory& memory, const UnrunKernel& kernel) {
    std::string text(kernel.banner.size(), '\0');
    const auto read =
        memory.read(kernel.banner_at, std::as_writable_bytes(std::span(text.data(), text.size())));
    return read.has_value() && text == kernel.banner;
}

Result<std::uint64_t> ticks_of(GuestMemory& memory, const UnrunKernel& kernel) {
    std::uint64_t ticks = 0;
    TRY(memory.read(kernel.ticks_at, std::as_writable_bytes(std::span(&ticks, 1))));
    return ticks;
}

constexpr std::string_view kAdvice =
    "Somebody controls the guest's kernel: it sees every interrupt and system call. Underseer "
    "follows the CPUs; other tools may follow what was laid out for them. Save its memory "
    "(underseer dump), take the instance off the network, and rebuild it.";

constexpr Rule kRules[] = {
    {.id = DecoyKernelCheck::kName,
     .title = "A decoy kernel in the guest's memory",
     .severity = event::Severity::critical,
     .confidence = 95,
     .technique = "T1014",
     .subject_kind = "kernel",
     .reads = "Every kernel in the guest's RAM that is whole and whose clock goes on, and from the "
              "VMM the page tables that each CPU uses: a kernel that keeps time and that no CPU "
              "runs.",
     .misses =
         "Where nobody tells the registers (no reachable monitor, libvirt that was not asked) "
         "the check is unavailable, and a decoy that is whole is believed.",
     .benign = "None known. What a reboot or kexec leaves behind keeps no time.",
     .advice = kAdvice},
    {.id = "foreign_interrupt_table",
     .title = "A CPU takes its interrupts outside of the kernel",
     .severity = event::Severity::critical,
     .confidence = 95,
     .technique = "T1014",
     .subject_kind = "cpu",
     .reads = "The base and limit of each CPU's interrupt table, as the VMM tells them, against "
              "where the kernel keeps its own; in three hearings.",
     .misses = "An entry of the kernel's own table that leads elsewhere.",
     .benign = "None known.",
     .advice = kAdvice},
    {.id = "cpu_protection_off",
     .title = "A CPU has a protection of the kernel switched off",
     .severity = event::Severity::critical,
     .confidence = 90,
     .technique = "T1562",
     .subject_kind = "cpu",
     .reads = "Each CPU's CR0.WP, EFER.NXE and what the kernel pins in CR4 (SMEP, SMAP, UMIP), as "
              "the VMM tells them; in three hearings.",
     .misses = "What is switched off for moments only, to write once, and LSTAR, which no VMM "
               "tells.",
     .benign = "None known: the kernel itself sets them again at once.",
     .advice = "Code in the kernel writes where it must not: underseer check --only kernel_code, "
               "kernel_tables. Save its memory (underseer dump) and take the instance off the "
               "network."},
};

event::Finding decoy(const UnrunKernel& kernel, const guest_linux::KernelImage& real) {
    auto finding = kRules[0].about(kernel.release, fmt::format("{:x}", kernel.root.value));
    finding.evidence = {{"decoy", kernel.banner, kernel.root.value, {}},
                        {"its clock", "goes on, though no CPU runs it", kernel.ticks_at.value, {}},
                        {"the CPUs run", real.banner, real.space.root.value, {}}};
    return finding;
}

event::Finding foreign_gate(const CpuStatement& statement) {
    auto finding = kRules[1].about(fmt::format("CPU {}", statement.cpu),
                                   fmt::format("gate:{}", statement.cpu));
    finding.evidence = {{"interrupt table", statement.why, 0, {}}};
    return finding;
}

event::Finding unprotected(const event::CpuRegisters& cpu, const std::string& off) {
    auto finding =
        kRules[2].about(fmt::format("CPU {}", cpu.cpu), fmt::format("{}:{}", off, cpu.cpu));
    finding.evidence = {
        {"off", off, 0, {}},
        {"registers",
         fmt::format("CR0 {:#x}, CR4 {:#x}, EFER {:#x}", cpu.cr0, cpu.cr4, cpu.efer),
         0,
         {}}};
    return finding;
}

}  // namespace

std::span<const Rule> DecoyKernelCheck::rules() {
    return kRules;
}

void DecoyKernelCheck::suspect(UnrunKernel kernel) {
    if (suspects_.size() < kMaxSuspects) suspects_.try_emplace(kernel.root, Suspect{kernel});
}

// A clock that stands still accuses nobody and clears nobody: the guest may be paused.
unsigned DecoyKernelCheck::watch_suspects(Guest& guest) {
    for (const UnrunKernel& kernel : guest.kernel().unrun()) suspect(kernel);
    suspects_.erase(guest.kernel().image().space.root);
    GuestMemory& memory = guest.kernel().physical();
    // In an image no clock goes on: what no CPU runs may be remains, and is only told (info).
    if (!memory.live()) suspects_.clear();
    unsigned fresh = 0;
    for (auto it = suspects_.begin(); it != suspects_.end();) {
        Suspect& one = it->second;
        const auto ticks = ticks_of(memory, one.kernel);
        if (!ticks.has_value() || !in_place(memory, one.kernel)) {
            it = suspects_.erase(it);
            continue;
        }
        if (!one.ticks) ++fresh;
        if (one.ticks && *ticks > *one.ticks) ++one.moved;
        one.ticks = *ticks;
        ++it;
    }
    return fresh;
}

event::CheckReport DecoyKernelCheck::hear(Guest& guest, std::span<const event::CpuRegisters> cpus) {
    event::CheckReport report;
    report.check = kName;
    report.outcome = event::Outcome::unavailable;
    if (cpus.empty()) {
        report.reason = "nobody tells the registers of its CPUs";
        return report;
    }
    guest.new_epoch();
    const auto hearing =
        guest_linux::hear_cpus(guest.kernel().physical(), guest.kernel().image(), cpus);
    const unsigned for_it = hearing.count(Testimony::runs_it);
    report.coverage.looked_at = cpus.size();
    report.coverage.unreadable = hearing.count(Testimony::none);
    unsigned unconfirmed = 0;
    if (for_it + hearing.count(Testimony::other_gate) > 0) unconfirmed = watch_suspects(guest);

    std::map<std::string, unsigned> heard;
    const auto hear_again = [&](event::Finding finding) {
        const unsigned times = heard[finding.key] = heard_[finding.key] + 1;
        if (times >= kHearings) {
            report.findings.push_back(std::move(finding));
        } else {
            ++unconfirmed;
        }
    };
    for (std::size_t i = 0; i < cpus.size(); ++i) {
        const CpuStatement& statement = hearing.statements[i];
        const bool has_other_gate = statement.says == Testimony::other_gate;
        if (has_other_gate) hear_again(foreign_gate(statement));
        if (!has_other_gate && statement.says != Testimony::runs_it) continue;
        for (const std::string& off : protections_off(guest.kernel(), cpus[i])) {
            hear_again(unprotected(cpus[i], off));
        }
    }
    heard_ = std::move(heard);
    for (const auto& [root, suspect] : suspects_) {
        if (suspect.moved + 1 >= kHearings) {
            report.findings.push_back(decoy(suspect.kernel, guest.kernel().image()));
        } else if (suspect.moved > 0) {
            ++unconfirmed;  // remains stand still from the first
        }
    }

    if (!report.findings.empty()) {
        report.outcome = event::Outcome::finding;
    } else if (hearing.count(Testimony::runs_another) > 0) {
        report.reason = hearing.first(Testimony::runs_another).why;
    } else if (unconfirmed > 0) {
        report.reason = fmt::format("not heard {} times yet", kHearings);
    } else if (for_it == 0) {
        report.reason = hearing.first(Testimony::none).why;
    } else {
        report.outcome = event::Outcome::clean;
    }
    return report;
}

}  // namespace underseer::detect
