// What could not be looked at, and why.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace underseer::guest_linux {

// Code::unavailable is the word of the model, that it does not know a member or a symbol. All else
// comes of following what the guest has written, and may be its doing.
bool is_broken(const Error& why);

struct Gaps {
    std::vector<std::string> texts;  // each once, up to a bound
    std::string broken;              // the first that may be the guest's doing, whatever the bound

    void add(std::string_view what, const Error& why);
    bool empty() const { return texts.empty(); }
};

}  // namespace underseer::guest_linux
