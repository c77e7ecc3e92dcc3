// Programs and libraries as a package has them: known-good pages that those of a guest are compared
// with. Made from the package's files, and kept in a form of our own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "event/observation.h"
#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

// The first half of a page's SHA-256.
inline constexpr std::size_t kKnownHashBytes = 16;

// Pages of a file that lie beside each other.
struct KnownPages {
    std::uint64_t first = 0;  // its index in the file
    std::string hashes;       // kKnownHashBytes for each

    std::uint64_t count() const { return hashes.size() / kKnownHashBytes; }

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"first", &KnownPages::first}, Field{"hashes", &KnownPages::hashes}};
    }
};

struct KnownProgram {
    std::string path;               // "/usr/bin/bash": where the package puts it
    std::string build_id;           // hexadecimal
    std::vector<KnownPages> pages;  // all that are mapped when it is loaded; ascending

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"path", &KnownProgram::path},
                          Field{"build_id", &KnownProgram::build_id},
                          Field{"pages", &KnownProgram::pages}};
    }
};

struct ProgramSet {
    std::string package;  // "bash_5.2.15-2+b7_amd64"
    std::vector<KnownProgram> programs;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"package", &ProgramSet::package},
                          Field{"programs", &ProgramSet::programs}};
    }
};

// Whether it is an ELF file of x86-64 that processes execute: no object file, and no kernel.
bool is_program(Bytes file);
// Of such a file; its path is left empty. Code::unsupported where it is none, Code::not_found where
// it has no build id, Code::malformed where it lies.
Result<KnownProgram> read_program(Bytes elf);

// `page` has at most kPageSize bytes; what the file lacks of it is zeros, as in a page cache.
std::string known_hash(Bytes page);

// As a file, and back; one after the other is several. TRUST: whoever wrote the file wrote these
// bytes.
std::string pack(const ProgramSet& set);
bool is_packed_programs(Bytes file);
// What tells those of this version of Underseer from others'.
std::string_view program_set_form();
Result<std::vector<ProgramSet>> unpack_programs(Bytes packed);

}  // namespace underseer::guest_linux
