// Makes a baseline of a kernel's file: vmlinuz, vmlinux, or a distribution's package that has one.
// The inside of a jail: what is unpacked and parsed here is whatever somebody has downloaded.
#pragma once

#include <string>

#include "agent/baseline_form.h"
#include "base/result.h"
#include "guest_linux/built_kernel.h"

namespace underseer::agent {

struct Baseline {
    BaselineFacts facts;  // without the source and the hash
    std::string bytes;    // as it is kept
};

Baseline describe(guest_linux::BuiltKernel kernel);

// `file` is borrowed and has `file_bytes`. Code::malformed, with what is wrong, when it has no
// kernel that is understood.
Result<Baseline> make_baseline(int file, std::uint64_t file_bytes);

}  // namespace underseer::agent
