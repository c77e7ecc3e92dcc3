// Every key that a policy file may have, described once: the manual page underseer-policy(5) is
// made from it, and a test holds it against what the parser takes.
#pragma once

#include <span>
#include <string_view>

namespace underseer::policy {

struct Key {
    std::string_view section;  // "[schedule]", "[[suppress]]"
    std::string_view name;
    std::string_view example;   // a value that is valid; the default where there is one
    std::string_view standard;  // the default, in words where it is no value
    std::string_view meaning;
};

std::span<const Key> keys();

}  // namespace underseer::policy
