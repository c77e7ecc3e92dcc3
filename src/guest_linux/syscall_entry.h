// Where system calls of 64-bit programs enter and leave the kernel, and what is to be seen there of
// a CPU that stands still: entry_SYSCALL_64 (arch/x86/entry/entry_64.S) saves the program's
// registers and calls do_syscall_64(), with a pointer to them that is the stack pointer of before
// the call, and of after it.
//
// Not by this way: calls of 32-bit programs, and those of CPUs with FRED.
#pragma once

#include <optional>

#include "guest_linux/call_stack.h"
#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

class SyscallEntry {
  public:
    // `memory` is not a cache; both must outlive this. Code::unavailable, with the name, where this
    // kernel's model does not tell what is needed.
    static Result<SyscallEntry> of(Kernel* kernel, guest_memory::GuestMemory* memory);

    // The first instruction of do_syscall_64(), where the stack pointer is below the return
    // address.
    GuestVirt address() const { return address_; }
    static GuestVirt registers_at_entry(std::uint64_t sp) { return GuestVirt{sp + 8}; }
    // Where it will return to, at the entry.
    Result<GuestVirt> return_address(std::uint64_t sp);

    struct Caller {
        GuestVirt task;
        std::uint32_t pid = 0, tgid = 0;
        GuestVirt signal;  // its signal_struct: one for all threads of a process
    };
    // Whom the CPU runs, by its GS base in the kernel.
    Result<Caller> caller(std::uint64_t gs_base);
    // The program's registers; their rax is the call's result after the return.
    Result<UserRegisters> registers(GuestVirt at);

    // The memory of the program, by CR3. With page table isolation it is that of the kernel's
    // half, which maps the program's as well.
    VirtualMemory program(std::uint64_t cr3) const;

    // Nothing is known any more of where things lie.
    void forget() { live_.forget(); }

  private:
    SyscallEntry(Kernel* kernel, guest_memory::GuestMemory* memory)
        : live_(memory, kernel->image().space) {}

    VirtualMemory live_;
    GuestVirt address_;
    GuestVirt current_;  // per CPU
    struct {
        Field pid, tgid, signal;
    } f_;
};

}  // namespace underseer::guest_linux
