// The kernel stack of a task that is not on a CPU: what it was doing in the kernel, and the
// registers that it had in user space. Everything is judged in a copy of the stack.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "guest_linux/call_frame_info.h"
#include "guest_linux/unwind_tables.h"

namespace underseer::guest_linux {

// From a stack pointer up to the stack's top.
struct StackCopy {
    GuestVirt begin;
    std::vector<std::byte> bytes;

    GuestVirt end() const { return begin + bytes.size(); }
    // Code::unavailable outside the copy.
    Result<std::uint64_t> word(std::uint64_t at) const;
};

struct CallStack {
    struct Frame {
        GuestVirt code;  // where the call will return to
        // Only a word that may be a return address: such ones stay on a stack after the call.
        bool is_guess = false;

        bool operator==(const Frame&) const = default;
    };
    std::vector<Frame> frames;  // the innermost first
    std::string ended;          // why it could not be followed to its begin; "": it was
    // Where it has met what the CPU saved when it came from user space.
    std::optional<GuestVirt> user_registers;
};

// The kernel's tables, or what a test puts there.
struct UnwindBy {
    std::function<bool(GuestVirt)> is_code;
    std::function<Result<OrcEntry>(GuestVirt)> find;
};

// What a task that was switched away from goes on with.
struct StackStart {
    GuestVirt code;
    std::uint64_t sp = 0, bp = 0;
    bool is_new = false;  // it has never run: it begins at this very address
};

// Where the tables do not lead on, what may be return addresses beyond is told as guesses.
CallStack walk_stack(const StackCopy& stack, const StackStart& start, const UnwindBy& by);

// struct pt_regs at the top of a stack (arch/x86/include/asm/ptrace.h).
struct UserRegisters {
    GuestVirt at;                   // where they are saved
    std::int64_t system_call = -1;  // its number; -1 when it was something else that interrupted it
    bool is_compat = false;         // a system call of 32-bit programs: other numbers
    std::array<std::uint64_t, 6> arguments{};
    GuestVirt code, sp;
    bool is_32_bit = false;    // so is the program's code
    DwarfRegisters registers;  // all of them
};
// Nothing where the top of the stack holds no such registers. `compat_call`: the kernel says that
// it answers a call of 32-bit programs.
std::optional<UserRegisters> read_user_registers(const StackCopy& stack, bool compat_call);

}  // namespace underseer::guest_linux
