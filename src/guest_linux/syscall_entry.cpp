#include "guest_linux/syscall_entry.h"

#include <fmt/format.h>

namespace underseer::guest_linux {

namespace {
constexpr std::uint64_t kRegisterBytes = 21 * 8;  // struct pt_regs
}  // namespace

Result<SyscallEntry> SyscallEntry::of(Kernel* kernel, guest_memory::GuestMemory* memory) {
    SyscallEntry entry(kernel, memory);
    entry.address_ = TRY(kernel->symbol("do_syscall_64"));
    // A variable of its own but in 6.2 to 6.14, where it is in struct pcpu_hot.
    if (const auto current = kernel->symbol("current_task"); current.has_value()) {
        entry.current_ = *current;
    } else {
        const Field member = kernel->field("pcpu_hot", "current_task");
        TRY(kernel->require({member}));
        entry.current_ = TRY(kernel->symbol("pcpu_hot")) + member.offset;
    }
    entry.f_ = {.pid = kernel->field("task_struct", "pid"),
                .tgid = kernel->field("task_struct", "tgid"),
                .signal = kernel->field("task_struct", "signal")};
    TRY(kernel->require({entry.f_.pid, entry.f_.tgid, entry.f_.signal}));
    return entry;
}

Result<GuestVirt> SyscallEntry::return_address(std::uint64_t sp) {
    return live_.read<GuestVirt>(GuestVirt{sp});
}

Result<SyscallEntry::Caller> SyscallEntry::caller(std::uint64_t gs_base) {
    // Per-CPU variables lie at the same distance from it for every CPU (arch/x86/include/asm/
    // percpu.h).
    Caller caller{.task = TRY(live_.read<GuestVirt>(GuestVirt{gs_base + current_.value}))};
    caller.pid = TRY(live_.read<std::uint32_t>(caller.task + f_.pid.offset));
    caller.tgid = TRY(live_.read<std::uint32_t>(caller.task + f_.tgid.offset));
    caller.signal = TRY(live_.read<GuestVirt>(caller.task + f_.signal.offset));
    return caller;
}

Result<UserRegisters> SyscallEntry::registers(GuestVirt at) {
    StackCopy copy{.begin = at, .bytes = std::vector<std::byte>(kRegisterBytes)};
    TRY(live_.read(at, copy.bytes));
    auto registers = read_user_registers(copy, /*compat_call=*/false);
    if (!registers) {
        return fail(Code::malformed,
                    fmt::format("no program's registers are saved at {:#x}", at.value));
    }
    return *std::move(registers);
}

VirtualMemory SyscallEntry::program(std::uint64_t cr3) const {
    // The low bits say which entries of the TLB are whose (PCID).
    return VirtualMemory(&live_.physical(),
                         {GuestPhys{cr3 & kPteAddressMask}, live_.space().levels});
}

}  // namespace underseer::guest_linux
