// Makes a baseline of a kernel's file (vmlinuz, vmlinux, or a distribution's package that has one),
// or of programs (ELF files, or a package that has some). The inside of a jail: what is unpacked
// and parsed here is whatever somebody has downloaded.
#pragma once

#include <string>
#include <vector>

#include "agent/baseline_form.h"
#include "base/result.h"
#include "guest_linux/built_kernel.h"

namespace underseer::agent {

struct Baseline {
    BaselineFacts facts;  // without the source and the hash
    std::string bytes;    // as it is kept
};

Baseline describe(guest_linux::BuiltKernel kernel);

// `file` is borrowed, is called `name` and has `file_bytes`. Code::malformed, with what is wrong,
// when it has no kernel and no program that is understood. Several of a file that has several
// packages' baselines.
Result<std::vector<Baseline>> make_baselines(int file, std::uint64_t file_bytes,
                                             std::string_view name);

}  // namespace underseer::agent
