// Notifier chains, terminals, and who starts programs.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "guest_linux/hook_collector.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kMaxDisciplines = 64;  // NR_LDISCS is 30 or 31 (include/uapi/linux/tty.h)
constexpr std::uint64_t kMaxTerminals = 1u << 16;

constexpr std::array kChains{NotifierChain{"keyboard_notifier_list", "atomic_notifier_head"},
                             NotifierChain{"vt_notifier_list", "atomic_notifier_head"},
                             NotifierChain{"reboot_notifier_list", "blocking_notifier_head"},
                             NotifierChain{"restart_handler_list", "atomic_notifier_head"},
                             NotifierChain{"panic_notifier_list", "atomic_notifier_head"},
                             NotifierChain{"die_chain", "atomic_notifier_head"},
                             NotifierChain{"module_notify_list", "blocking_notifier_head"},
                             NotifierChain{"pm_chain_head", "blocking_notifier_head"},
                             NotifierChain{"netdev_chain", "raw_notifier_head"},
                             NotifierChain{"netevent_notif_chain", "atomic_notifier_head"},
                             NotifierChain{"inetaddr_chain", "blocking_notifier_head"},
                             NotifierChain{"inet6addr_chain", "atomic_notifier_head"}};

class EventHooks {
  public:
    explicit EventHooks(HookCollector& collector) : to_(collector), kernel_(collector.kernel) {}

    Result<void> chain(const NotifierChain& chain) {
        const auto head = kernel_.symbol(chain.symbol);
        if (!head.has_value()) return {};
        const Field first = kernel_.field(chain.structure, "head"),
                    next = kernel_.field("notifier_block", "next"),
                    function = kernel_.field("notifier_block", "notifier_call");
        TRY(kernel_.require({first, next, function}));
        GuestVirt block = TRY(kernel_.read_pointer(*head, first));
        if (!block) to_.add({.kind = HookKind::notifier});
        CircleGuard circle;
        for (std::size_t i = 0; block; ++i) {
            if (i > limits::kMaxListSteps || circle.closes_at(block)) {
                return fail(Code::limit, "it does not come to its end");
            }
            const GuestVirt target = TRY(kernel_.read_pointer(block, function));
            to_.add({HookKind::notifier, std::string(chain.symbol), target, block, {}, false});
            block = TRY(kernel_.read_pointer(block, next));
        }
        return {};
    }

    Result<void> line_disciplines() {
        const GuestVirt table = TRY(kernel_.symbol("tty_ldiscs"));
        const auto behind = kernel_.symbols().after(table);
        const std::size_t count =
            behind ? std::min<std::size_t>((*behind - table) / 8, kMaxDisciplines) : 0;
        return to_.each_pointer(table, count, [&](GuestVirt operations, std::size_t i) {
            seen_.insert(operations);
            return to_.add_operations(HookKind::line_discipline, fmt::format("tty_ldiscs[{}]", i),
                                      "tty_ldisc_ops", operations);
        });
    }

    // Each terminal that is open, and the line discipline that it has itself.
    Result<void> terminals() {
        const Field node = kernel_.field("tty_driver", "tty_drivers"),
                    table = kernel_.field("tty_driver", "ttys"),
                    count = kernel_.field("tty_driver", "num"),
                    driver_operations = kernel_.field("tty_driver", "ops"),
                    name = kernel_.field("tty_struct", "name"),
                    operations = kernel_.field("tty_struct", "ops"),
                    discipline = kernel_.field("tty_struct", "ldisc"),
                    discipline_operations = kernel_.field("tty_ldisc", "ops");
        TRY(kernel_.require({table, count, driver_operations, name, operations, discipline,
                             discipline_operations}));
        const auto add_driver = [&](const std::string& point, GuestVirt at) -> Result<void> {
            if (!at || !seen_.insert(at).second) return {};
            return to_.add_operations(HookKind::terminal, point, "tty_operations", at);
        };
        return to_.each(
            TRY(kernel_.symbol("tty_drivers")), node, [&](GuestVirt driver) -> Result<void> {
                TRY(add_driver("terminals", TRY(kernel_.read_pointer(driver, driver_operations))));
                const GuestVirt ttys = TRY(kernel_.read_pointer(driver, table));
                const std::uint64_t many = TRY(kernel_.read(driver, count));
                if (!ttys) return {};
                if (many > kMaxTerminals)
                    return fail(Code::limit, "a driver has too many terminals");
                return to_.each_pointer(
                    ttys, many, [&](GuestVirt tty, std::size_t) -> Result<void> {
                        const std::string called = TRY(kernel_.read_text(tty, name));
                        TRY(add_driver(called, TRY(kernel_.read_pointer(tty, operations))));
                        const GuestVirt own = TRY(kernel_.read_pointer(tty, discipline));
                        if (!own) return {};
                        const GuestVirt at = TRY(kernel_.read_pointer(own, discipline_operations));
                        if (!at || !seen_.insert(at).second) return {};
                        return to_.add_operations(HookKind::line_discipline, called,
                                                  "tty_ldisc_ops", at);
                    });
            });
    }

    // The list is called "formats", as other things of a kernel are; it is the one that holds the
    // format of ELF.
    Result<void> program_formats() {
        const Field node = kernel_.field("linux_binfmt", "lh");
        TRY(kernel_.require({node}));
        const GuestVirt elf = TRY(kernel_.symbol("elf_format"));
        const auto heads = kernel_.symbols().addresses("formats");
        const auto add_format = [&](GuestVirt format) {
            return to_.add_operations(HookKind::program_format, "formats", "linux_binfmt", format);
        };
        TRY(add_format(elf));
        return to_.each(elf + node.offset, node, [&](GuestVirt format) -> Result<void> {
            const bool is_head = std::ranges::find(heads, format + node.offset) != heads.end();
            return is_head ? Result<void>() : add_format(format);
        });
    }

  private:
    HookCollector& to_;
    Kernel& kernel_;
    std::unordered_set<GuestVirt> seen_;
};

}  // namespace

std::span<const NotifierChain> notifier_chains() {
    return kChains;
}

void collect_event_hooks(HookCollector& collector) {
    EventHooks hooks(collector);
    for (const NotifierChain& chain : kChains) {
        collector.part(chain.symbol, [&] { return hooks.chain(chain); });
    }
    collector.part("line disciplines", [&] { return hooks.line_disciplines(); });
    collector.part("terminals", [&] { return hooks.terminals(); });
    collector.part("program formats", [&] { return hooks.program_formats(); });
}

}  // namespace underseer::guest_linux
