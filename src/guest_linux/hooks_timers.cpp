// What the kernel has been asked to do later: timers, and work that waits.
#include <fmt/format.h>

#include "guest_linux/hook_collector.h"

namespace underseer::guest_linux {

namespace {

class TimerHooks {
  public:
    explicit TimerHooks(HookCollector& collector) : to_(collector), kernel_(collector.kernel) {}

    // Per CPU some wheels, each an array of lists (struct timer_base, kernel/time/timer.c).
    Result<void> timers() {
        const Field wheel = kernel_.field("timer_base", "vectors"),
                    node = kernel_.field("timer_list", "entry");
        TRY(kernel_.require({wheel, node}));
        const std::uint64_t base_bytes = TRY(kernel_.require_size_of("timer_base"));
        const std::size_t bases = to_.per_cpu_count("timer_bases");
        return each_cpu("timer_bases", [&](GuestVirt all) -> Result<void> {
            for (std::size_t i = 0; i < bases; ++i) {
                TRY(to_.each_pointer(all + i * base_bytes + wheel.offset, wheel.size_bytes / 8,
                                     [&](GuestVirt first, std::size_t) {
                                         return to_.each_hashed(
                                             first, node, [&](GuestVirt at) { return timer(at); });
                                     }));
            }
            return {};
        });
    }

    // Per CPU some clocks, each a tree (struct hrtimer_cpu_base, include/linux/hrtimer_defs.h).
    Result<void> precise_timers() {
        const Field clocks = kernel_.field("hrtimer_cpu_base", "clock_base"),
                    tree = kernel_.field("hrtimer_clock_base", "active.rb_root.rb_root.rb_node"),
                    node = kernel_.field("hrtimer", "node.node"),
                    function = kernel_.field("hrtimer", {"function", "_function"});
        TRY(kernel_.require({clocks, tree, node, function}));
        const std::uint64_t step = TRY(kernel_.require_size_of("hrtimer_clock_base"));
        return each_cpu("hrtimer_bases", [&](GuestVirt base) -> Result<void> {
            for (std::uint64_t at = 0; at + step <= clocks.size_bytes; at += step) {
                const GuestVirt root = TRY(kernel_.read_pointer(base + clocks.offset + at, tree));
                TRY(kernel_.walk_rb_tree(root.value, [&](GuestVirt place) -> Result<void> {
                    const GuestVirt timer = place - node.offset;
                    const GuestVirt target = TRY(kernel_.read_pointer(timer, function));
                    to_.add({HookKind::timer, "a precise timer", target, timer, {}, false});
                    return {};
                }));
            }
            return {};
        });
    }

    Result<void> work() {
        const Field list = kernel_.field("worker_pool", "worklist"),
                    node = kernel_.field("work_struct", "entry");
        TRY(kernel_.require({list}));
        const std::uint64_t step = TRY(kernel_.require_size_of("worker_pool"));
        const std::size_t pools = to_.per_cpu_count("cpu_worker_pools");
        return each_cpu("cpu_worker_pools", [&](GuestVirt all) -> Result<void> {
            for (std::size_t i = 0; i < pools; ++i) {
                TRY(to_.each(all + i * step + list.offset, node,
                             [&](GuestVirt item) { return add_work(item, "work that waits"); }));
            }
            return {};
        });
    }

  private:
    Result<void> each_cpu(std::string_view variable,
                          const std::function<Result<void>(GuestVirt)>& use) {
        const GuestVirt of_any = TRY(kernel_.symbol(variable));
        for (const unsigned cpu : TRY(kernel_.possible_cpus())) {
            TRY(use(TRY(kernel_.per_cpu(of_any, cpu))));
        }
        return {};
    }

    Result<void> timer(GuestVirt timer) {
        TRY(kernel_.require({function_, of_work_, in_delayed_}));
        const GuestVirt target = TRY(kernel_.read_pointer(timer, function_));
        to_.add({HookKind::timer, "a timer", target, timer, {}, false});
        // Behind that function stands what is really called.
        const auto delayed = kernel_.symbol("delayed_work_timer_fn");
        if (!delayed.has_value() || target != *delayed) return {};
        return add_work(timer - of_work_.offset + in_delayed_.offset, "work of a timer");
    }

    Result<void> add_work(GuestVirt item, std::string_view point) {
        const GuestVirt target = TRY(kernel_.read_pointer(item, work_));
        to_.add({HookKind::work, std::string(point), target, item, {}, false});
        return {};
    }

    HookCollector& to_;
    Kernel& kernel_;
    Field function_ = kernel_.field("timer_list", "function"),
          of_work_ = kernel_.field("delayed_work", "timer"),
          in_delayed_ = kernel_.field("delayed_work", "work"),
          work_ = kernel_.field("work_struct", "func");
};

}  // namespace

void collect_timer_hooks(HookCollector& collector) {
    TimerHooks hooks(collector);
    collector.part("timers", [&] { return hooks.timers(); });
    collector.part("precise timers", [&] { return hooks.precise_timers(); });
    collector.part("work that waits", [&] { return hooks.work(); });
}

}  // namespace underseer::guest_linux
