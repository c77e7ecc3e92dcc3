// The call stack of a program, from the registers that it had when it entered the kernel.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "guest_linux/call_frame_info.h"
#include "guest_linux/call_stack.h"

namespace underseer::guest_linux {

struct UserFrame {
    GuestVirt code;
    // It has called the frame before, and `code` is where that will return to. The first frame,
    // and one that a signal has interrupted, is at that very place.
    bool is_caller = false;
    // Found by rbp, which not all code uses as a frame pointer: callers may be missing before it.
    bool by_frame_pointer = false;

    // What was executed last.
    GuestVirt executed() const { return is_caller ? code - 1 : code; }
    bool operator==(const UserFrame&) const = default;
};

struct UserStack {
    std::vector<UserFrame> frames;  // the innermost first
    std::string ended;              // why it could not be followed to its begin; "": it was
};

// A process, or what a test puts there.
struct UnwindUserBy {
    std::function<bool(GuestVirt)> is_code;
    // Code::not_found where nothing is said of that code. Lasts until the next call.
    std::function<Result<const UnwindRow*>(GuestVirt)> find;
    ReadWord word;
};

// By call frame information. Where there is none, by rbp, as long as that leads up the stack to
// what is code; else the stack ends there.
UserStack walk_user_stack(const UserRegisters& registers, const UnwindUserBy& by);

}  // namespace underseer::guest_linux
