// What says which build of a kernel it is.
#pragma once

#include <string>

#include "base/bytes.h"

namespace underseer::guest_linux {

// The GNU build id among ELF notes (type 3, System V gABI), hexadecimal; "" when there is none.
Result<std::string> build_id_in(Bytes notes);

}  // namespace underseer::guest_linux
