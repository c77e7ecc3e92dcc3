#include "jail/policy.h"

#include <fmt/format.h>
#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cstddef>

namespace underseer::jail {

namespace {

using Op = ArgumentTest::Op;

#define RULE(name, why, ...)       \
    SyscallRule {                  \
        __NR_##name, #name, why, { \
            __VA_ARGS__            \
        }                          \
    }

SyscallRule rare(SyscallRule rule) {
    rule.rare = true;
    return rule;
}

ArgumentTest fd_is(int fd) {
    return {0, Op::equal, static_cast<std::uint32_t>(fd)};
}

std::vector<SyscallRule> common_rules(int channel_fd) {
    return {
        RULE(read, "questions arrive on the channel", fd_is(channel_fd)),
        RULE(write, "answers leave by the channel", fd_is(channel_fd)),
        RULE(mmap, "the heap grows by anonymous memory that is never executable",
             {2, Op::at_most, PROT_READ | PROT_WRITE}, {4, Op::equal, 0xffffffff}),
        RULE(munmap, "the heap shrinks"),
        RULE(brk, "the heap"),
        rare(RULE(clock_gettime,
                  "deadlines, on hosts whose clock the vDSO cannot read; what a "
                  "watch has cost so far")),
        RULE(clock_nanosleep, "the pause between two looks that must agree"),
        RULE(close, "files are given up, and nothing can be opened in their place"),
        RULE(exit_group, "the worker ends"),
    };
}

// ---- classic BPF ------------------------------------------------------------------------------

constexpr std::uint32_t kArch = offsetof(seccomp_data, arch);
constexpr std::uint32_t kNumber = offsetof(seccomp_data, nr);
constexpr std::uint32_t kX32Bit = 0x40000000;  // __X32_SYSCALL_BIT

sock_filter load(std::uint32_t offset) {
    return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset);
}
sock_filter jump(std::uint16_t op, std::uint32_t k, std::uint8_t yes, std::uint8_t no) {
    return BPF_JUMP(static_cast<std::uint16_t>(BPF_JMP | op | BPF_K), k, yes, no);
}
sock_filter give(std::uint32_t verdict) {
    return BPF_STMT(BPF_RET | BPF_K, verdict);
}

std::uint32_t low_word(unsigned argument) {
    return static_cast<std::uint32_t>(offsetof(seccomp_data, args) + 8 * argument);
}

// Falls through when the test holds; otherwise jumps to `kFail`, patched once the block's length is
// known. Arguments are 64 bits wide and loaded as two words; x86 is little-endian.
constexpr std::uint8_t kFail = 0xff;
void append_test(std::vector<sock_filter>& block, const ArgumentTest& test) {
    const auto high = static_cast<std::uint32_t>(test.value >> 32);
    const auto low = static_cast<std::uint32_t>(test.value);
    block.push_back(load(low_word(test.index) + 4));
    switch (test.op) {
        case Op::equal:
            // An int argument may come with any upper half; only its low word is compared then.
            if (high == 0) {
                block.pop_back();
            } else {
                block.push_back(jump(BPF_JEQ, high, 0, kFail));
            }
            block.push_back(load(low_word(test.index)));
            block.push_back(jump(BPF_JEQ, low, 0, kFail));
            return;
        case Op::at_least:
            block.push_back(jump(BPF_JGT, high, 3, 0));
            block.push_back(jump(BPF_JEQ, high, 0, kFail));
            block.push_back(load(low_word(test.index)));
            block.push_back(jump(BPF_JGE, low, 0, kFail));
            return;
        case Op::at_most:
            block.push_back(jump(BPF_JGE, high, 0, 3));
            block.push_back(jump(BPF_JEQ, high, 0, kFail));
            block.push_back(load(low_word(test.index)));
            block.push_back(jump(BPF_JGT, low, kFail, 0));
            return;
    }
}

std::vector<sock_filter> block_of(const SyscallRule& rule) {
    std::vector<sock_filter> block{
        load(kNumber), jump(BPF_JEQ, static_cast<std::uint32_t>(rule.number), 0, kFail)};
    for (const ArgumentTest& test : rule.tests) append_test(block, test);
    block.push_back(give(SECCOMP_RET_ALLOW));
    for (std::size_t i = 0; i < block.size(); ++i) {
        const auto to_next = static_cast<std::uint8_t>(block.size() - i - 1);
        if (BPF_CLASS(block[i].code) != BPF_JMP) continue;
        if (block[i].jt == kFail) block[i].jt = to_next;
        if (block[i].jf == kFail) block[i].jf = to_next;
    }
    return block;
}

}  // namespace

Policy introspector_policy(int channel_fd, std::span<const ReadableRange> ranges,
                           std::uint64_t max_read_bytes, IntrospectorDuty duty,
                           std::span<const OutputFile> outputs, int supervisor_fd) {
    Policy policy{"introspector", common_rules(channel_fd)};
    policy.rules.push_back(RULE(futex, "RE2 makes parts of its programs once, and wakes who waits",
                                {1, Op::equal, FUTEX_WAKE_PRIVATE}));
    if (duty == IntrospectorDuty::scans) {
        policy.rules.push_back(
            RULE(mremap, "libyara's buffers grow by realloc(3)", {3, Op::at_most, MREMAP_MAYMOVE}));
    }
    for (const ReadableRange& range : ranges) {
        policy.rules.push_back(RULE(pread64, "guest memory, within its RAM and in bounded pieces",
                                    fd_is(range.fd), {2, Op::at_most, max_read_bytes},
                                    {3, Op::at_least, range.begin},
                                    {3, Op::at_most, range.end - 1}));
    }
    for (const OutputFile& output : outputs) {
        CHECK(output.most_bytes >= kMaxOutputPiece);
        policy.rules.push_back(RULE(pwrite64, "evidence is written to its file", fd_is(output.fd),
                                    {2, Op::at_most, kMaxOutputPiece},
                                    {3, Op::at_most, output.most_bytes - kMaxOutputPiece}));
        policy.rules.push_back(RULE(ftruncate, "zeros at its end are no bytes of it",
                                    fd_is(output.fd), {1, Op::at_most, output.most_bytes}));
        policy.rules.push_back(RULE(pread64, "it is hashed as it was written", fd_is(output.fd)));
        policy.rules.push_back(
            RULE(fsync, "it is on the disk before it is signed", fd_is(output.fd)));
    }
    if (supervisor_fd >= 0) {
        policy.rules.push_back(RULE(read, "the supervisor tells of hits", fd_is(supervisor_fd)));
        policy.rules.push_back(RULE(write, "and is told what to do then", fd_is(supervisor_fd)));
        policy.rules.push_back(RULE(sendto,
                                    "what is told of a call waits for nobody while a guest does",
                                    fd_is(channel_fd)));
    }
    return policy;
}

Policy analyser_policy(int channel_fd) {
    Policy policy{"analyser", common_rules(channel_fd)};
    // It has no guest to wait for.
    std::erase_if(policy.rules,
                  [](const SyscallRule& rule) { return rule.number == __NR_clock_nanosleep; });
    return policy;
}

Policy discoverer_policy(int channel_fd, std::span<const int> peer_fds, ManagerKind kind) {
    Policy policy{"discoverer", common_rules(channel_fd)};
    std::erase_if(policy.rules,
                  [](const SyscallRule& rule) { return rule.number == __NR_clock_nanosleep; });
    policy.rules.push_back(RULE(poll, "answers take their time"));
    for (const int fd : peer_fds) {
        policy.rules.push_back(RULE(read, "the manager's answers", fd_is(fd)));
        policy.rules.push_back(RULE(write, "questions to the manager", fd_is(fd)));
    }
    if (kind == ManagerKind::debugged_monitor) {
        policy.rules.push_back(
            RULE(sendmsg, "the monitor is given the GDB server's socket", fd_is(peer_fds.front())));
    }
    if (kind == ManagerKind::libvirt) {
        policy.rules.push_back(
            RULE(rt_sigprocmask, "libvirt's client blocks signals while it waits"));
    }
    return policy;
}

Policy supervisor_policy(const SupervisorFds& fds) {
    const int peers[] = {fds.monitor, fds.gdb};
    Policy policy = discoverer_policy(fds.channel, peers, ManagerKind::debugged_monitor);
    policy.role = "supervisor";
    policy.rules.push_back(
        rare(RULE(restart_syscall, "it waits on when it was stopped for a while (SIGSTOP)")));
    policy.rules.push_back(RULE(recvfrom, "what the tracer wants", fd_is(fds.tracer)));
    policy.rules.push_back(RULE(sendto, "hits, to the tracer", fd_is(fds.tracer)));
    policy.rules.push_back(
        RULE(ftruncate, "nothing is owed any more", fd_is(fds.record), {1, Op::equal, 0}));
    return policy;
}

std::vector<SyscallRule> sanitizer_extension() {
    return {
        RULE(sigaltstack, "sanitizer: signal stack of a dying thread"),
        RULE(rt_sigprocmask, "sanitizer: reporting"),
        RULE(rt_sigaction, "sanitizer: reporting"),
        RULE(rt_sigreturn, "sanitizer: reporting"),
        RULE(futex, "sanitizer: locks"),
        RULE(madvise, "sanitizer: its shadow memory is given back"),
        RULE(mremap, "sanitizer: its own allocator"),
        RULE(getpid, "sanitizer: reporting"),
        RULE(gettid, "sanitizer: reporting"),
        RULE(sched_yield, "sanitizer: spin locks"),
        RULE(write, "sanitizer: its report goes to standard error", fd_is(2)),
        RULE(mmap, "sanitizer: its own allocator maps at fixed places"),
        RULE(mprotect, "sanitizer: guard pages", {2, Op::at_most, PROT_READ | PROT_WRITE}),
    };
}

Result<std::vector<sock_filter>> compile(const Policy& policy) {
    std::vector<sock_filter> program{
        load(kArch),   jump(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0), give(SECCOMP_RET_KILL_PROCESS),
        load(kNumber), jump(BPF_JGE, kX32Bit, 0, 1),           give(SECCOMP_RET_KILL_PROCESS),
    };
    for (const SyscallRule& rule : policy.rules) {
        const auto block = block_of(rule);
        program.insert(program.end(), block.begin(), block.end());
    }
    program.push_back(give(SECCOMP_RET_KILL_PROCESS));
    if (program.size() > BPF_MAXINSNS) {
        return fail(Code::limit,
                    fmt::format("the policy of {} needs {} filter instructions, and the "
                                "kernel takes {}",
                                policy.role, program.size(), BPF_MAXINSNS));
    }
    return program;
}

}  // namespace underseer::jail
