// What the two halves of this module share about libyara.
#pragma once

#include <array>
#include <string_view>

#include "base/result.h"

namespace underseer::scan {

// What YARA's own users define for rules to refer to (Loki, THOR), each a string.
inline constexpr std::array<const char*, 5> kExternalVariables{"filename", "filepath", "extension",
                                                               "filetype", "owner"};

void initialize();  // libyara, once

// `error`: one of libyara's ERROR_*.
Error error_of(int error, std::string_view doing);

}  // namespace underseer::scan
