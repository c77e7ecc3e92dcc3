#include <fmt/format.h>

#include <algorithm>

#include "guest_linux/modules.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kRbRootBytes = 8;  // struct rb_root: one pointer
constexpr std::size_t kMaxModules = 100'000;

class ModuleViews {
  public:
    explicit ModuleViews(Kernel& kernel) : kernel_(kernel) {}

    ModuleViewResult walk(ModuleView view, const std::vector<GuestVirt>& known) {
        ModuleViewResult result{.view = view, .modules = {}, .gap = std::nullopt};
        // Torn memory may break a walk: once more, with new eyes.
        for (unsigned attempt = 0;; ++attempt) {
            found_.clear();
            auto walked = walk_once(view, known);
            if (walked.has_value() || attempt == 1) {
                if (!walked.has_value()) result.gap = walked.error();
                break;
            }
            kernel_.forget();
        }
        std::ranges::sort(found_);
        found_.erase(std::ranges::unique(found_).begin(), found_.end());
        result.modules = std::move(found_);
        return result;
    }

  private:
    Result<void> walk_once(ModuleView view, const std::vector<GuestVirt>& known) {
        switch (view) {
            case ModuleView::list:
                return walk_list("modules", "module", "list");
            case ModuleView::sysfs:
                return walk_sysfs();
            case ModuleView::tree:
                return walk_tree();
            case ModuleView::bug_list:
                return walk_list("module_bug_list", "module", "bug_list");
            case ModuleView::btf:
                return walk_btf();
            case ModuleView::dependency:
                return walk_dependencies(known);
        }
        return {};
    }

    bool add(GuestVirt module) {
        if (module) found_.push_back(module);
        return found_.size() < kMaxModules;
    }

    Result<void> walk_list(std::string_view head, std::string_view structure,
                           std::string_view member) {
        const Field node = kernel_.field(structure, member);
        TRY(kernel_.require({node}));
        return kernel_.walk_list(TRY(kernel_.symbol(head)),
                                 [&](GuestVirt at) { return add(at - node.offset); });
    }

    // Reads a pointer to a module from each element of a list.
    Result<void> walk_pointers(GuestVirt head, const Field& node, std::uint64_t outer,
                               const Field& module) {
        Result<void> unread;
        TRY(kernel_.walk_list(head, [&](GuestVirt at) {
            auto pointer = kernel_.read_pointer(at - node.offset - outer, module);
            if (!pointer.has_value()) {
                unread = fail(std::move(pointer).error());
                return false;
            }
            return add(*pointer);  // null: a part of the kernel that has parameters
        }));
        return unread;
    }

    Result<void> walk_sysfs() {
        const Field list = kernel_.field("kset", "list"), entry = kernel_.field("kobject", "entry"),
                    object = kernel_.field("module_kobject", "kobj"),
                    module = kernel_.field("module_kobject", "mod");
        TRY(kernel_.require({list, entry, object, module}));
        const GuestVirt kset =
            TRY(kernel_.memory().read<GuestVirt>(TRY(kernel_.symbol("module_kset"))));
        return walk_pointers(kset + list.offset, entry, object.offset, module);
    }

    Result<void> walk_btf() {
        const Field list = kernel_.field("btf_module", "list"),
                    module = kernel_.field("btf_module", "module");
        TRY(kernel_.require_types());
        if (!list.known()) return {};  // there are none before 5.11
        TRY(kernel_.require({module}));
        return walk_pointers(TRY(kernel_.symbol("btf_modules")), list, 0, module);
    }

    // A latched tree is two trees of the same things, one of which readers may use at any time
    // (include/linux/rbtree_latch.h): both are walked.
    Result<void> walk_tree() {
        const Field trees = kernel_.field("latch_tree_root", "tree"),
                    root = kernel_.field("mod_tree_root", "root"),
                    nodes = kernel_.field("latch_tree_node", "node"),
                    node = kernel_.field("mod_tree_node", "node"),
                    module = kernel_.field("mod_tree_node", "mod");
        TRY(kernel_.require({trees, root, nodes, node, module}));
        const std::uint64_t node_bytes = TRY(kernel_.require_size_of("rb_node"));
        const GuestVirt tree = TRY(kernel_.symbol("mod_tree")) + root.offset + trees.offset;
        for (std::uint64_t i = 0; i < 2; ++i) {
            const auto top = TRY(kernel_.memory().read<std::uint64_t>(tree + i * kRbRootBytes));
            TRY(kernel_.walk_rb_tree(top, [&](GuestVirt at) -> Result<void> {
                const GuestVirt holder = at - nodes.offset - i * node_bytes - node.offset;
                if (!add(TRY(kernel_.read_pointer(holder, module)))) {
                    return fail(Code::limit, "too many modules");
                }
                return {};
            }));
        }
        return {};
    }

    // struct module.source_list holds a module_use for each module that uses it, target_list one
    // for each that it uses.
    Result<void> walk_dependencies(const std::vector<GuestVirt>& known) {
        const Field users = kernel_.field("module", "source_list"),
                    used = kernel_.field("module", "target_list"),
                    as_user = kernel_.field("module_use", "source_list"),
                    as_used = kernel_.field("module_use", "target_list"),
                    source = kernel_.field("module_use", "source"),
                    target = kernel_.field("module_use", "target");
        TRY(kernel_.require({users, used, as_user, as_used, source, target}));
        for (const GuestVirt one : known) {
            TRY(walk_pointers(one + users.offset, as_user, 0, source));
            TRY(walk_pointers(one + used.offset, as_used, 0, target));
        }
        return {};
    }

    Kernel& kernel_;
    std::vector<GuestVirt> found_;
};

}  // namespace

std::string_view to_string(ModuleView view) {
    switch (view) {
        case ModuleView::list:
            return "list";
        case ModuleView::sysfs:
            return "sysfs";
        case ModuleView::tree:
            return "tree";
        case ModuleView::bug_list:
            return "bug list";
        case ModuleView::btf:
            return "types";
        case ModuleView::dependency:
            return "dependencies";
    }
    return "?";
}

std::vector<ModuleViewResult> walk_module_views(Kernel& kernel) {
    ModuleViews views(kernel);
    std::vector<ModuleViewResult> all;
    std::vector<GuestVirt> known;
    for (const ModuleView view : kAllModuleViews) {
        all.push_back(views.walk(view, known));
        known.insert(known.end(), all.back().modules.begin(), all.back().modules.end());
        std::ranges::sort(known);
        known.erase(std::ranges::unique(known).begin(), known.end());
    }
    return all;
}

}  // namespace underseer::guest_linux
