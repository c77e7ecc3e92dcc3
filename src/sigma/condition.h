// The condition of a rule: "selection and not 1 of filter_*".
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "sigma/rule.h"

namespace underseer::sigma {

// Adds the steps of `text` to `steps`. What it calls by name must be among `names`.
Result<void> parse_condition(std::string_view text, std::span<const std::string> names,
                             std::vector<Step>& steps);

}  // namespace underseer::sigma
