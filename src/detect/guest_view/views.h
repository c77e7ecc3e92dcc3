// What programs in a guest see of it, and by which way through the kernel.
#pragma once

#include <span>
#include <string_view>

namespace underseer::detect::guest_view {

// A word of a table that must lead to one function: the names that it has had.
struct TableWord {
    std::string_view table, structure, member;
    std::span<const std::string_view> functions;
    bool is_always = true;  // there is such a table in every kernel
};

// What a file or folder must be bound to (guest_linux::Binding).
struct Bound {
    std::string_view thing, member;
    std::span<const std::string_view> tables;
    bool is_always = true;
};

struct View {
    std::string_view name;     // "processes"
    std::string_view seen_by;  // "ps, top, /proc"
    std::span<const std::string_view> system_calls;
    std::span<const std::string_view> functions;  // one that ends with '*' stands for all so begun
    std::span<const TableWord> tables;
    std::span<const Bound> bound;
};

std::span<const View> views();

// Whether a function of the kernel lies on the way: by its name, with or without what the compiler
// has put behind it (".isra.0") and before that of a system call ("__x64_sys_").
bool is_on_the_way(const View& view, std::string_view function);

}  // namespace underseer::detect::guest_view
