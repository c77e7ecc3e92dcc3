// The kernel model as an ISF, Volatility 3's symbol file: addresses from kallsyms, types from BTF,
// so that other tools can read the memory of a kernel that nobody has debug symbols for.
// Format: schema 6.2.0 of volatility3 (volatility3/schemas).
#pragma once

#include <string>

#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

// One JSON object; the same kernel gives the same bytes at any time and slide. Addresses are those
// of vmlinux, without the slide. Of several symbols or types of one name the first is taken.
// TRUST: names and layouts are the guest's. Names are escaped, every type that is referred to is
// there, and the size is bounded (Code::limit).
Result<std::string> isf_of(Kernel& kernel);

}  // namespace underseer::guest_linux
