// Baselines: how a kernel's code was built, or was first seen in a guest, and what programs a
// package has; as the agent keeps them and as they cross borders.
#pragma once

#include <cstdint>
#include <string>

#include "event/observation.h"

namespace underseer::agent {

// A part of a baseline; with the last one it is whole, and in the place of the one before. One
// that is empty as a whole is none.
struct BaselinePart {
    std::string bytes;
    bool is_first = false, is_last = false;
    // It was seen in a guest, whatever it says of itself: it may be the word of a worker.
    bool is_seen = false;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{
            Field{"bytes", &BaselinePart::bytes}, Field{"is_first", &BaselinePart::is_first},
            Field{"is_last", &BaselinePart::is_last}, Field{"is_seen", &BaselinePart::is_seen}};
    }
};
inline constexpr std::size_t kBaselinePartBytes = 512u << 10;

// The part of `baseline` from that offset on.
inline BaselinePart part_of(const std::string& baseline, std::size_t from) {
    return {.bytes = baseline.substr(from, kBaselinePartBytes),
            .is_first = from == 0,
            .is_last = baseline.size() - from <= kBaselinePartBytes};
}

// Which one it is.
struct BaselineFacts {
    std::string build_id;  // of the kernel, hexadecimal
    // Of one that was seen in a guest: which of the ways to run that build
    // (guest_linux/seen_code.h), and in which guest. "": it was made of the kernel's file.
    std::string variant, seen_in;
    std::string release;           // "6.1.0-44-cloud-amd64"
    std::string source;            // the file that it was made of, or the name of that guest
    std::uint64_t made_ns = 0;     // since the epoch
    std::uint64_t text_bytes = 0;  // of the kernel's code
    std::uint64_t places = 0;      // at which the kernel alters itself when it starts
    std::uint64_t bytes = 0;       // of the baseline
    std::string sha256;            // of it, hexadecimal
    // Of programs: "bash_5.2.15-2+b7_amd64", and how many there are in it, and files of programs
    // that are not, for they have no build id or are not understood. text_bytes is what they load.
    std::string package;
    std::uint64_t programs = 0, left_out = 0;

    bool is_seen() const { return !variant.empty(); }
    bool is_of_programs() const { return !package.empty(); }
    // What tells it apart.
    std::string id() const {
        if (is_of_programs()) return package;
        return is_seen() ? build_id + "-" + variant : build_id;
    }
    const std::string& name() const { return is_of_programs() ? package : release; }

    bool operator==(const BaselineFacts&) const = default;
    static constexpr auto fields() {
        using event::Field;
        using F = BaselineFacts;
        return std::tuple{Field{"build_id", &F::build_id},     Field{"variant", &F::variant},
                          Field{"seen_in", &F::seen_in},       Field{"release", &F::release},
                          Field{"source", &F::source},         Field{"made", &F::made_ns},
                          Field{"text_bytes", &F::text_bytes}, Field{"places", &F::places},
                          Field{"bytes", &F::bytes},           Field{"sha256", &F::sha256},
                          Field{"package", &F::package},       Field{"programs", &F::programs},
                          Field{"left_out", &F::left_out}};
    }
};

// A part of one that is being made, with what the whole is.
struct BaselineMadePart {
    BaselineFacts facts;
    std::string bytes;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"facts", &BaselineMadePart::facts},
                          Field{"bytes", &BaselineMadePart::bytes}};
    }
};

}  // namespace underseer::agent
