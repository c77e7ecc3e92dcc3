// Whose code it is: every part of the kernel's half that can be executed, and what the kernel
// itself knows to be there. What nothing accounts for is code that somebody has put beside the
// kernel's records: a module that has wiped itself out of all lists still runs from such pages.
#pragma once

#include <string>
#include <vector>

#include "base/interval_map.h"
#include "guest_linux/gaps.h"
#include "guest_linux/kernel.h"
#include "guest_linux/page_walk.h"

namespace underseer::guest_linux {

struct CodeOwner {
    enum class Kind : std::uint8_t { kernel, module, bpf, ftrace, kprobes, cpu_start, kexec };
    Kind kind{};
    std::string module;       // its name
    bool is_foreign = false;  // a module that did not come with the kernel: taint flags O, E or P
    bool is_stub = false;     // of BPF: a trampoline or a dispatcher, and no program

    std::string to_text() const;  // "the kernel", "module nf_tables", ..
    bool operator==(const CodeOwner&) const = default;
};

// The code of a module, as long as it is the same one.
struct ModuleCode {
    GuestVirt module;  // its struct module
    std::string name;
    GuestVirt begin;
    std::uint64_t size_bytes = 0;
    std::uint64_t life = 0;  // another each time that a module is loaded; 0: sysfs does not have it
    bool is_live = false;    // neither being loaded nor unloaded

    GuestVirt end() const { return begin + size_bytes; }
};

struct CodeMap {
    std::vector<CodeRange> executable;  // in the order of their addresses
    IntervalMap<CodeOwner> owners;      // of whole pages
    // All memory of the kernel's image and of the modules, data included.
    IntervalMap<CodeOwner> memory;
    std::vector<ModuleCode> modules;  // what stays of them after they were loaded
    // Owners that could not be asked: what is theirs seems to be nobody's.
    Gaps gaps;

    struct Stray {
        CodeRange range;
        std::string area;  // what the vmalloc area that it lies in was asked for by; "" if in none
    };
    std::vector<Stray> strays;  // executable, and nobody's

    // Nothing where no code is accounted for.
    std::optional<CodeOwner> owner_of(GuestVirt code) const;
};

// Code::unavailable when the kernel's page tables cannot be walked.
Result<CodeMap> map_code(Kernel& kernel);

}  // namespace underseer::guest_linux
