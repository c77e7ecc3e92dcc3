#include "guest_linux/syscall_values.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <span>

namespace underseer::guest_linux {

namespace {

struct NamedBits {
    std::uint64_t value;
    std::string_view name;
};

// asm-generic/fcntl.h
constexpr NamedBits kOpenFlags[] = {
    {0x410000, "O_TMPFILE"},  {0x101000, "O_SYNC"},    {0x40, "O_CREAT"},
    {0x80, "O_EXCL"},         {0x100, "O_NOCTTY"},     {0x200, "O_TRUNC"},
    {0x400, "O_APPEND"},      {0x800, "O_NONBLOCK"},   {0x1000, "O_DSYNC"},
    {0x2000, "FASYNC"},       {0x4000, "O_DIRECT"},    {0x8000, "O_LARGEFILE"},
    {0x10000, "O_DIRECTORY"}, {0x20000, "O_NOFOLLOW"}, {0x40000, "O_NOATIME"},
    {0x80000, "O_CLOEXEC"},   {0x200000, "O_PATH"}};
constexpr NamedBits kAccessModes[] = {{0, "O_RDONLY"}, {1, "O_WRONLY"}, {2, "O_RDWR"}};
// asm-generic/mman-common.h, asm-generic/mman.h
constexpr NamedBits kProtections[] = {{1, "PROT_READ"},
                                      {2, "PROT_WRITE"},
                                      {4, "PROT_EXEC"},
                                      {0x01000000, "PROT_GROWSDOWN"},
                                      {0x02000000, "PROT_GROWSUP"}};
constexpr NamedBits kMapFlags[] = {{3, "MAP_SHARED_VALIDATE"}, {1, "MAP_SHARED"},
                                   {2, "MAP_PRIVATE"},         {0x10, "MAP_FIXED"},
                                   {0x20, "MAP_ANONYMOUS"},    {0x40, "MAP_32BIT"},
                                   {0x100, "MAP_GROWSDOWN"},   {0x800, "MAP_DENYWRITE"},
                                   {0x1000, "MAP_EXECUTABLE"}, {0x2000, "MAP_LOCKED"},
                                   {0x4000, "MAP_NORESERVE"},  {0x8000, "MAP_POPULATE"},
                                   {0x10000, "MAP_NONBLOCK"},  {0x20000, "MAP_STACK"},
                                   {0x40000, "MAP_HUGETLB"},   {0x100000, "MAP_FIXED_NOREPLACE"}};
// linux/sched.h
constexpr NamedBits kCloneFlags[] = {{0x00000100, "CLONE_VM"},
                                     {0x00000200, "CLONE_FS"},
                                     {0x00000400, "CLONE_FILES"},
                                     {0x00000800, "CLONE_SIGHAND"},
                                     {0x00001000, "CLONE_PIDFD"},
                                     {0x00002000, "CLONE_PTRACE"},
                                     {0x00004000, "CLONE_VFORK"},
                                     {0x00008000, "CLONE_PARENT"},
                                     {0x00010000, "CLONE_THREAD"},
                                     {0x00020000, "CLONE_NEWNS"},
                                     {0x00040000, "CLONE_SYSVSEM"},
                                     {0x00080000, "CLONE_SETTLS"},
                                     {0x00100000, "CLONE_PARENT_SETTID"},
                                     {0x00200000, "CLONE_CHILD_CLEARTID"},
                                     {0x00400000, "CLONE_DETACHED"},
                                     {0x00800000, "CLONE_UNTRACED"},
                                     {0x01000000, "CLONE_CHILD_SETTID"},
                                     {0x02000000, "CLONE_NEWCGROUP"},
                                     {0x04000000, "CLONE_NEWUTS"},
                                     {0x08000000, "CLONE_NEWIPC"},
                                     {0x10000000, "CLONE_NEWUSER"},
                                     {0x20000000, "CLONE_NEWPID"},
                                     {0x40000000, "CLONE_NEWNET"},
                                     {0x80000000, "CLONE_IO"}};
// linux/socket.h, linux/net.h
constexpr NamedBits kAddressFamilies[] = {{0, "AF_UNSPEC"}, {1, "AF_UNIX"},       {2, "AF_INET"},
                                          {10, "AF_INET6"}, {16, "AF_NETLINK"},   {17, "AF_PACKET"},
                                          {29, "AF_CAN"},   {31, "AF_BLUETOOTH"}, {38, "AF_ALG"},
                                          {40, "AF_VSOCK"}, {44, "AF_XDP"}};
constexpr NamedBits kSocketTypes[] = {{1, "SOCK_STREAM"},    {2, "SOCK_DGRAM"},
                                      {3, "SOCK_RAW"},       {4, "SOCK_RDM"},
                                      {5, "SOCK_SEQPACKET"}, {10, "SOCK_PACKET"}};
constexpr NamedBits kSocketFlags[] = {{0x80000, "SOCK_CLOEXEC"}, {0x800, "SOCK_NONBLOCK"}};
constexpr NamedBits kWhence[] = {
    {0, "SEEK_SET"}, {1, "SEEK_CUR"}, {2, "SEEK_END"}, {3, "SEEK_DATA"}, {4, "SEEK_HOLE"}};
constexpr NamedBits kFcntl[] = {{0, "F_DUPFD"},
                                {1, "F_GETFD"},
                                {2, "F_SETFD"},
                                {3, "F_GETFL"},
                                {4, "F_SETFL"},
                                {5, "F_GETLK"},
                                {6, "F_SETLK"},
                                {7, "F_SETLKW"},
                                {8, "F_SETOWN"},
                                {9, "F_GETOWN"},
                                {10, "F_SETSIG"},
                                {11, "F_GETSIG"},
                                {1030, "F_DUPFD_CLOEXEC"},
                                {1031, "F_SETPIPE_SZ"},
                                {1032, "F_GETPIPE_SZ"},
                                {1033, "F_ADD_SEALS"}};
constexpr NamedBits kAccess[] = {{4, "R_OK"}, {2, "W_OK"}, {1, "X_OK"}};
constexpr NamedBits kAtFlags[] = {{0x100, "AT_SYMLINK_NOFOLLOW"},
                                  {0x200, "AT_REMOVEDIR"},
                                  {0x400, "AT_SYMLINK_FOLLOW"},
                                  {0x800, "AT_NO_AUTOMOUNT"},
                                  {0x1000, "AT_EMPTY_PATH"}};

std::string name_of_value(std::span<const NamedBits> words, std::uint64_t value) {
    const auto found = std::ranges::find(words, value, &NamedBits::value);
    return found == words.end() ? "" : std::string(found->name);
}

void add_word(std::string& text, std::string_view word) {
    if (!text.empty()) text += '|';
    text += word;
}

// What is left is told as a number. Words with more bits stand before those with fewer of them.
std::string bits_of(std::span<const NamedBits> words, std::uint64_t value, std::string text = {}) {
    for (const NamedBits& word : words) {
        if ((value & word.value) != word.value) continue;
        add_word(text, word.name);
        value &= ~word.value;
    }
    if (value != 0) add_word(text, fmt::format("{:#x}", value));
    return text;
}

std::string signal_text(std::uint64_t value) {
    const char* name = value < 65 ? ::sigabbrev_np(static_cast<int>(value)) : nullptr;
    return name == nullptr ? "" : fmt::format("SIG{}", name);
}

using TellValue = std::string (*)(std::uint64_t value);

std::string open_flags(std::uint64_t value) {
    constexpr std::uint64_t kAccessMode = 3;
    std::string mode = name_of_value(kAccessModes, value & kAccessMode);
    return mode.empty() ? "" : bits_of(kOpenFlags, value & ~kAccessMode, std::move(mode));
}
std::string creation_flags(std::uint64_t value) {
    return bits_of(kOpenFlags, value);
}
std::string protection(std::uint64_t value) {
    return value == 0 ? "PROT_NONE" : bits_of(kProtections, value);
}
std::string address_text(std::uint64_t value) {
    return value == 0 ? "NULL" : "";
}
std::string map_flags(std::uint64_t value) {
    return bits_of(kMapFlags, value);
}
std::string clone_flags(std::uint64_t value) {
    constexpr std::uint64_t kSignal = 0xff;  // that the child's end sends
    std::string text = bits_of(kCloneFlags, value & ~kSignal);
    if (const std::string signal = signal_text(value & kSignal); !signal.empty())
        add_word(text, signal);
    return text;
}
std::string family(std::uint64_t value) {
    return name_of_value(kAddressFamilies, value);
}
std::string socket_type(std::uint64_t value) {
    constexpr std::uint64_t kType = 0xf;
    std::string type = name_of_value(kSocketTypes, value & kType);
    return type.empty() ? "" : bits_of(kSocketFlags, value & ~kType, std::move(type));
}
std::string socket_flags(std::uint64_t value) {
    return bits_of(kSocketFlags, value);
}
std::string whence(std::uint64_t value) {
    return name_of_value(kWhence, value);
}
std::string fcntl_command(std::uint64_t value) {
    return name_of_value(kFcntl, value);
}
std::string access_mode(std::uint64_t value) {
    return value == 0 ? "F_OK" : bits_of(kAccess, value);
}
std::string at_flags(std::uint64_t value) {
    return bits_of(kAtFlags, value);
}
std::string file_mode(std::uint64_t value) {
    return fmt::format("{:#o}", value & 07777);
}

// By the argument's name in the kernel; "": of every call.
struct ValueRow {
    std::string_view call, argument;
    TellValue tell;
};
constexpr ValueRow kValues[] = {
    {"open", "flags", open_flags},
    {"openat", "flags", open_flags},
    {"pipe2", "flags", creation_flags},
    {"dup3", "flags", creation_flags},
    {"mmap", "addr", address_text},
    {"mmap", "prot", protection},
    {"mmap", "flags", map_flags},
    {"mprotect", "prot", protection},
    {"clone", "clone_flags", clone_flags},
    {"unshare", "unshare_flags", clone_flags},
    {"setns", "flags", clone_flags},
    {"socket", "family", family},
    {"socketpair", "family", family},
    {"socket", "type", socket_type},
    {"socketpair", "type", socket_type},
    {"accept4", "flags", socket_flags},
    {"lseek", "whence", whence},
    {"fcntl", "cmd", fcntl_command},
    {"access", "mode", access_mode},
    {"faccessat", "mode", access_mode},
    {"faccessat2", "mode", access_mode},
    {"newfstatat", "flag", at_flags},
    {"unlinkat", "flag", at_flags},
    {"fchownat", "flag", at_flags},
    {"linkat", "flags", at_flags},
    {"faccessat2", "flags", at_flags},
    {"execveat", "flags", at_flags},
    {"", "mode", file_mode},
    {"", "sig", signal_text},
};

struct PointeeRow {
    std::string_view call;
    std::size_t index;
    Pointee pointee;
};
using PointeeKind = Pointee::Kind;
constexpr PointeeRow kPointees[] = {
    {"read", 1, {PointeeKind::result_bytes, 2}},
    {"pread64", 1, {PointeeKind::result_bytes, 2}},
    {"recvfrom", 1, {PointeeKind::result_bytes, 2}},
    {"readlink", 1, {PointeeKind::result_bytes, 2}},
    {"readlinkat", 2, {PointeeKind::result_bytes, 3}},
    {"getcwd", 0, {PointeeKind::result_bytes, 1}},
    {"write", 1, {PointeeKind::bytes, 2}},
    {"pwrite64", 1, {PointeeKind::bytes, 2}},
    {"sendto", 1, {PointeeKind::bytes, 2}},
    {"sendto", 4, {PointeeKind::socket_address, 5}},
    {"connect", 1, {PointeeKind::socket_address, 2}},
    {"bind", 1, {PointeeKind::socket_address, 2}},
    {"execve", 1, {PointeeKind::strings, 0}},
    {"execveat", 2, {PointeeKind::strings, 0}},
    {"mount", 0, {PointeeKind::string, 0}},
    {"mount", 1, {PointeeKind::string, 0}},
    {"mount", 2, {PointeeKind::string, 0}},
};

}  // namespace

std::string value_text(std::string_view call, const SyscallArgument& argument,
                       std::uint64_t value) {
    // include/uapi/linux/fcntl.h: AT_FDCWD, "from where the process is".
    constexpr std::int32_t kWorkingFolder = -100;
    if (argument.name.ends_with("dfd") && static_cast<std::int32_t>(value) == kWorkingFolder) {
        return "AT_FDCWD";
    }
    if (argument.type.find('*') != std::string::npos) return value == 0 ? "NULL" : "";
    // Of an int the upper half may be anything.
    const bool is_long = argument.type.find("long") != std::string::npos;
    if (!is_long) value &= 0xffffffff;
    for (const ValueRow& row : kValues) {
        if ((row.call.empty() || row.call == call) && row.argument == argument.name) {
            return row.tell(value);
        }
    }
    return "";
}

Pointee pointee_of(std::string_view call, const SyscallArgument& argument, std::size_t index) {
    for (const PointeeRow& row : kPointees) {
        if (row.call == call && row.index == index) return row.pointee;
    }
    if (argument.name == "rqtp") return {PointeeKind::time, 0};
    // Paths and names: what is not const, the call fills.
    return argument.type == "const char *" ? Pointee{PointeeKind::string, 0} : Pointee{};
}

std::string socket_address_text(Bytes address) {
    const auto family_number = load_le<std::uint16_t>(address, 0);
    if (!family_number) return "";
    std::string name = name_of_value(kAddressFamilies, *family_number);
    if (name.empty()) name = fmt::format("family {}", *family_number);
    // In the network's order.
    const auto port = [&] {
        return std::to_integer<unsigned>(address[2]) << 8 | std::to_integer<unsigned>(address[3]);
    };
    std::array<char, INET6_ADDRSTRLEN> text{};
    if (name == "AF_INET" && address.size() >= 8) {
        ::inet_ntop(AF_INET, address.data() + 4, text.data(), text.size());
        return fmt::format("{{{}, {}:{}}}", name, text.data(), port());
    }
    if (name == "AF_INET6" && address.size() >= 24) {
        ::inet_ntop(AF_INET6, address.data() + 8, text.data(), text.size());
        return fmt::format("{{{}, [{}]:{}}}", name, text.data(), port());
    }
    if (name == "AF_UNIX" && address.size() > 2) {
        std::string_view path = as_text(address.subspan(2));
        // A path ends with its NUL; a name of the abstract space begins with one.
        const bool is_abstract = path.front() == '\0';
        if (is_abstract) path.remove_prefix(1);
        if (!is_abstract) path = path.substr(0, path.find('\0'));
        return fmt::format("{{{}, {}{}}}", name, is_abstract ? "@" : "", quoted(path, false));
    }
    return fmt::format("{{{}}}", name);
}

std::string time_text(Bytes time) {
    const auto seconds = load_le<std::int64_t>(time, 0);
    const auto nanoseconds = load_le<std::int64_t>(time, 8);
    if (!seconds || !nanoseconds) return "";
    return fmt::format("{{tv_sec={}, tv_nsec={}}}", *seconds, *nanoseconds);
}

std::string quoted(std::string_view text, bool is_cut) {
    std::string out = "\"";
    for (const char one : text) {
        const auto byte = static_cast<unsigned char>(one);
        if (one == '"' || one == '\\') {
            out += '\\';
            out += one;
        } else if (one == '\n') {
            out += "\\n";
        } else if (one == '\t') {
            out += "\\t";
        } else if (one == '\r') {
            out += "\\r";
        } else if (byte < 0x20 || byte >= 0x7f) {
            out += fmt::format("\\{:03o}", byte);
        } else {
            out += one;
        }
    }
    return out + (is_cut ? "\".." : "\"");
}

std::string_view error_name(std::int64_t error) {
    constexpr std::int64_t kMaxError = 4095;  // MAX_ERRNO, include/linux/err.h
    if (error <= 0 || error > kMaxError) return "";
    const char* name = ::strerrorname_np(static_cast<int>(error));
    return name == nullptr ? "" : name;
}

}  // namespace underseer::guest_linux
