// TaskScan: tasks found in RAM itself, by what makes the kernel run them, without following a list.
//
// A task that can run at all points to its scheduling class, one of half a dozen structures in the
// kernel's read-only data: that pointer is searched for in all RAM. What holds one is a task_struct
// when it lies where the kernel allocates them (an object of a slab of task_struct_cachep) and is a
// live one, not a freed one with its old contents, when it owns a kernel stack on which a switched-
// out task's frame lies that returns into the kernel's text.
//
// TRUST: all of it is guest memory. Bounded in matches and reads; a task whose scheduling class is
// a copy outside the kernel's image, or whose slab is disguised, is not found.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "guest_linux/kernel.h"

namespace underseer::guest_linux {

// Where task_structs lie in RAM, live or freed. Tasks that begin later in one of these places are
// found there by TaskScan::live().
struct TaskPlaces {
    std::vector<GuestVirt> addresses;
    std::uint64_t searched_bytes = 0;
    std::uint64_t unread_bytes = 0;  // RAM that the source does not hold or could not be read
    std::optional<std::string> gap;  // why the search is not complete, when it is not
};

class TaskScan {
  public:
    explicit TaskScan(Kernel* kernel);

    // Reads all RAM once. `known` are tasks that other views show: a search that does not come
    // across them does not work on this kernel, and says so in `gap`.
    TaskPlaces search(const std::vector<GuestVirt>& known);

    // The places where a live task is now. One that is not `known` and has the kernel stack of one
    // that is, is a copy of it and left out.
    std::vector<GuestVirt> live(const TaskPlaces& places, const std::vector<GuestVirt>& known);

  private:
    struct Geometry;
    Result<std::vector<std::uint64_t>> sched_classes() const;
    std::optional<Geometry> slab_geometry();
    bool is_slab_object(const Geometry& geometry, GuestPhys phys);
    Result<void> search_ram(TaskPlaces& places);
    bool is_live(GuestVirt task);
    bool is_text(GuestVirt address) const;

    Kernel* kernel_;
    struct {
        Field sched_class, pid, tgid, state, stack, sp, on_cpu, return_address, slab_cache,
            cache_size, cache_pad, cache_order, cache_least_order;
    } f_;
};

}  // namespace underseer::guest_linux
