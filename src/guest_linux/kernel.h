// Kernel: the model of one running guest kernel. Addresses by symbol, offsets by type and member,
// and reads through the kernel's own page tables. Made from RAM alone: no profile, no debug
// symbols.
#pragma once

#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "base/limits.h"
#include "event/observation.h"
#include "guest_linux/btf.h"
#include "guest_linux/cpu_witness.h"
#include "guest_linux/kallsyms.h"
#include "guest_linux/kernel_image.h"
#include "guest_linux/virtual_memory.h"
#include "guest_linux/vital_signs.h"
#include "guest_linux/vmcoreinfo.h"

namespace underseer::guest_linux {

// Where a member lies in its struct. Resolved once per kernel, by name; `known()` is false when
// this kernel has no such member, and every read of it then fails with Code::unavailable.
struct Field {
    // So far that no address with it, or without it, is one of 4- or 5-level page tables: what is
    // computed with an unknown member is an error when it is read, and never a wrong answer.
    static constexpr std::uint64_t kNowhere = 1ull << 61;

    std::string_view name;  // "task_struct.pid": for messages
    std::uint64_t offset = kNowhere;
    std::uint32_t size_bytes = 0;
    std::uint8_t bit_shift = 0;
    std::uint8_t bit_count = 0;  // 0: not a bitfield

    bool known() const { return size_bytes != 0 || bit_count != 0; }
};

// Rungs of the ladder that a kernel may lack. A test takes them away from one that has them, and
// compares what the next rung finds.
struct Lacking {
    bool data_symbols = false;  // CONFIG_KALLSYMS_ALL=n: kallsyms lists functions only
    bool types = false;         // CONFIG_DEBUG_INFO_BTF=n
    // Types that lack a member, or that somebody forged: makes of a member ("task_struct", "pid")
    // what they say of it, and of a struct's own size ("task_struct", "").
    std::function<void(std::string_view structure, std::string_view path, Field&)> alter;
};

// Of a walk from node to node: whether it goes in a circle. Brent's algorithm, which notices it
// within twice the circle's length and keeps one node in mind.
class CircleGuard {
  public:
    bool closes_at(GuestVirt node) {
        if (node == seen_) return true;
        if (++since_ == power_) {
            seen_ = node;
            power_ *= 2;
            since_ = 0;
        }
        return false;
    }

  private:
    GuestVirt seen_{~std::uint64_t{0}};
    std::size_t power_ = 1, since_ = 0;
};

// What was read, or why it could not be.
template <typename T>
event::Observed<T> observed(Result<T> result) {
    if (result.has_value()) return std::move(*result);
    return event::Observed<T>::unavailable(result.error().to_text());
}

// What is known of the guest besides its memory.
struct Known {
    std::span<const VitalSigns> remains;        // kernels that do not run any more
    std::span<const event::CpuRegisters> cpus;  // as they were a moment ago; empty: nobody tells
};

class Kernel {
  public:
    // Finds the kernel and builds the model. Of several kernels in RAM the one that a CPU runs is
    // taken; where no CPU says so, the one whose clock is the latest. The others are told in
    // notes(). In live memory, a kernel that is not up yet, not any more, or known to be remains,
    // is passed over. `memory` must outlive the result.
    static Result<std::unique_ptr<Kernel>> attach(guest_memory::GuestMemory* memory,
                                                  Known known = {}, Lacking lacking = {});

    const KernelImage& image() const { return image_; }
    const Symbols& symbols() const { return symbols_; }
    const std::optional<VmcoreInfo>& vmcoreinfo() const { return vmcoreinfo_; }
    const Btf& types() const { return types_; }
    VirtualMemory& memory() { return memory_; }
    guest_memory::GuestMemory& physical() { return memory_.physical(); }
    const std::vector<std::string>& notes() const { return notes_; }
    // Kernels in RAM as whole as this one, which a CPU runs and them none.
    const std::vector<UnrunKernel>& unrun() const { return unrun_; }
    // This one as such a kernel: for when the CPUs turn out to run another.
    Result<UnrunKernel> as_unrun() const;

    // Code::unavailable, with the name, when neither kallsyms nor another rung has it.
    Result<GuestVirt> symbol(std::string_view name) const;
    // The first of several names that a thing has had over the versions.
    Result<GuestVirt> symbol(std::initializer_list<std::string_view> names) const;

    // A symbol that kallsyms lacks and another rung found.
    void adopt_symbol(std::string_view name, GuestVirt address, std::string_view found_by);

    // The first of `paths` that the struct has ("se.cfs_rq" goes through nested members).
    Field field(std::string_view structure, std::initializer_list<std::string_view> paths) const;
    Field field(std::string_view structure, std::string_view path) const {
        return field(structure, {path});
    }
    // Code::unavailable in a kernel without BTF: there only some members of task_struct are known.
    Result<void> require_types() const;
    // Code::unavailable, with the name, when one of them is not known: for a walk that would take
    // it for an empty list.
    Result<void> require(std::initializer_list<Field> fields) const;
    // 0 when the struct is not known.
    std::uint64_t size_of(std::string_view structure) const;
    // Code::unavailable when it is not known: for steps through an array of them.
    Result<std::uint64_t> require_size_of(std::string_view structure) const;

    // An integer member, zero-extended; a bitfield is shifted down.
    Result<std::uint64_t> read(GuestVirt object, const Field& field);
    Result<GuestVirt> read_pointer(GuestVirt object, const Field& field);
    // A char array member, up to its NUL.
    Result<std::string> read_text(GuestVirt object, const Field& field);

    // Steps through a list_head ring. `visit(GuestVirt node)` returns false to stop early.
    // Code::limit when it does not come back to `head` within `max_steps` or meets the same node
    // again.
    template <typename Visit>
    Result<void> walk_list(GuestVirt head, Visit&& visit,
                           std::size_t max_steps = limits::kMaxListSteps);

    // Steps through a chain of hlist_nodes, which ends at a null pointer. `visit(GuestVirt node)`
    // returns a Result<void>; an error of it ends the walk. The next node is read before the visit.
    template <typename Visit>
    Result<void> walk_hlist(GuestVirt first, Visit&& visit);

    // Visits every node of a red-black tree (struct rb_node {__rb_parent_color, rb_right, rb_left},
    // include/linux/rbtree_types.h), the
    // parent first. `visit(GuestVirt node)` returns a Result<void>; an error of it ends the walk.
    // Code::limit when there are too many nodes or one is met again.
    template <typename Visit>
    Result<void> walk_rb_tree(std::uint64_t root, Visit&& visit);

    // Address of a per-CPU variable on one CPU.
    Result<GuestVirt> per_cpu(GuestVirt variable, unsigned cpu);
    // CPUs that have a per-CPU area.
    Result<std::vector<unsigned>> possible_cpus();

    // Nanoseconds since the epoch at which the guest booted, by its own clock.
    Result<std::uint64_t> boot_time();
    Result<std::uint64_t> wall_clock();
    event::SystemInfo info();
    // Of the timekeeper in tk_core or timekeeper_data.
    std::uint64_t timekeeper_offset() const;

    // Begins a new look: as forget(), and it may make as many reads as a look may.
    void new_epoch() {
        forget();
        memory_.allow(limits::kMaxReadsOfLook);
    }
    // Nothing that was read before is used any more: neither pages nor their mapping.
    void forget() {
        memory_.forget();
        memory_.physical().new_epoch();
    }

  private:
    Kernel(KernelImage image, guest_memory::GuestMemory* memory, Lacking lacking);
    Result<void> load(std::span<const VitalSigns> remains);
    std::string who() const;  // release and page tables, for messages
    Result<void> load_symbols();
    void load_vmcoreinfo();
    void choose_root();
    void check_vmcoreinfo();
    bool leads_to_image(GuestPhys root);
    Result<void> load_types();
    Result<void> derive_layout();
    Unexpected no_member(const Field& field) const;
    Result<void> check_alive(std::span<const VitalSigns> remains);
    Result<std::vector<std::byte>> read_rodata(const ImageExtent& extent);
    Result<GuestVirt> timekeeper() const;
    Result<std::string> build_id();
    void find_build_id_note();
    Result<bool> page_table_isolation();

    KernelImage image_;
    VirtualMemory memory_;
    ImageExtent rodata_extent_;
    std::vector<std::byte> rodata_;  // only while attaching
    Symbols symbols_;
    std::map<std::string, GuestVirt, std::less<>> adopted_;
    std::string build_id_note_;  // where kallsyms does not say where the notes are
    std::optional<VmcoreInfo> vmcoreinfo_;
    Btf types_;
    std::optional<std::size_t> types_at_;                // in rodata_
    std::map<std::string, Field, std::less<>> derived_;  // where there are no types
    std::vector<std::string> notes_;
    std::vector<UnrunKernel> unrun_;
    Lacking lacking_;
};

template <typename Visit>
Result<void> Kernel::walk_list(GuestVirt head, Visit&& visit, std::size_t max_steps) {
    GuestVirt node = TRY(memory_.read<GuestVirt>(head));
    CircleGuard circle;  // one without the head
    for (std::size_t step = 0; node != head; ++step) {
        if (step >= max_steps) return fail(Code::limit, "a kernel list is longer than its bound");
        if (node.value == 0) return fail(Code::malformed, "a kernel list ends in a null pointer");
        if (circle.closes_at(node)) {
            return fail(Code::malformed, "a kernel list is cyclic without its head");
        }
        if (!visit(node)) return {};
        node = TRY(memory_.read<GuestVirt>(node));
    }
    return {};
}

template <typename Visit>
Result<void> Kernel::walk_hlist(GuestVirt first, Visit&& visit) {
    CircleGuard circle;
    std::size_t step = 0;
    for (GuestVirt node = first; node; ++step) {
        if (step > limits::kMaxListSteps || circle.closes_at(node)) {
            return fail(Code::limit, "a chain does not come to its end");
        }
        const auto next = TRY(memory_.read<GuestVirt>(node));
        TRY(visit(node));
        node = next;
    }
    return {};
}

template <typename Visit>
Result<void> Kernel::walk_rb_tree(std::uint64_t root, Visit&& visit) {
    std::vector<std::uint64_t> stack{root};
    std::unordered_set<GuestVirt> seen;
    while (!stack.empty()) {
        const GuestVirt node{stack.back()};
        stack.pop_back();
        if (!node) continue;
        if (!seen.insert(node).second || seen.size() > limits::kMaxListSteps) {
            return fail(Code::limit, "a kernel tree is too large, or leads into itself");
        }
        stack.push_back(TRY(memory_.read<std::uint64_t>(node + 8)));
        stack.push_back(TRY(memory_.read<std::uint64_t>(node + 16)));
        TRY(visit(node));
    }
    return {};
}

}  // namespace underseer::guest_linux
