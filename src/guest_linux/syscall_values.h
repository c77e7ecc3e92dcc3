// What the arguments of the most usual system calls of x86-64 mean, in the words of the C library's
// headers (include/uapi of Linux; the numbers are fixed for good).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "guest_linux/syscall_arguments.h"

namespace underseer::guest_linux {

// "O_RDWR|O_CLOEXEC", "AT_FDCWD", "SIGTERM", "0644"; "" where the number says it all, or we know no
// better. `call` is its name (syscall_name()).
std::string value_text(std::string_view call, const SyscallArgument& argument, std::uint64_t value);

// What an argument of a call points to.
struct Pointee {
    enum class Kind : std::uint8_t {
        nothing_known,
        string,         // ends with a NUL
        strings,        // pointers to such, up to a null pointer
        bytes,          // as many as another argument says: `length`
        result_bytes,   // as many as the call returns, filled by it
        time,           // struct timespec
        socket_address  // as many bytes as another argument says: `length`
    };
    Kind kind = Kind::nothing_known;
    std::size_t length = 0;  // index of the argument that says how long it is
};
Pointee pointee_of(std::string_view call, const SyscallArgument& argument, std::size_t index);

// struct sockaddr: "{AF_INET, 10.0.2.2:80}", "{AF_UNIX, \"/run/x\"}". What is cut off is not told.
std::string socket_address_text(Bytes address);

// struct timespec: "{tv_sec=0, tv_nsec=50000000}".
std::string time_text(Bytes time);

// In quotes, with what is no printable ASCII escaped as in C; `is_cut` adds "..".
std::string quoted(std::string_view text, bool is_cut);

// "ENOENT"; "" where there is none of that number.
std::string_view error_name(std::int64_t error);

}  // namespace underseer::guest_linux
