// What the checks of the kernel's code have in common.
#pragma once

#include <string>

#include "detect/confirmed_check.h"

namespace underseer::detect {

// Whose code is at an address, with its symbol: "the kernel (do_exit+0x10)", "module foo (0x..)",
// "nobody". Needs code that was mapped.
std::string owner_text(GuestVirt address, Snapshot& snapshot);

// The code at an address: whose it is, its bytes and its first instructions.
event::Evidence code_evidence(std::string name, GuestVirt address, Snapshot& snapshot);

// A report that cannot say anything because the kernel's code could not be mapped.
event::CheckReport code_unknown(const Error& why);

void add_gaps(event::CheckReport& report, const guest_linux::Gaps& gaps);

}  // namespace underseer::detect
