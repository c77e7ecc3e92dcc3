#include "guest_linux/call_stack.h"

#include <fmt/format.h>

#include <cstring>
#include <iterator>

namespace underseer::guest_linux {

namespace {

// struct pt_regs: words from its begin (arch/x86/include/asm/ptrace.h).
enum RegisterWord : std::uint64_t {
    kR15 = 0,
    kR14 = 1,
    kR13 = 2,
    kR12 = 3,
    kBp = 4,
    kBx = 5,
    kR11 = 6,
    kR10 = 7,
    kR9 = 8,
    kR8 = 9,
    kAx = 10,
    kCx = 11,
    kDx = 12,
    kSi = 13,
    kDi = 14,
    kOrigAx = 15,
    kIp = 16,
    kCs = 17,
    kSp = 19,
    kSs = 20,
    kWords = 21
};
constexpr std::uint64_t kWord = 8;
// By their DWARF numbers.
constexpr RegisterWord kDwarfWords[] = {kAx, kDx,  kCx,  kBx,  kSi,  kDi,  kBp,  kSp, kR8,
                                        kR9, kR10, kR11, kR12, kR13, kR14, kR15, kIp};
static_assert(std::size(kDwarfWords) == kDwarfRegisters);

// arch/x86/include/asm/segment.h: __USER_CS, __USER32_CS, __USER_DS.
constexpr std::uint64_t kUserCode = 0x33, kUserCode32 = 0x23, kUserData = 0x2b;
constexpr std::uint64_t kPrivilege = 3;

class StackWalk {
  public:
    StackWalk(const StackCopy& stack, const StackStart& start, const UnwindBy& by)
        : stack_(stack),
          by_(by),
          code_(start.code),
          sp_(start.sp),
          bp_(start.bp),
          is_signal_(start.is_new) {}

    CallStack walk() {
        for (;;) {
            auto more = step();
            if (more.has_value() && *more) continue;
            if (!more.has_value()) {
                stack_frames_.ended = more.error().message;
                guess();
            }
            return std::move(stack_frames_);
        }
    }

  private:
    Result<bool> step() {
        if (!by_.is_code(code_)) {
            return fail(Code::unavailable,
                        fmt::format("{:#x} is no code of the kernel or of a module", code_.value));
        }
        if (stack_frames_.frames.size() == limits::kMaxStackFrames) {
            return fail(Code::limit,
                        fmt::format("more than {} functions", limits::kMaxStackFrames));
        }
        stack_frames_.frames.push_back({code_});
        // A call may be the last instruction of its function: what it returns to is another's.
        const OrcEntry entry = TRY(by_.find(is_signal_ ? code_ : code_ - 1));
        if (entry.type == OrcType::end_of_stack) return false;
        if (entry.type == OrcType::undefined) {
            return fail(Code::unavailable,
                        fmt::format("the kernel says nothing of the stack at {:#x}", code_.value));
        }
        const std::uint64_t before = sp_, caller = TRY(caller_stack(entry));
        is_signal_ = entry.is_signal;
        std::uint64_t cs = 0;
        registers_.reset();
        if (entry.type == OrcType::call) {
            code_ = GuestVirt{TRY(stack_.word(caller - kWord))};
            sp_ = caller;
        } else {
            // The whole of pt_regs, or what the CPU itself saves, which is its end.
            const std::uint64_t at =
                entry.type == OrcType::registers ? caller : caller - kIp * kWord;
            code_ = GuestVirt{TRY(stack_.word(at + kIp * kWord))};
            cs = TRY(stack_.word(at + kCs * kWord));
            sp_ = TRY(stack_.word(at + kSp * kWord));
            if ((cs & kPrivilege) == kPrivilege) {
                stack_frames_.user_registers = GuestVirt{at};
                return false;
            }
            if (entry.type == OrcType::registers) registers_ = at;
        }
        TRY(restore_frame_pointer(entry, caller));
        if (sp_ <= before) {
            return fail(Code::malformed, fmt::format("the stack goes back at {:#x}", before));
        }
        return true;
    }

    // Where the caller's stack begins: what DWARF calls the CFA.
    Result<std::uint64_t> caller_stack(const OrcEntry& entry) {
        const auto offset = static_cast<std::uint64_t>(std::int64_t{entry.sp_offset});
        switch (entry.sp_register) {
            case OrcRegister::sp:
                return sp_ + offset;
            case OrcRegister::bp:
                return bp_ + offset;
            case OrcRegister::bp_indirect:
                return stack_.word(bp_ + offset);
            case OrcRegister::sp_indirect:
                // Of interrupts' stacks only, which no task sleeps on.
                return TRY(stack_.word(sp_)) + offset;
            case OrcRegister::r10:
                return saved(kR10);
            case OrcRegister::r13:
                return saved(kR13);
            case OrcRegister::di:
                return saved(kDi);
            case OrcRegister::dx:
                return saved(kDx);
            case OrcRegister::ax:
                return saved(kAx);
            case OrcRegister::none:
            case OrcRegister::prev_sp:
            case OrcRegister::unknown:
                break;
        }
        return fail(Code::malformed,
                    fmt::format("the caller's stack hangs on no register at {:#x}", code_.value));
    }

    Result<std::uint64_t> saved(RegisterWord word) const {
        if (!registers_) {
            return fail(Code::unavailable,
                        fmt::format("a register that the stack at {:#x} hangs on is not saved",
                                    code_.value));
        }
        return stack_.word(*registers_ + word * kWord);
    }

    Result<void> restore_frame_pointer(const OrcEntry& entry, std::uint64_t caller) {
        const auto offset = static_cast<std::uint64_t>(std::int64_t{entry.bp_offset});
        switch (entry.bp_register) {
            case OrcRegister::none:
                if (registers_) bp_ = TRY(saved(kBp));
                return {};
            case OrcRegister::prev_sp:
                bp_ = TRY(stack_.word(caller + offset));
                return {};
            case OrcRegister::bp:
                bp_ = TRY(stack_.word(bp_ + offset));
                return {};
            default:
                return fail(Code::malformed,
                            fmt::format("the caller's frame pointer hangs on no register at {:#x}",
                                        code_.value));
        }
    }

    void guess() {
        const std::uint64_t from =
            sp_ >= stack_.begin.value && sp_ < stack_.end().value ? sp_ : stack_.begin.value;
        for (std::uint64_t at = (from + kWord - 1) / kWord * kWord;
             at < stack_.end().value && stack_frames_.frames.size() < limits::kMaxStackFrames;
             at += kWord) {
            const auto word = stack_.word(at);
            if (!word.has_value()) return;
            if (by_.is_code(GuestVirt{*word})) {
                stack_frames_.frames.push_back({GuestVirt{*word}, true});
            }
        }
    }

    const StackCopy& stack_;
    const UnwindBy& by_;
    GuestVirt code_;
    std::uint64_t sp_, bp_;
    bool is_signal_;
    std::optional<std::uint64_t> registers_;  // where all of them were saved, in this frame
    CallStack stack_frames_;
};

}  // namespace

Result<std::uint64_t> StackCopy::word(std::uint64_t at) const {
    if (at < begin.value || bytes.size() < kWord || at - begin.value > bytes.size() - kWord) {
        return fail(Code::unavailable, fmt::format("{:#x} is not on the task's stack", at));
    }
    std::uint64_t value = 0;
    std::memcpy(&value, bytes.data() + (at - begin.value), sizeof value);
    return value;
}

CallStack walk_stack(const StackCopy& stack, const StackStart& start, const UnwindBy& by) {
    return StackWalk(stack, start, by).walk();
}

// TOP_OF_KERNEL_STACK_PADDING is 0, and 16 in kernels built with FRED (6.9 and later,
// arch/x86/include/asm/thread_info.h). Selectors say which: were it the other, the place of cs
// would hold a stack pointer, or that of ss flags with a bit set that is always clear.
std::optional<UserRegisters> read_user_registers(const StackCopy& stack, bool compat_call) {
    for (const std::uint64_t padding : {0u, 16u}) {
        if (stack.bytes.size() < kWords * kWord + padding) continue;
        const std::uint64_t at = stack.end().value - padding - kWords * kWord;
        // They are all within the copy.
        const auto word = [&](RegisterWord index) {
            return stack.word(at + index * kWord).value_or(0);
        };
        // FRED keeps more in the same words, above the selectors.
        const std::uint64_t cs = word(kCs) & 0xffff, ss = word(kSs) & 0xffff;
        if ((cs != kUserCode && cs != kUserCode32) || ss != kUserData) continue;
        UserRegisters registers{
            .at = GuestVirt{at}, .code = GuestVirt{word(kIp)}, .sp = GuestVirt{word(kSp)}};
        registers.is_32_bit = cs == kUserCode32;
        registers.is_compat = compat_call || registers.is_32_bit;
        for (unsigned i = 0; i < kDwarfRegisters; ++i) {
            registers.registers[i] = word(kDwarfWords[i]);
        }
        // The kernel itself keeps its low half only (syscall_get_nr()).
        registers.system_call = static_cast<std::int32_t>(word(kOrigAx));
        registers.arguments = {word(kDi), word(kSi), word(kDx), word(kR10), word(kR8), word(kR9)};
        if (registers.is_compat) {
            registers.arguments = {word(kBx), word(kCx), word(kDx),
                                   word(kSi), word(kDi), word(kBp)};
            for (std::uint64_t& argument : registers.arguments) argument &= 0xffffffff;
        }
        return registers;
    }
    return std::nullopt;
}

}  // namespace underseer::guest_linux
