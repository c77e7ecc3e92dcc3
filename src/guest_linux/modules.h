// Loaded modules, and the kernel's several records of which there are.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "event/observation.h"
#include "guest_linux/open_files.h"

namespace underseer::guest_linux {

// From the kernel's own list.
Result<Listing<event::Module>> list_modules(Kernel& kernel);
// One, by the address of its struct module; also while it is loaded or unloaded.
Result<event::Module> read_module(Kernel& kernel, GuestVirt address);

// Where every module that is loaded is recorded, each by another part of the kernel
// (kernel/module/main.c and sysfs.c, lib/bug.c, kernel/bpf/btf.c; in 5.10 kernel/module.c).
enum class ModuleView : std::uint8_t {
    list,       // modules: what lsmod shows
    sysfs,      // module_kset: /sys/module
    tree,       // mod_tree: whose code an address is
    bug_list,   // module_bug_list: whose warning a trap is
    btf,        // btf_modules: of modules with types
    dependency  // whom the others say they use
};
inline constexpr std::array kAllModuleViews{ModuleView::list, ModuleView::sysfs,
                                            ModuleView::tree, ModuleView::bug_list,
                                            ModuleView::btf,  ModuleView::dependency};
std::string_view to_string(ModuleView view);

struct ModuleViewResult {
    ModuleView view{};
    std::vector<GuestVirt> modules;  // addresses of struct module, each once
    std::optional<Error> gap;        // why the view is not complete, when it is not
};
std::vector<ModuleViewResult> walk_module_views(Kernel& kernel);

}  // namespace underseer::guest_linux
