// What a system call takes, in the words of the kernel's own source: it keeps them for its tracing
// (SYSCALL_METADATA in include/linux/syscalls.h, CONFIG_FTRACE_SYSCALLS).
#pragma once

#include <string>
#include <vector>

#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

struct SyscallArgument {
    std::string type, name;  // "unsigned int", "fd"

    bool is_file_descriptor() const;
};

// Of x86-64's calls. Code::unavailable where the kernel does not tell; then it takes at most six.
Result<std::vector<SyscallArgument>> syscall_arguments(Kernel& kernel, std::uint64_t number);

}  // namespace underseer::guest_linux
