#include "guest_linux/user_stack.h"

#include <fmt/format.h>

#include "base/limits.h"

namespace underseer::guest_linux {

namespace {

class UserWalk {
  public:
    UserWalk(const UserRegisters& registers, const UnwindUserBy& by)
        : by_(by), registers_(registers.registers) {
        stack_.frames.push_back({registers.code});
    }

    UserStack walk() {
        for (;;) {
            auto more = step();
            if (more.has_value() && *more) continue;
            if (!more.has_value()) stack_.ended = more.error().to_text();
            return std::move(stack_);
        }
    }

  private:
    Result<bool> step() {
        const UserFrame& frame = stack_.frames.back();
        const auto row = by_.find(frame.executed());
        UserFrame next{.is_caller = true};
        DwarfRegisters caller;
        bool is_other_stack = false;
        if (row.has_value()) {
            caller = TRY(caller_of(**row, registers_, by_.word));
            // glibc says of _start and of clone() that nobody has called them; others return to 0.
            if (caller[kDwarfRip].value_or(0) == 0) return false;
            next.is_caller = !(*row)->is_signal;
            is_other_stack = (*row)->is_signal;  // signals may have one of their own
        } else if (row.error().code == Code::not_found) {
            caller = TRY(caller_by_frame_pointer(frame, row.error()));
            next.by_frame_pointer = true;
        } else {
            return fail(row.error());
        }
        // Who has called somebody has that much on the stack; the first may have taken it away
        // again, as vfork() does.
        const std::uint64_t least = registers_[kDwarfRsp].value_or(0) + (frame.is_caller ? 1 : 0);
        if (!caller[kDwarfRsp] || (!is_other_stack && *caller[kDwarfRsp] < least)) {
            return fail(Code::malformed,
                        fmt::format("the stack goes back at {:#x}", frame.code.value));
        }
        next.code = GuestVirt{caller[kDwarfRip].value_or(0)};
        if (!by_.is_code(next.code)) {
            return fail(Code::malformed,
                        fmt::format("{:#x}, which {:#x} would return to, is no code",
                                    next.code.value, frame.code.value));
        }
        if (stack_.frames.size() == limits::kMaxUserStackFrames) {
            return fail(Code::limit,
                        fmt::format("more than {} functions", limits::kMaxUserStackFrames));
        }
        registers_ = caller;
        stack_.frames.push_back(next);
        return true;
    }

    // push %rbp; mov %rsp,%rbp: the caller's rbp, and above it what the call returns to.
    Result<DwarfRegisters> caller_by_frame_pointer(const UserFrame& frame, const Error& no_row) {
        constexpr std::uint64_t kWordBytes = 8;
        const auto at = registers_[kDwarfRbp], sp = registers_[kDwarfRsp];
        const auto none = [&] {
            return fail(Code::unavailable, fmt::format("{:#x}: {}, and rbp is no frame pointer",
                                                       frame.code.value, no_row.message));
        };
        constexpr std::uint64_t kMaxFrameBytes = limits::kMaxUserStackPages * kPageSize;
        if (!at || !sp || *at < *sp || *at - *sp > kMaxFrameBytes || *at % kWordBytes != 0) {
            return none();
        }
        const auto saved = by_.word(GuestVirt{*at}), code = by_.word(GuestVirt{*at} + kWordBytes);
        if (!saved.has_value() || !code.has_value() || !by_.is_code(GuestVirt{*code})) {
            return none();
        }
        // What else it has saved, and where, nobody knows.
        DwarfRegisters caller;
        caller[kDwarfRip] = *code;
        caller[kDwarfRbp] = *saved;
        caller[kDwarfRsp] = *at + 2 * kWordBytes;
        return caller;
    }

    const UnwindUserBy& by_;
    DwarfRegisters registers_;
    UserStack stack_;
};

}  // namespace

UserStack walk_user_stack(const UserRegisters& registers, const UnwindUserBy& by) {
    if (registers.is_32_bit) {
        return {.frames = {{registers.code}},
                .ended = "a 32-bit program, whose stack is not followed"};
    }
    return UserWalk(registers, by).walk();
}

}  // namespace underseer::guest_linux
