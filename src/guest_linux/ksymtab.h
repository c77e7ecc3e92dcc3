// ksymtab: the names that the kernel exports to modules, found in its read-only data.
//
// struct kernel_symbol {int value_offset, name_offset, namespace_offset} (include/linux/export-
// internal.h, kernel/module/internal.h; x86-64 has relative references since 4.19, namespaces since
// 5.4): each offset is relative to its own place. Entries stand in a row, and their names in
// __ksymtab_strings, where one may be the end of a longer one.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"

namespace underseer::guest_linux {

// Addresses of those of `names` that are exported. `rodata` is a copy of the kernel's read-only
// data, which is mapped at `at`. TRUST: guest memory; an entry counts only in a row of entries.
std::map<std::string, GuestVirt, std::less<>> find_exports(
    Bytes rodata, GuestVirt at, const std::vector<std::string_view>& names);

}  // namespace underseer::guest_linux
