// BPF programs that the guest's kernel has loaded.
#pragma once

#include <string>
#include <vector>

#include "guest_linux/gaps.h"
#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

struct BpfProgram {
    GuestVirt address;  // of struct bpf_prog
    std::uint32_t id = 0;
    std::string name;
    std::string type;                  // "kprobe", as the kernel's enum has it, in small letters
    std::uint32_t uid = 0;             // of who loaded it
    GuestVirt code;                    // as machine code; null while it has none
    bool is_listed = false;            // in the table that bpftool and every other tool reads
    bool is_symbol = false;            // in the list of BPF's symbols
    std::vector<std::string> helpers;  // functions of the kernel that it calls
};

struct BpfPrograms {
    std::vector<BpfProgram> programs;
    Gaps gaps;
};

// From prog_idr and from bpf_kallsyms, each by itself. Parts of a program (subprograms) are not
// listed for themselves. Code::unavailable when neither can be read.
Result<BpfPrograms> list_bpf_programs(Kernel& kernel);

}  // namespace underseer::guest_linux
