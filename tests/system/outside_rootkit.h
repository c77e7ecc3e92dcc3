// Hides tasks by writing to a guest's memory from outside: what a module inside would do, on
// kernels for which none is built.
#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "guest_linux/guest.h"
#include "guest_memory/sources.h"
#include "guests.h"

namespace underseer::testing {

// Unlinks a task in the memory of a paused guest, as a rootkit in it would.
class OutsideRootkit {
  public:
    explicit OutsideRootkit(TestVm* vm) : vm_(vm), source_(source_of(*vm)) {
        std::vector<int> fds;
        for (const Fd& fd : source_.fds) fds.push_back(fd.get());
        memory_ = guest_memory::open_live(fds, source_.layout, vm->name()).value();
        guest_ = guest_linux::Guest::attach(memory_.get()).value();
        // The same memory, to write to.
        writable_ = open_file(fmt::format("/proc/self/fd/{}", fds.front()), O_RDWR).value();
    }

    GuestVirt task_of(std::uint32_t pid) {
        guest_->new_epoch();
        for (const event::Task& task :
             guest_->tasks({.user_memory = false, .paths = false}).items) {
            if (task.pid == pid) return GuestVirt{task.address};
        }
        return {};
    }
    // An integer in the task's structure; none where this kernel's has no such member.
    std::optional<std::uint64_t> member(GuestVirt task, std::string_view path) {
        const auto value = guest_->kernel().read(task, guest_->kernel().field("task_struct", path));
        return value.has_value() ? std::optional(*value) : std::nullopt;
    }
    guest_linux::Guest& guest() { return *guest_; }
    guest_memory::GuestMemory& memory() { return *memory_; }
    guest_linux::Kernel& kernel() { return guest_->kernel(); }
    void unlink(GuestVirt task, std::string_view list) {
        const GuestVirt node = task + guest_->kernel().field("task_struct", list).offset;
        const auto next = guest_->kernel().memory().read<GuestVirt>(node).value();
        const auto previous = guest_->kernel().memory().read<GuestVirt>(node + 8).value();
        write(previous, next.value);
        write(next + 8, previous.value);
    }
    // At the beginning of a list, whose head may be anywhere in the kernel.
    void link(GuestVirt task, std::string_view node_name, GuestVirt head) {
        const GuestVirt node = task + guest_->kernel().field("task_struct", node_name).offset;
        const auto first = guest_->kernel().memory().read<GuestVirt>(head).value();
        write(node, first.value);
        write(node + 8, head.value);
        write(first + 8, node.value);
        write(head, node.value);
    }
    // The pid stays allocated, but leads to no task any more.
    void unlink_from_idr(GuestVirt task) {
        auto& kernel = guest_->kernel();
        const GuestVirt pid =
            kernel.read_pointer(task, kernel.field("task_struct", "thread_pid")).value();
        write(pid + kernel.field("pid", "tasks").offset, 0);
    }
    // From every list but those of its own signal_struct.
    void unlink_everywhere(GuestVirt task) {
        CHECK(task);
        for (const std::string_view list : {"tasks", "cg_list", "sibling"}) unlink(task, list);
        unlink_from_idr(task);
    }

    void write(GuestVirt at, std::uint64_t value) {
        guest_->new_epoch();
        done_.emplace_back(at, guest_->kernel().memory().read<std::uint64_t>(at).value());
        const GuestPhys phys = guest_->kernel().memory().translate(at).value().phys;
        CHECK(::pwrite(writable_.get(), &value, sizeof value, static_cast<off_t>(phys.value)) ==
              sizeof value);
    }

    // As nothing had been done. Only for a guest that has stood still since.
    void undo() {
        while (!done_.empty()) {
            const auto [at, value] = done_.back();
            write(at, value);
            done_.resize(done_.size() - 2);
        }
    }

  private:
    TestVm* vm_;
    agent::GuestSource source_;
    std::unique_ptr<guest_memory::GuestMemory> memory_;
    std::unique_ptr<guest_linux::Guest> guest_;
    Fd writable_;
    std::vector<std::pair<GuestVirt, std::uint64_t>> done_;  // what was there before each write
};

}  // namespace underseer::testing
