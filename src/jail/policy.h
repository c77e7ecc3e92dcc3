// System-call policies as data: what a worker role may do once its jail is closed, and why.
#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace underseer::jail {

// One test of a system-call argument. All tests of a rule must hold.
struct ArgumentTest {
    enum class Op : std::uint8_t { equal, at_least, at_most };
    unsigned index = 0;  // 0..5
    Op op = Op::equal;
    std::uint64_t value = 0;
};

struct SyscallRule {
    long number = 0;  // __NR_*
    std::string_view name;
    std::string_view why;
    std::vector<ArgumentTest> tests;  // none: whatever the arguments are
    // Needed on some hosts or in some moments only. A rule that is not, and that no worker is seen
    // to need in all its work, is reported by the tests.
    bool rare = false;
};

// An allow-list: what no rule allows kills the process.
struct Policy {
    std::string_view role;
    std::vector<SyscallRule> rules;
};

// A stretch of a file that a worker may read.
struct ReadableRange {
    int fd = -1;
    std::uint64_t begin = 0, end = ~0ull;  // file offsets (addresses, for /proc/PID/mem)
};

// A file that a worker makes, in pieces: what it writes there ends at `most_bytes`.
inline constexpr std::uint64_t kMaxOutputPiece = 1u << 20;
struct OutputFile {
    int fd = -1;
    std::uint64_t most_bytes = 0;
};

// The process that reads one guest's memory. It reads `ranges` (each pread at most `max_read_bytes`
// long), talks over `channel_fd`, and can do nothing else; one that scans compiles YARA rules too,
// one that keeps evidence writes `outputs`, and one that traces exactly talks to the supervisor
// over `supervisor_fd`.
enum class IntrospectorDuty : std::uint8_t { looks, scans };
Policy introspector_policy(int channel_fd, std::span<const ReadableRange> ranges,
                           std::uint64_t max_read_bytes,
                           IntrospectorDuty duty = IntrospectorDuty::looks,
                           std::span<const OutputFile> outputs = {}, int supervisor_fd = -1);

// The process that judges what introspectors report: it talks over `channel_fd`, and nothing else.
Policy analyser_policy(int channel_fd);

// The process that asks what manages a VM, over sockets that were connected before its jail closed:
// it talks over `channel_fd` and `peer_fds`, and nothing else. One that may have to put a VM right
// after a debugger gives the monitor, the first peer, a socket.
enum class ManagerKind : std::uint8_t { monitor, debugged_monitor, libvirt };
Policy discoverer_policy(int channel_fd, std::span<const int> peer_fds, ManagerKind kind);

// The process that holds a VM's breakpoints: it tells the monitor and QEMU's GDB server what to do,
// hears a tracer, and reports over its channel. It empties the record of what is owed to the VM.
struct SupervisorFds {
    int channel = -1, tracer = -1, monitor = -1, gdb = -1, record = -1;
};
Policy supervisor_policy(const SupervisorFds& fds);

// What AddressSanitizer's run-time needs besides: added in sanitizer builds only.
std::vector<SyscallRule> sanitizer_extension();

// The policy as a seccomp filter. Code::limit when it does not fit into BPF_MAXINSNS.
Result<std::vector<sock_filter>> compile(const Policy& policy);

}  // namespace underseer::jail
