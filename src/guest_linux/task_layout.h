// Where the members of task_struct lie in a kernel without BTF: derived from what must be true of
// the first task and of every task that its list leads to. A member whose invariants do not single
// out one place stays unknown.
#pragma once

#include <map>
#include <string>

#include "base/result.h"

namespace underseer::guest_linux {

class Kernel;
struct Field;

// "task_struct.pid" -> place. Needs the symbol init_task. TRUST: guest memory. Code::unavailable
// when the first task or its list of tasks does not look like one.
Result<std::map<std::string, Field, std::less<>>> derive_task_layout(Kernel& kernel);

}  // namespace underseer::guest_linux
