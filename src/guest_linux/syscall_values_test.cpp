#include "guest_linux/syscall_values.h"

#include <gtest/gtest.h>

namespace underseer::guest_linux {
namespace {

TEST(SyscallValues, flags_are_told_in_words_and_what_is_left_as_a_number) {
    const auto text = [](const char* call, const char* name, std::uint64_t value) {
        const bool is_long = std::string_view(name) == "addr";
        return value_text(call, {is_long ? "unsigned long" : "int", name}, value);
    };
    EXPECT_EQ(text("openat", "flags", 0), "O_RDONLY");
    EXPECT_EQ(text("openat", "flags", 0x80241), "O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC");
    EXPECT_EQ(text("open", "flags", 0x101002), "O_RDWR|O_SYNC");
    EXPECT_EQ(text("open", "flags", 0x40000000), "O_RDONLY|0x40000000");
    EXPECT_EQ(text("open", "flags", 3), "");
    EXPECT_EQ(text("openat", "mode", 0644), "0644");
    EXPECT_EQ(text("mmap", "prot", 0), "PROT_NONE");
    EXPECT_EQ(text("mmap", "prot", 5), "PROT_READ|PROT_EXEC");
    EXPECT_EQ(text("mmap", "flags", 0x22), "MAP_PRIVATE|MAP_ANONYMOUS");
    EXPECT_EQ(text("clone", "clone_flags", 0x01200011),
              "CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD");
    EXPECT_EQ(text("socket", "family", 10), "AF_INET6");
    EXPECT_EQ(text("socket", "type", 0x80002), "SOCK_DGRAM|SOCK_CLOEXEC");
    EXPECT_EQ(text("kill", "sig", 15), "SIGTERM");
    EXPECT_EQ(text("kill", "sig", 0), "");
    EXPECT_EQ(text("access", "mode", 0), "F_OK");
    EXPECT_EQ(text("faccessat", "mode", 6), "R_OK|W_OK");
    EXPECT_EQ(text("lseek", "whence", 2), "SEEK_END");
    EXPECT_EQ(text("openat", "dfd", 0xffffff9c), "AT_FDCWD");
    EXPECT_EQ(text("openat", "dfd", 3), "");
    EXPECT_EQ(text("nanosleep", "flags", 3), "");
    EXPECT_EQ(text("mmap", "addr", 0), "NULL");
    EXPECT_EQ(text("mmap", "addr", 0x7f0000000000), "") << "as a number";
    EXPECT_EQ(text("mprotect", "prot", 0x7f0000000001), "PROT_READ") << "an int's upper half";
    EXPECT_EQ(value_text("read", {"char *", "buf"}, 0), "NULL");
    EXPECT_EQ(value_text("read", {"char *", "mode"}, 7), "");
}

TEST(SyscallValues, what_an_argument_points_to_is_known_by_the_call) {
    using Kind = Pointee::Kind;
    const auto kind = [](const char* call, const char* type, std::size_t index) {
        return pointee_of(call, {type, "x"}, index).kind;
    };
    EXPECT_EQ(kind("openat", "const char *", 1), Kind::string);
    EXPECT_EQ(kind("openat", "int", 2), Kind::nothing_known);
    EXPECT_EQ(kind("write", "const char *", 1), Kind::bytes);
    EXPECT_EQ(kind("read", "char *", 1), Kind::result_bytes);
    EXPECT_EQ(kind("connect", "struct sockaddr *", 1), Kind::socket_address);
    EXPECT_EQ(pointee_of("connect", {"struct sockaddr *", "x"}, 1).length, 2u);
    EXPECT_EQ(kind("execve", "const char *const *", 1), Kind::strings);
    EXPECT_EQ(kind("execve", "const char *const *", 2), Kind::nothing_known);
}

TEST(SyscallValues, addresses_of_sockets) {
    const auto text = [](std::string_view bytes) { return socket_address_text(as_bytes(bytes)); };
    using namespace std::string_view_literals;
    EXPECT_EQ(text("\2\0\1\xbb\x0a\0\2\2\0\0\0\0\0\0\0\0"sv), "{AF_INET, 10.0.2.2:443}");
    EXPECT_EQ(text("\x0a\0\0\x50\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0"sv),
              "{AF_INET6, [::1]:80}");
    EXPECT_EQ(text("\1\0/run/a\"b\0junk"sv), "{AF_UNIX, \"/run/a\\\"b\"}");
    EXPECT_EQ(text("\1\0\0name"sv), "{AF_UNIX, @\"name\"}");
    EXPECT_EQ(text("\1\0"sv), "{AF_UNIX}");
    EXPECT_EQ(text("\2\0\1\xbb"sv), "{AF_INET}");
    EXPECT_EQ(text("\x63\0"sv), "{family 99}");
    EXPECT_EQ(text("\2"sv), "");
}

TEST(SyscallValues, times) {
    const std::uint64_t time[] = {1, 50'000'000};
    EXPECT_EQ(time_text(std::as_bytes(std::span(time))), "{tv_sec=1, tv_nsec=50000000}");
    EXPECT_EQ(time_text(std::as_bytes(std::span(time, 1))), "");
}

TEST(SyscallValues, text_is_escaped_as_in_c) {
    EXPECT_EQ(quoted("a\n\t\r\"\\\x1b\xff", false), "\"a\\n\\t\\r\\\"\\\\\\033\\377\"");
    EXPECT_EQ(quoted("abc", true), "\"abc\"..");
    EXPECT_EQ(error_name(2), "ENOENT");
    EXPECT_EQ(error_name(0), "");
    EXPECT_EQ(error_name(4095), "");
    EXPECT_EQ(error_name(5000), "");
}

}  // namespace
}  // namespace underseer::guest_linux
