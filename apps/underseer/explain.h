// What a rule rests on, what it misses, what else looks like it, and what to do.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>

#include "base/result.h"
#include "event/finding.h"
#include "options.h"

namespace underseer::cli {

// A rule as programs get it.
struct Explained {
    std::string rule, check, title;
    event::Severity severity{};
    std::uint8_t confidence = 0;
    std::string technique, reads, misses, benign, advice;

    static constexpr auto fields() {
        using event::Field;
        using E = Explained;
        return std::tuple{Field{"rule", &E::rule},
                          Field{"check", &E::check},
                          Field{"title", &E::title},
                          Field{"severity", &E::severity},
                          Field{"confidence", &E::confidence},
                          Field{"technique", &E::technique},
                          Field{"reads", &E::reads},
                          Field{"misses", &E::misses},
                          Field{"benign", &E::benign},
                          Field{"advice", &E::advice}};
    }
};

Result<int> explain(const Options& options);

}  // namespace underseer::cli
