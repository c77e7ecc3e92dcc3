// A kernel's code and constants as its makers have built them, and the places at which it alters
// its code when it starts, so that it fits the CPU that it runs on. Made from the file that is
// booted (vmlinuz) or the one that is packed in it (vmlinux), and kept in a form of our own:
// known-good code that a running kernel is compared with.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "event/observation.h"

namespace underseer::guest_linux {

// Such a place (arch/x86/kernel/alternative.c). Offsets are in the code.
struct StartPatch {
    enum class Kind : std::uint8_t {
        alternative,    // may become what is told beside it (struct alt_instr)
        paravirt,       // a call by pv_ops (struct paravirt_patch_site, until 6.7)
        indirect_call,  // of a retpoline
        return_jump,    // to the return thunk
        landing,        // endbr64 where nobody lands
        constant,       // a number that is known only then (runtime constants, since 6.11)
    };
    Kind kind{};
    std::uint32_t at = 0;
    std::uint8_t size_bytes = 0;
    // Of an alternative: where it is among the replacements. Of a constant: which one.
    std::uint32_t other = 0;
    std::uint8_t other_bytes = 0;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"kind", &StartPatch::kind}, Field{"at", &StartPatch::at},
                          Field{"size_bytes", &StartPatch::size_bytes},
                          Field{"other", &StartPatch::other},
                          Field{"other_bytes", &StartPatch::other_bytes}};
    }
};
constexpr StartPatch::Kind last_enumerator(StartPatch::Kind) {
    return StartPatch::Kind::constant;
}

// A stretch of what never changes, from where it is linked to run on.
struct BuiltConstants {
    std::uint64_t begin = 0;  // virtual
    std::string bytes;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"begin", &BuiltConstants::begin},
                          Field{"bytes", &BuiltConstants::bytes}};
    }
};

struct BuiltKernel {
    bool is_seen = false;     // in a guest (seen_code.h), and not made of the kernel's file
    std::string build_id;     // hexadecimal
    std::string release;      // "6.1.0-44-cloud-amd64"
    std::uint64_t begin = 0;  // where it is linked to run: virtual
    std::string text;
    std::vector<BuiltConstants> constants;
    std::uint64_t replacements_begin = 0;
    std::string replacements;
    std::vector<StartPatch> patches;  // by where they are

    static constexpr auto fields() {
        using event::Field;
        using K = BuiltKernel;
        return std::tuple{Field{"is_seen", &K::is_seen},
                          Field{"build_id", &K::build_id},
                          Field{"release", &K::release},
                          Field{"begin", &K::begin},
                          Field{"text", &K::text},
                          Field{"constants", &K::constants},
                          Field{"replacements_begin", &K::replacements_begin},
                          Field{"replacements", &K::replacements},
                          Field{"patches", &K::patches}};
    }
};

// Where the compressed kernel is in a file that boots on x86 (Documentation/arch/x86/boot.rst:
// payload_offset). Code::malformed when it is no such file.
Result<Bytes> packed_kernel(Bytes vmlinuz);

// From a vmlinux, stripped or not. Code::malformed, with what is wrong, when it is none.
Result<BuiltKernel> read_built_kernel(Bytes vmlinux);

// As a file, and back. TRUST: whoever wrote the file wrote these bytes. `quickly`: in a tenth of
// the time, and not as small.
std::string pack(BuiltKernel kernel, bool quickly = false);
bool is_packed_baseline(Bytes file);
// What tells those of this version of Underseer from others'.
std::string_view baseline_form();
Result<BuiltKernel> unpack_built_kernel(Bytes packed);

}  // namespace underseer::guest_linux
