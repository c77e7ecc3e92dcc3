#include "guest_linux/task_scan.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "guest_linux/tasks.h"

#include "guest_linux/direct_map.h"

namespace underseer::guest_linux {

namespace {

// One read of the sweep. Longer ones are not faster; CachedMemory passes them by.
constexpr std::uint64_t kPieceBytes = 256u << 10;
constexpr std::uint64_t kTaskAlignment = 64;  // L1_CACHE_BYTES (kernel/fork.c, fork_init())
// include/linux/sched.h. A task is TASK_NEW until wake_up_new_task(), when it is in every list.
constexpr std::uint64_t kTaskDead = 0x80, kTaskNew = 0x800;
// THREAD_SIZE is 16 KiB, 32 KiB with KASAN (arch/x86/include/asm/page_64_types.h).
constexpr std::uint64_t kMaxStackBytes = 32u << 10;
// struct kmem_cache_order_objects: the order above the number of objects (mm/slub.c, OO_SHIFT).
constexpr unsigned kOrderShift = 16;
constexpr std::uint64_t kMaxOrder = 10;  // MAX_PAGE_ORDER, include/linux/mmzone.h

// Every 8-byte word of `piece` that lies in [low, low + span].
template <typename Visit>
void for_words_in(Bytes piece, std::uint64_t low, std::uint64_t span, Visit&& visit) {
    constexpr std::size_t kAtOnce = 8;
    const std::size_t words = piece.size() / 8;
    const auto word = [&](std::size_t i) {
        std::uint64_t value;
        std::memcpy(&value, piece.data() + 8 * i, sizeof value);
        return value;
    };
    std::size_t i = 0;
    for (; i + kAtOnce <= words; i += kAtOnce) {
        bool any = false;
        for (std::size_t k = 0; k < kAtOnce; ++k) any |= word(i + k) - low <= span;
        if (!any) continue;
        for (std::size_t k = i; k < i + kAtOnce; ++k) {
            if (word(k) - low <= span) visit(8 * k, word(k));
        }
    }
    for (; i < words; ++i) {
        if (word(i) - low <= span) visit(8 * i, word(i));
    }
}

}  // namespace

// What the kernel's allocator says about the slabs of task_structs.
struct TaskScan::Geometry {
    GuestVirt vmemmap;              // the array of struct page, by page frame
    std::uint64_t page_bytes = 0;   // of one struct page
    std::uint64_t cache = 0;        // task_struct_cachep
    std::uint64_t object_size = 0;  // with padding: from one object to the next
    std::uint64_t pad = 0;          // before the first
    std::array<std::uint64_t, 2> orders{};
};

TaskScan::TaskScan(Kernel* kernel) : kernel_(kernel) {
    const Kernel& k = *kernel;
    f_ = {
        .sched_class = k.field("task_struct", "sched_class"),
        .pid = k.field("task_struct", "pid"),
        .tgid = k.field("task_struct", "tgid"),
        .state = k.field("task_struct", {"__state", "state"}),
        .stack = k.field("task_struct", "stack"),
        .sp = k.field("task_struct", "thread.sp"),
        .on_cpu = k.field("task_struct", "on_cpu"),
        .return_address = k.field("inactive_task_frame", "ret_addr"),
        // struct slab has its own type since 5.17.
        .slab_cache = k.field("slab", "slab_cache"),
        .cache_size = k.field("kmem_cache", "size"),
        .cache_pad = k.field("kmem_cache", "red_left_pad"),
        .cache_order = k.field("kmem_cache", "oo.x"),
        .cache_least_order = k.field("kmem_cache", "min.x"),
    };
    if (!f_.slab_cache.known()) f_.slab_cache = k.field("page", "slab_cache");
}

Result<std::vector<std::uint64_t>> TaskScan::sched_classes() const {
    std::vector<std::uint64_t> classes;
    for (const std::string_view name :
         {"stop_sched_class", "dl_sched_class", "rt_sched_class", "fair_sched_class",
          "ext_sched_class", "idle_sched_class"}) {
        if (const auto address = kernel_->symbols().address(name)) {
            classes.push_back(address->value);
        }
    }
    if (classes.empty()) TRY(kernel_->symbol("fair_sched_class"));
    std::ranges::sort(classes);
    return classes;
}

std::optional<TaskScan::Geometry> TaskScan::slab_geometry() {
    const auto read = [&]() -> Result<Geometry> {
        Geometry geometry;
        geometry.vmemmap = TRY(page_records(*kernel_));
        geometry.page_bytes = kernel_->size_of("page");
        const GuestVirt cache =
            TRY(kernel_->memory().read<GuestVirt>(TRY(kernel_->symbol("task_struct_cachep"))));
        geometry.cache = cache.value;
        geometry.object_size = TRY(kernel_->read(cache, f_.cache_size));
        if (f_.cache_pad.known()) geometry.pad = TRY(kernel_->read(cache, f_.cache_pad));
        geometry.orders = {TRY(kernel_->read(cache, f_.cache_order)) >> kOrderShift,
                           TRY(kernel_->read(cache, f_.cache_least_order)) >> kOrderShift};
        const bool sane = geometry.page_bytes != 0 && f_.slab_cache.known() &&
                          geometry.object_size != 0 &&
                          geometry.object_size >= kernel_->size_of("task_struct") &&
                          std::ranges::max(geometry.orders) <= kMaxOrder;
        if (!sane) return fail(Code::malformed, "task_struct_cachep is no cache of task_structs");
        return geometry;
    };
    auto geometry = read();
    if (!geometry.has_value()) return std::nullopt;
    return *geometry;
}

// A slab is 2^order pages, aligned to its size; its head page names the cache.
bool TaskScan::is_slab_object(const Geometry& geometry, GuestPhys phys) {
    for (const std::uint64_t order : geometry.orders) {
        const std::uint64_t slab_bytes = kPageSize << order;
        const std::uint64_t slab = phys.value & ~(slab_bytes - 1);
        const std::uint64_t in_slab = phys.value - slab;
        if (in_slab < geometry.pad || (in_slab - geometry.pad) % geometry.object_size != 0)
            continue;
        if (in_slab - geometry.pad + geometry.object_size > slab_bytes) continue;
        const GuestVirt page = geometry.vmemmap + slab / kPageSize * geometry.page_bytes;
        const auto cache = kernel_->read(page, f_.slab_cache);
        if (cache.has_value() && *cache == geometry.cache) return true;
    }
    return false;
}

Result<void> TaskScan::search_ram(TaskPlaces& places) {
    TRY(kernel_->require_types());
    // on_cpu: of CONFIG_SMP, which all kernels are since 6.17. Without it one that runs is taken
    // for one that is dead.
    TRY(kernel_->require({f_.sched_class, f_.pid, f_.tgid, f_.state, f_.stack, f_.sp, f_.on_cpu}));
    const std::vector<std::uint64_t> classes = TRY(sched_classes());
    const std::uint64_t span = classes.back() - classes.front();
    const GuestVirt map = TRY(direct_map(*kernel_));
    const std::optional<Geometry> geometry = slab_geometry();
    std::size_t matches = 0;
    const auto consider = [&](GuestPhys at, std::uint64_t value) {
        if (!std::ranges::binary_search(classes, value)) return;
        if (at.value < f_.sched_class.offset) return;
        const GuestPhys phys = at - f_.sched_class.offset;
        if (phys.value % kTaskAlignment != 0 || ++matches > limits::kMaxTasks) return;
        const GuestVirt task = map + phys.value;
        if (geometry && !is_slab_object(*geometry, phys)) return;
        const auto there = kernel_->memory().translate(task);
        if (there.has_value() && there->phys == phys) places.addresses.push_back(task);
    };
    guest_memory::GuestMemory& memory = kernel_->physical();
    std::vector<std::byte> piece(kPieceBytes);
    for (const guest_memory::RamRegion& region : memory.regions()) {
        for (std::uint64_t done = 0; done < region.size_bytes;) {
            const std::uint64_t size = std::min(kPieceBytes, region.size_bytes - done);
            const GuestPhys from = region.begin + done;
            guest_memory::ReadOp op{from, std::span(piece).first(size)};
            memory.read_many({&op, 1});
            // What cannot be read whole is read page by page.
            const std::uint64_t step = op.status == guest_memory::ReadStatus::ok ? size : kPageSize;
            for (std::uint64_t at = 0; at < size; at += step) {
                const std::uint64_t part = std::min(step, size - at);
                if (step != size) {
                    op = {from + at, std::span(piece).first(part)};
                    memory.read_many({&op, 1});
                    if (op.status != guest_memory::ReadStatus::ok) {
                        places.unread_bytes += part;
                        continue;
                    }
                }
                places.searched_bytes += part;
                for_words_in(op.into, classes.front(), span,
                             [&](std::size_t offset, std::uint64_t value) {
                                 consider(from + at + offset, value);
                             });
            }
            done += size;
        }
    }
    if (matches > limits::kMaxTasks) {
        return fail(Code::limit,
                    fmt::format("more than {} places in RAM look like tasks", limits::kMaxTasks));
    }
    return {};
}

TaskPlaces TaskScan::search(const std::vector<GuestVirt>& known) {
    TaskPlaces places;
    const auto searched = search_ram(places);
    if (!searched.has_value()) {
        places.gap = searched.error().to_text();
        return places;
    }
    std::ranges::sort(places.addresses);
    // Some of `known` have ended meanwhile, and their memory may be something else by now.
    const std::unordered_set<GuestVirt> there(places.addresses.begin(), places.addresses.end());
    const auto met = static_cast<std::size_t>(
        std::ranges::count_if(known, [&](GuestVirt task) { return there.contains(task); }));
    if (met * 2 < known.size()) {
        places.gap = fmt::format(
            "the search of RAM came across only {} of the {} tasks that are "
            "known otherwise",
            met, known.size());
    } else if (places.unread_bytes != 0) {
        places.gap = fmt::format("{} KiB of RAM cannot be read", places.unread_bytes >> 10);
    }
    return places;
}

bool TaskScan::is_text(GuestVirt address) const {
    return std::ranges::any_of(kernel_->image().extents, [&](const ImageExtent& extent) {
        return extent.executable && address >= extent.virt &&
               address - extent.virt < extent.size_bytes;
    });
}

bool TaskScan::is_live(GuestVirt task) {
    const auto decide = [&]() -> Result<bool> {
        const std::uint64_t pid = TRY(kernel_->read(task, f_.pid));
        const std::uint64_t tgid = TRY(kernel_->read(task, f_.tgid));
        // 0: a CPU's idle task.
        if (pid == 0 || pid > kPidMaxLimit || tgid == 0 || tgid > kPidMaxLimit) return false;
        // A task dies on a stack that is taken from it afterwards, so a freed one has none; one
        // whose fork has failed is marked as dead too (kernel/fork.c, bad_fork_free).
        const std::uint64_t state = TRY(kernel_->read(task, f_.state));
        if ((state & kTaskDead) != 0 || state == kTaskNew) return false;
        const GuestVirt stack = TRY(kernel_->read_pointer(task, f_.stack));
        const GuestVirt sp = TRY(kernel_->read_pointer(task, f_.sp));
        if (!stack || sp <= stack || sp - stack >= kMaxStackBytes) return false;
        // The stack pointer is that of the last switch away from it.
        if (TRY(kernel_->read(task, f_.on_cpu)) != 0) return true;
        if (!f_.return_address.known()) return true;
        return is_text(TRY(kernel_->read_pointer(sp, f_.return_address)));
    };
    return decide().value_or(false);
}

std::vector<GuestVirt> TaskScan::live(const TaskPlaces& places,
                                      const std::vector<GuestVirt>& known) {
    std::unordered_map<std::uint64_t, GuestVirt> owner_of_stack;
    for (const GuestVirt task : known) {
        const auto stack = kernel_->read(task, f_.stack);
        if (stack.has_value() && *stack != 0) owner_of_stack.emplace(*stack, task);
    }
    std::vector<GuestVirt> tasks;
    for (const GuestVirt task : places.addresses) {
        if (!is_live(task)) continue;
        const auto owner = owner_of_stack.find(kernel_->read(task, f_.stack).value_or(0));
        if (owner == owner_of_stack.end() || owner->second == task) tasks.push_back(task);
    }
    return tasks;
}

}  // namespace underseer::guest_linux
