// System calls of x86-64 by their numbers, which are fixed for good (arch/x86/entry/syscalls/
// syscall_64.tbl of Linux).
#pragma once

#include <cstdint>
#include <string_view>

namespace underseer::guest_linux {

// "" when there is none of that number that we know.
std::string_view syscall_name(std::uint64_t number);
// One more than the greatest number that is known.
std::uint64_t known_syscalls();
// The function of the kernel that answers it, without its prefix: "newstat" for stat.
std::string_view syscall_entry(std::uint64_t number);

}  // namespace underseer::guest_linux
