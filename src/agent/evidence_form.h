// What is kept as evidence, as it crosses the border to the worker that keeps it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "event/observation.h"

namespace underseer::agent {

// A file of a bundle.
enum class EvidenceKind : std::uint8_t {
    process_memory,  // all pages that its page tables lead to, as an ELF core
    process_maps,
    process_files,
    process_program,  // its executable, as the guest's page cache has it
    process_calls,    // an exact trace
    process_trace,    // by samples
    module_memory,    // code and data, as an ELF core
    processes,
    sockets,
    modules,
    mounts,
    interfaces,
    kernel_log,
    system,
    machine_memory  // all RAM, as an ELF core
};
constexpr EvidenceKind last_enumerator(EvidenceKind) {
    return EvidenceKind::machine_memory;
}
std::string_view to_string(EvidenceKind kind);

// A file that the worker is to write, and no longer than this.
struct OutputForm {
    EvidenceKind kind{};
    std::uint64_t most_bytes = 0;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"kind", &OutputForm::kind},
                          Field{"most_bytes", &OutputForm::most_bytes}};
    }
};

struct EvidenceOrder {
    std::string module;          // of module_memory
    std::uint32_t trace_ms = 0;  // of process_calls and process_trace, each
    std::string why_not_exact;   // why there are no process_calls; "": nothing is known

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"module", &EvidenceOrder::module},
                          Field{"trace_ms", &EvidenceOrder::trace_ms},
                          Field{"why_not_exact", &EvidenceOrder::why_not_exact}};
    }
};

// What became of one of these files.
struct KeptFile {
    EvidenceKind kind{};
    std::string sha256;             // hexadecimal
    std::string why_not;            // why there is no such file; "": there is
    std::vector<std::string> gaps;  // what of it could not be had

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"kind", &KeptFile::kind}, Field{"sha256", &KeptFile::sha256},
                          Field{"why_not", &KeptFile::why_not}, Field{"gaps", &KeptFile::gaps}};
    }
};

}  // namespace underseer::agent
