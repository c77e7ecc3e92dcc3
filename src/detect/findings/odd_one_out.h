// OddOneOut: of guests whose kernels were compared with what one of them was first seen to run,
// which ones are altered. Where code differs, those are the odd ones that are fewer, be it the one
// that was seen first. No clock and no I/O.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "event/finding.h"

namespace underseer::detect {

// What a guest was compared with.
struct Reference {
    std::string id;        // "": with nothing that was seen in a guest
    std::string instance;  // that it was seen in
    std::string name;      // its name
    std::uint64_t seen_ns = 0;

    bool operator==(const Reference&) const = default;
    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"id", &Reference::id}, Field{"instance", &Reference::instance},
                          Field{"name", &Reference::name}, Field{"seen", &Reference::seen_ns}};
    }
};

class OddOneOut {
  public:
    // Of a report of kernel_code: leaves those findings of kUnlikeFirstSeen that are this
    // instance's own, says how many guests have it so, and adds what the others tell of it.
    void judge(const std::string& instance, const Reference& reference, event::CheckReport& report);
    void forget(const std::string& instance);

  private:
    using Differences = std::map<std::string, event::Finding>;  // by Finding::key
    struct Compared {
        Reference with;
        Differences differences;
    };
    struct Votes {
        std::size_t as_seen = 0, otherwise = 0, others_otherwise = 0;
        const event::Finding* told = nullptr;  // by one of those that differ
    };
    std::map<std::string, Votes> count(const Reference& reference) const;

    std::map<std::string, Compared> instances_;
};

}  // namespace underseer::detect
