// Where the kernel is entered: what answers each system call and each interrupt.
#pragma once

#include <string>
#include <vector>

#include "guest_linux/gaps.h"
#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

// One place from which the kernel goes on somewhere else than it was built to.
struct Misdirection {
    std::string gate;            // "getdents64 (sys_call_table[217])", "interrupt 0x81"
    std::string expected;        // "__x64_sys_getdents64"
    GuestVirt target;            // where it goes
    GuestVirt record;            // where that is written
    bool is_trace_site = false;  // at the begin of a function, where ftrace puts its calls
};

struct DispatchReport {
    std::vector<Misdirection> misdirected;
    std::uint64_t gates = 0;  // that were looked at
    Gaps gaps;
};

// System calls: the tables (sys_call_table, that of 32-bit programs and that of x32), and since 6.9
// (and in kernels that have it back-ported) the code that goes to them instead (x64_sys_call() and
// its like, arch/x86/entry/syscall_64.c): each of its jumps must lead to a system call.
DispatchReport inspect_syscalls(Kernel& kernel);
// The table of interrupts (idt_table): each must go to the kernel's entry code.
DispatchReport inspect_interrupts(Kernel& kernel);

}  // namespace underseer::guest_linux
