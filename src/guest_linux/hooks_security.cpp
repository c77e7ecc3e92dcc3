// Security modules: what the kernel asks before it lets something happen.
#include <fmt/format.h>

#include "guest_linux/hook_collector.h"

namespace underseer::guest_linux {

namespace {

class SecurityHooks {
  public:
    explicit SecurityHooks(HookCollector& collector) : to_(collector), kernel_(collector.kernel) {}

    Result<void> read() {
        TRY(kernel_.require({function_}));
        if (to_.has("static_calls_table")) return read_calls();
        return read_lists();
    }

  private:
    // Until 6.11: security_hook_heads, a list for each question (security/security.c).
    Result<void> read_lists() {
        const GuestVirt heads = TRY(kernel_.symbol("security_hook_heads"));
        const Field node = kernel_.field("security_hook_list", "list");
        return each_member(
            "security_hook_heads",
            [&](const std::string& question, std::uint64_t offset, std::uint32_t) -> Result<void> {
                const auto first = TRY(kernel_.memory().read<GuestVirt>(heads + offset));
                if (!first) to_.add({.kind = HookKind::security});
                return to_.each_hashed(first, node, [&](GuestVirt hook) -> Result<void> {
                    const GuestVirt target = TRY(kernel_.read_pointer(hook, function_));
                    to_.add({HookKind::security, question, target, hook, {}, false});
                    return {};
                });
            });
    }

    // Since 6.12: static_calls_table, for each question as many calls as there can be modules. What
    // is called is the target of the call, and should be what the module has registered.
    Result<void> read_calls() {
        const GuestVirt table = TRY(kernel_.symbol("static_calls_table"));
        const Field registered = kernel_.field("lsm_static_call", "hl"),
                    key = kernel_.field("lsm_static_call", "key"),
                    target = kernel_.field("static_call_key", "func");
        const std::uint64_t step = TRY(kernel_.require_size_of("lsm_static_call"));
        TRY(kernel_.require({registered, key, target}));
        const Btf& types = kernel_.types();
        return each_member(
            "lsm_static_calls_table",
            [&](const std::string& question, std::uint64_t offset,
                std::uint32_t type) -> Result<void> {
                const auto array = types.array(types.strip(type));
                if (!array || array->count > 64) {
                    return fail(Code::malformed, question + " is no array of calls");
                }
                for (std::uint64_t i = 0; i < array->count; ++i) {
                    const GuestVirt call = table + offset + i * step;
                    const GuestVirt hook = TRY(kernel_.read_pointer(call, registered));
                    if (!hook) {
                        to_.add({.kind = HookKind::security});
                        continue;
                    }
                    const GuestVirt called =
                        TRY(kernel_.read_pointer(TRY(kernel_.read_pointer(call, key)), target));
                    const GuestVirt meant = TRY(kernel_.read_pointer(hook, function_));
                    to_.add({HookKind::security, question, meant, hook, {}, false});
                    to_.add({HookKind::security, question, called, call, {}, called != meant});
                }
                return {};
            });
    }

    // `use(name, offset, type)` for each member, those of anonymous parts included.
    template <typename Use>
    Result<void> each_member(std::string_view structure, Use&& use) {
        const Btf& types = kernel_.types();
        const auto id = types.find_struct(structure);
        if (!id) return fail(Code::unavailable, fmt::format("no type {}", structure));
        const Btf::Type& type = types.type(*id);
        for (std::uint32_t i = 0; i < type.count; ++i) {
            const Btf::RawMember member = types.member(type, i);
            TRY(use(std::string(types.string_at(member.name)), member.offset_bits / 8,
                    member.type));
        }
        return {};
    }

    HookCollector& to_;
    Kernel& kernel_;
    Field function_ = kernel_.field("security_hook_list", "hook");
};

}  // namespace

void collect_security_hooks(HookCollector& collector) {
    if (!collector.has("security_hook_heads") && !collector.has("static_calls_table")) {
        collector.gap("security modules", {Code::unavailable, 0, "no table of them is known"});
        return;
    }
    SecurityHooks hooks(collector);
    collector.part("security modules", [&] { return hooks.read(); });
}

}  // namespace underseer::guest_linux
