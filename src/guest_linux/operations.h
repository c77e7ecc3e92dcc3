// Tables of operations that things in the guest are bound to: who answers when a file of /proc is
// read, or a folder of a file system listed.
#pragma once

#include <string>
#include <vector>

#include "guest_linux/gaps.h"
#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

struct Binding {
    std::string thing;         // "/proc/net/tcp", "root of proc"
    std::string member;        // "proc_ops", "i_fop"
    GuestVirt record;          // where the pointer stands
    GuestVirt target;          // the table; of seq_ops also a function that shows all at once
    bool is_built_in = false;  // a thing that the kernel has itself, whatever modules are loaded
};

struct BindingList {
    std::vector<Binding> bindings;
    Gaps gaps;
};

// Of every entry of /proc, in every network namespace, and of the root folder of every file system
// that is mounted.
BindingList list_bindings(Kernel& kernel);

}  // namespace underseer::guest_linux
