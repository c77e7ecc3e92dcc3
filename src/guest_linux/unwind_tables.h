// ORC: the tables by which the kernel itself unwinds its stacks. Each entry says of a stretch of
// code where, there, the caller's stack begins, and where its frame pointer was saved
// (arch/x86/include/asm/orc_types.h, arch/x86/kernel/unwind_orc.c).
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

enum class OrcType : std::uint8_t { undefined, end_of_stack, call, registers, partial_registers };

// What a place on the stack is relative to.
enum class OrcRegister : std::uint8_t {
    none,  // of a caller's stack: not known; of a frame pointer: it is as it was
    prev_sp,
    ax,
    dx,
    di,
    bp,
    sp,
    r10,
    r13,
    bp_indirect,
    sp_indirect,
    unknown  // a number that stands for none
};

struct OrcEntry {
    OrcType type{};
    // What is looked up next is the caller's address itself, not that of the call before it.
    bool is_signal = false;
    OrcRegister sp_register = OrcRegister::none, bp_register = OrcRegister::none;
    std::int16_t sp_offset = 0, bp_offset = 0;
};

// How a kernel writes an entry. There have been three forms: {type:2, end}, {type:2, signal, end}
// since 6.3, and {type:3, signal} since 6.4, whose types have other numbers. The members tell
// which. Registers have other numbers in 7.2 than in 6.12, which only the entries themselves tell:
// a frame pointer is saved relative to the caller's stack, or to itself, and to nothing else.
class OrcFormat {
  public:
    // `some` entries of the kernel's table, one behind the other. Code::unavailable where it is not
    // known how this kernel writes them.
    static Result<OrcFormat> of(const Kernel& kernel, Bytes some);
    static Result<std::size_t> entry_bytes_of(const Kernel& kernel);

    std::size_t entry_bytes() const { return bytes_; }
    // REQUIRES: entry.size() == entry_bytes(). Any bytes are an entry.
    OrcEntry decode(Bytes entry) const;

  private:
    Result<void> find_numbers(Bytes some);

    std::size_t bytes_ = 0;
    bool numbers_of_7_2_ = false;
    Field sp_offset_, bp_offset_, sp_register_, bp_register_, type_, signal_, end_;
};

// Code of the kernel and of its modules, and how to unwind it.
class UnwindTables {
  public:
    // Both must outlive the result. `live` is where tables are read. Code::unavailable where it is
    // not known where the kernel's code lies.
    static Result<UnwindTables> of(Kernel* kernel, VirtualMemory* live);

    // Modules come and go.
    void load_modules();
    bool is_code(GuestVirt at) const { return part_of(at) != nullptr; }
    // Code::unavailable with the reason where there is no entry.
    Result<OrcEntry> find(GuestVirt code);

    struct Place {
        std::string symbol;  // "pipe_read+0x1a3"; an address where no name is known
        std::string module;  // "" for the kernel itself
    };
    Place place_of(GuestVirt code);

  private:
    struct Part {
        std::string module;
        GuestVirt begin, end;    // of its code
        GuestVirt ips, entries;  // its tables; null: it has none
        std::uint64_t count = 0;
        GuestVirt kallsyms;  // of a module
    };
    struct ModuleSymbol {
        std::uint64_t address = 0;
        std::string name;
    };
    UnwindTables(Kernel* kernel, VirtualMemory* live) : kernel_(kernel), live_(live) {}
    Result<void> load_kernel_tables();
    Result<Part> read_module(GuestVirt module);
    const Part* part_of(GuestVirt at) const;
    Result<OrcEntry> search(const Part& part, GuestVirt code);
    Result<std::string> module_symbol(const Part& part, GuestVirt code);

    Kernel* kernel_;
    VirtualMemory* live_;
    OrcFormat format_;
    std::string no_tables_;  // why the kernel has none
    std::vector<Part> parts_;
    std::unordered_map<GuestVirt, OrcEntry> found_;
    std::unordered_map<GuestVirt, std::string> names_;  // of modules' code
};

}  // namespace underseer::guest_linux
