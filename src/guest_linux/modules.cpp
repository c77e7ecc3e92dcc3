#include "guest_linux/modules.h"

#include <fmt/format.h>

namespace underseer::guest_linux {

namespace {

// One letter per taint bit (kernel/panic.c, taint_flags).
constexpr std::string_view kTaintLetters = "PFSRMBUDAWCIOELKXTNJ";
// include/linux/module.h: MODULE_STATE_LIVE, _COMING, _GOING, _UNFORMED
constexpr std::uint64_t kUnformed = 3;
constexpr std::uint64_t kReferenceBase = 1;  // MODULE_REF_BASE, kernel/module/main.c
constexpr std::uint32_t kMaxMemoryTypes = 16;

class ModuleReader {
  public:
    explicit ModuleReader(Kernel& kernel)
        : kernel_(kernel),
          list(kernel.field("module", "list")),
          name_(kernel.field("module", "name")),
          state_(kernel.field("module", "state")),
          references_(kernel.field("module", "refcnt.counter")),
          users_(kernel.field("module", "source_list")),
          use_node_(kernel.field("module_use", "source_list")),
          use_source_(kernel.field("module_use", "source")),
          taints_(kernel.field("module", "taints")),
          core_base_(kernel.field("module", "core_layout.base")),
          core_size_(kernel.field("module", "core_layout.size")),
          init_size_(kernel.field("module", "init_layout.size")),
          memory_(kernel.field("module", "mem")),
          memory_base_(kernel.field("module_memory", "base")),
          memory_size_(kernel.field("module_memory", "size")) {}

    // What a module that cannot be read is told by.
    Result<void> require() { return kernel_.require({list, state_}); }
    Result<std::uint64_t> state(GuestVirt module) { return kernel_.read(module, state_); }

    Result<event::Module> read(GuestVirt module) {
        static constexpr std::string_view kStates[] = {"Live", "Loading", "Unloading"};
        event::Module result;
        result.address = module.value;
        result.name = TRY(kernel_.read_text(module, name_));
        const std::uint64_t state_number = TRY(state(module));
        result.state = state_number < 3 ? kStates[state_number] : "?";
        // The load itself holds one reference.
        const std::uint64_t references = TRY(kernel_.read(module, references_));
        result.reference_count = static_cast<std::uint32_t>(references - kReferenceBase);
        const std::uint64_t taints = TRY(kernel_.read(module, taints_));
        for (std::size_t bit = 0; bit < kTaintLetters.size(); ++bit) {
            if ((taints >> bit & 1) != 0) result.taints += kTaintLetters[bit];
        }
        TRY(read_memory(module, result));
        TRY(read_users(module, result));
        return result;
    }

  private:
    // module.mem[MOD_TEXT..] since 6.4, core_layout and init_layout before. /proc/modules adds up
    // all of it; what was freed after the module's init has size 0.
    Result<void> read_memory(GuestVirt module, event::Module& result) {
        if (!memory_.known()) {
            result.text_begin = TRY(kernel_.read(module, core_base_));
            result.size_bytes =
                TRY(kernel_.read(module, core_size_)) + TRY(kernel_.read(module, init_size_));
            return {};
        }
        const std::uint64_t entry = TRY(kernel_.require_size_of("module_memory"));
        result.text_begin = TRY(kernel_.read(module + memory_.offset, memory_base_));
        for (std::uint32_t i = 0;
             i < std::min<std::uint64_t>(memory_.size_bytes / entry, kMaxMemoryTypes); ++i) {
            result.size_bytes +=
                TRY(kernel_.read(module + memory_.offset + i * entry, memory_size_));
        }
        return {};
    }

    Result<void> read_users(GuestVirt module, event::Module& result) {
        Result<void> unread;
        TRY(kernel_.walk_list(module + users_.offset, [&](GuestVirt node) {
            auto user = name_of_user(node - use_node_.offset);
            if (!user.has_value()) {
                unread = fail(std::move(user).error());
                return false;
            }
            result.used_by.push_back(std::move(*user));
            return true;
        }));
        return unread;
    }

    Result<std::string> name_of_user(GuestVirt use) {
        return kernel_.read_text(TRY(kernel_.read_pointer(use, use_source_)), name_);
    }

    Kernel& kernel_;

  public:
    Field list;

  private:
    Field name_, state_, references_, users_, use_node_, use_source_, taints_, core_base_,
        core_size_, init_size_, memory_, memory_base_, memory_size_;
};

}  // namespace

Result<event::Module> read_module(Kernel& kernel, GuestVirt address) {
    return ModuleReader(kernel).read(address);
}

Result<Listing<event::Module>> list_modules(Kernel& kernel) {
    Listing<event::Module> listing;
    ModuleReader reader(kernel);
    TRY(reader.require());
    TRY(kernel.walk_list(TRY(kernel.symbol("modules")), [&](GuestVirt node) {
        const GuestVirt module = node - reader.list.offset;
        const auto state = reader.state(module);
        if (state.has_value() && *state == kUnformed) return true;
        auto read = reader.read(module);
        if (read.has_value()) {
            listing.items.push_back(std::move(*read));
        } else {
            listing.note(read.error());
        }
        return true;
    }));
    return listing;
}

}  // namespace underseer::guest_linux
