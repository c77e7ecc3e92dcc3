// A number and what it counts, as people write it: "1 finding", "2 findings", "0 entries".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace underseer {

// `many` where an "s" at the end of `one` does not make it.
inline std::string counted(std::uint64_t number, std::string_view one, std::string_view many = {}) {
    std::string text = std::to_string(number) + ' ';
    if (number == 1) return text.append(one);
    return many.empty() ? text.append(one) + 's' : text.append(many);
}

}  // namespace underseer
