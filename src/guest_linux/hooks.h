// Hooks: the functions that the kernel calls because something was registered with it, as its own
// records have them. Whose code they are, CodeMap knows.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "guest_linux/gaps.h"
#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

enum class HookKind : std::uint8_t {
    ftrace,           // called at the start of functions
    kprobe,           // at an instruction
    tracepoint,       // at a place that the kernel offers
    security,         // a security module's answer
    netfilter,        // packets on their way
    packet,           // packets as they come in
    protocol,         // of a family of sockets or a protocol of IP
    notifier,         // an event: a key, a reboot, a device
    line_discipline,  // what a terminal's input goes through
    terminal,         // a terminal's driver
    program_format,   // who starts a program
    timer,
    work,
};
std::string_view to_string(HookKind kind);

struct Hook {
    HookKind kind{};
    std::string point;  // what it is called for: "keyboard_notifier_list", "eth0 ingress", ..
    GuestVirt target;   // the function that is called
    GuestVirt record;   // where that is written
    // Of ftrace and kprobes, the functions that it is called at; empty: all.
    std::vector<std::string> functions;
    bool redirects = false;  // of ftrace: it may go on elsewhere instead
    GuestVirt place{};       // of kprobes: the instruction
};

struct HookList {
    std::vector<Hook> hooks;
    std::uint64_t places = 0;  // records that were looked at, those without a hook included
    Gaps gaps;
};

HookList list_hooks(Kernel& kernel);
// Of those only the kprobes; none where the kernel is built without them.
HookList list_kprobes(Kernel& kernel);

// "tcp4_seq_show+0x12" for an address in the kernel's image, else a number.
std::string symbol_text(const Kernel& kernel, GuestVirt address);

// Members of a struct that point to functions, those of its anonymous parts included.
struct FunctionMember {
    std::string name;
    std::uint64_t offset = 0;
};
std::vector<FunctionMember> function_members(const Btf& types, std::string_view structure);

}  // namespace underseer::guest_linux
