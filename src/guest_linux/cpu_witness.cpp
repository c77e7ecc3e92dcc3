#include "guest_linux/cpu_witness.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/limits.h"

namespace underseer::guest_linux {

namespace {

using event::CpuRegisters;
using guest_memory::GuestMemory;

// Intel SDM vol. 3A, 2.5 and 2.2.1; AMD APM vol. 2, 3.1.7.
constexpr std::uint64_t kCr0Paging = 1u << 31;
constexpr std::uint64_t kCr4Pae = 1u << 5, kCr4FiveLevels = 1u << 12, kCr4Vmx = 1u << 13;
constexpr std::uint64_t kEferLongMode = 1u << 10, kEferSvm = 1u << 12;
// With page-table isolation a process has two top tables, side by side; this bit names the one for
// user mode (PTI_USER_PGTABLE_BIT, arch/x86/entry/calling.h).
constexpr std::uint64_t kUserHalf = 0x1000;
// Each costs some hundred page reads, and CPUs that run another kernel run the same one.
constexpr unsigned kMaxRivalSearches = 4;

bool in_long_mode(const CpuRegisters& registers) {
    return (registers.cr0 & kCr0Paging) != 0 && (registers.efer & kEferLongMode) != 0;
}

GuestPhys top_table(const CpuRegisters& registers) {
    return {registers.cr3 & kPteAddressMask};
}

class Examiner {
  public:
    Examiner(GuestMemory& memory, const KernelImage& image) : memory_(memory), image_(image) {}

    CpuStatement hear(const CpuRegisters& cpu) {
        const GuestPhys top = top_table(cpu), kernel_half{top.value & ~kUserHalf};
        const unsigned levels = (cpu.cr4 & kCr4FiveLevels) != 0 ? 5 : 4;
        const auto say = [&](Testimony says, std::string why) {
            return CpuStatement{cpu.cpu, says, fmt::format("CPU {}: {}", cpu.cpu, why)};
        };
        if (!in_long_mode(cpu)) {
            return say(Testimony::none, "it is not in 64-bit mode");
        }
        const bool whole = maps_kernel({top, levels});
        // The user half maps the interrupt table too, or no interrupt could leave user mode.
        const bool half = !whole && top != kernel_half && maps_kernel({kernel_half, levels});
        if (whole || half) {
            if (cpu.idt_limit == 0) return say(Testimony::none, "it takes no interrupts now");
            const auto idt = translate(memory_, {top, levels}, GuestVirt{cpu.idt_base});
            if (!idt.has_value()) {
                return say(Testimony::none, "its interrupt table cannot be read");
            }
            if (image_.virt_of(idt->phys).has_value()) {
                return {cpu.cpu, Testimony::runs_it, {}};
            }
            // Half a proof is none: that page beside its own may be anybody's.
            return half ? say(Testimony::none, "its page tables are not the kernel's")
                        : say(Testimony::other_gate,
                              fmt::format("its interrupt table, at {:#x}, lies outside of the "
                                          "kernel, at physical {:#x}",
                                          cpu.idt_base, idt->phys.value));
        }
        if ((cpu.cr4 & kCr4Vmx) != 0 || (cpu.efer & kEferSvm) != 0) {
            return say(Testimony::none, "it may be running a VM inside this one");
        }
        if (rival_searches_ < kMaxRivalSearches) {
            ++rival_searches_;
            for (const GuestPhys table : {top, kernel_half}) {
                const auto other = kernel_image_under(memory_, table);
                if (!other || other->extents.front().phys == image_.extents.front().phys) continue;
                return say(Testimony::runs_another,
                           fmt::format("its page tables, at {:#x}, are those of the kernel {} "
                                       "with its root at {:#x}",
                                       table.value, other->release(), other->space.root.value));
            }
        }
        return say(Testimony::none,
                   fmt::format("its page tables, at {:#x}, lead to no kernel by now", top.value));
    }

  private:
    // Whether this address space has both the kernel's read-only data and its data where the image
    // has them.
    bool maps_kernel(AddressSpace space) {
        const auto root_virt = image_.virt_of(image_.space.root);
        return space.levels == image_.space.levels && root_virt.has_value() &&
               maps(space, image_.banner_virt) && maps(space, *root_virt);
    }
    bool maps(AddressSpace space, GuestVirt address) {
        const auto here = translate(memory_, space, address);
        const auto there = image_.phys_of(address);
        return here.has_value() && there.has_value() && here->phys == *there;
    }

    GuestMemory& memory_;
    const KernelImage& image_;
    unsigned rival_searches_ = 0;
};

}  // namespace

CpuStatement hear_cpu(GuestMemory& memory, const KernelImage& image,
                      const CpuRegisters& registers) {
    return Examiner(memory, image).hear(registers);
}

Hearing hear_cpus(GuestMemory& memory, const KernelImage& image,
                  std::span<const CpuRegisters> cpus) {
    Examiner examiner(memory, image);
    Hearing hearing;
    for (const CpuRegisters& cpu : cpus) hearing.statements.push_back(examiner.hear(cpu));
    return hearing;
}

unsigned Hearing::count(Testimony what) const {
    return static_cast<unsigned>(std::ranges::count(statements, what, &CpuStatement::says));
}

const CpuStatement& Hearing::first(Testimony what) const {
    const auto found = std::ranges::find(statements, what, &CpuStatement::says);
    CHECK(found != statements.end());
    return *found;
}

std::vector<event::CpuRegisters> registers_in_notes(Bytes notes) {
    // {version, size}, 18 general registers, ten segments of {selector, limit, flags, pad, base} of
    // which the interrupt table's is the last, CR0 to CR4.
    constexpr std::size_t kStateBytes = 440, kIdtLimitAt = 372, kIdtBaseAt = 384, kCr0At = 392;
    constexpr std::string_view kWriter("QEMU\0", 5);
    std::vector<CpuRegisters> cpus;
    ByteCursor cursor(notes);
    while (cpus.size() < limits::kMaxToldCpus) {
        const auto name_bytes = cursor.read<std::uint32_t>();
        const auto value_bytes = cursor.read<std::uint32_t>();
        const auto type = cursor.read<std::uint32_t>();
        if (!name_bytes.has_value() || !value_bytes.has_value() || !type.has_value()) break;
        const auto padded = [](std::uint32_t size) { return (std::size_t{size} + 3) / 4 * 4; };
        const auto name = cursor.read_bytes(padded(*name_bytes));
        const auto value = cursor.read_bytes(padded(*value_bytes));
        if (!name.has_value() || !value.has_value()) break;
        if (as_text(*name).substr(0, *name_bytes) != kWriter || value->size() < kStateBytes) {
            continue;
        }
        const auto at = [&](std::size_t offset) {
            return load_le<std::uint64_t>(*value, offset).value_or(0);
        };
        CpuRegisters cpu{.cpu = static_cast<std::uint32_t>(cpus.size()),
                         .cr0 = at(kCr0At),
                         .cr3 = at(kCr0At + 24),
                         .cr4 = at(kCr0At + 32),
                         .idt_base = at(kIdtBaseAt),
                         .idt_limit = load_le<std::uint32_t>(*value, kIdtLimitAt).value_or(0)};
        // EFER is not among them. Linux for x86-64 pages with PAE in long mode only.
        if ((cpu.cr4 & kCr4Pae) != 0) cpu.efer = kEferLongMode;
        cpus.push_back(cpu);
    }
    return cpus;
}

bool may_run_linux(std::span<const CpuRegisters> cpus) {
    return cpus.empty() || std::ranges::any_of(cpus, in_long_mode);
}

std::vector<GuestPhys> top_tables_of(std::span<const CpuRegisters> cpus) {
    std::vector<GuestPhys> tables;
    const auto add = [&](GuestPhys table) {
        if (std::ranges::find(tables, table) == tables.end()) tables.push_back(table);
    };
    for (const CpuRegisters& cpu : cpus) {
        if (!in_long_mode(cpu)) continue;
        add(top_table(cpu));
        add({top_table(cpu).value & ~kUserHalf});
    }
    return tables;
}

}  // namespace underseer::guest_linux
