// FakeGuest: a Linux guest in a vector. It lays out a kernel image, page tables, kallsyms, BTF and
// kernel structures from a description, so that every parser can be shown clean, malformed,
// half-unreadable and changing memory, in forms that no kernel at hand has.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "guest_linux/kallsyms.h"
#include "guest_memory/guest_memory.h"

namespace underseer::guest_linux {

// ---- BTF --------------------------------------------------------------------------------------

// Builds a BTF blob type by type; ids count from 1.
class FakeBtf {
  public:
    FakeBtf();
    struct Member {
        std::string name;  // "" for an anonymous struct or union
        std::uint32_t type = 0;
        std::uint32_t offset_bits = 0;
        std::uint32_t bitfield_bits = 0;
    };
    std::uint32_t add_int(std::string_view name, std::uint32_t size_bytes);
    std::uint32_t add_pointer(std::uint32_t to);
    std::uint32_t add_array(std::uint32_t element, std::uint32_t count);
    std::uint32_t add_struct(std::string_view name, std::uint32_t size_bytes,
                             const std::vector<Member>& members, bool is_union = false);
    std::uint32_t add_enum(std::string_view name,
                           const std::vector<std::pair<std::string, std::int32_t>>& enumerators);
    std::uint32_t add_typedef(std::string_view name, std::uint32_t of);
    std::vector<std::byte> build() const;

  private:
    std::uint32_t string(std::string_view text);
    std::uint32_t begin_type(std::string_view name, std::uint32_t kind, std::uint32_t count,
                             std::uint32_t size_or_type, bool kind_flag = false);
    void word(std::uint32_t value);

    std::string types_;
    std::string strings_;
    std::uint32_t next_id_ = 1;
};

// ---- kallsyms ---------------------------------------------------------------------------------

enum class KallsymsForm : std::uint8_t {
    v4_20,  // offsets, relative_base, num_syms, names, markers, tokens; absolute per-CPU
    v6_2,   // the same with seqs_of_names before the tokens
    v6_4,   // names and tokens first; absolute per-CPU
    v6_15,  // the same, base-relative
    v7_0,   // self-relative, no relative_base
};

struct FakeSymbol {
    std::string name;
    char type = 'T';
    std::uint64_t address = 0;
};

// The tables as they would lie at `at`, with `lead` bytes of other data before them. `symbols` must
// be sorted by address.
std::vector<std::byte> build_kallsyms(const std::vector<FakeSymbol>& symbols, KallsymsForm form,
                                      GuestVirt at, std::size_t lead);

// ---- ksymtab ----------------------------------------------------------------------------------

// Entries in the order of their names and then their names, as they would lie at `at`.
std::vector<std::byte> build_ksymtab(std::map<std::string, std::uint64_t> exports, GuestVirt at);

// ---- the guest --------------------------------------------------------------------------------

class FakeGuest final : public guest_memory::GuestMemory {
  public:
    struct Options {
        unsigned levels = 4;
        KallsymsForm form = KallsymsForm::v6_4;
        std::uint64_t ram_bytes = 64u << 20;
        std::uint64_t image_phys = 16u << 20;
        std::uint64_t slide = 0x1200000;  // KASLR, a multiple of 2 MiB
        bool trampoline = true;           // the copy of the top table below 1 MiB
        bool btf = true;
        bool kallsyms_all = true;  // off: kallsyms has the functions only, ksymtab what is exported
    };
    explicit FakeGuest(Options options);

    // GuestMemory
    std::span<const guest_memory::RamRegion> regions() const override { return regions_; }
    void read_many(std::span<guest_memory::ReadOp> ops) override;
    bool live() const override { return true; }
    std::string describe() const override { return "fake guest"; }

    // Called before every read; may change memory (a racing guest).
    std::function<void(FakeGuest&, GuestPhys)> before_read;
    // Pages that cannot be read.
    std::function<bool(GuestPhys)> is_hole;

    // ---- building: data of the image, then finish() once
    // A struct of this kernel's types: "next:ptr@0 name:char[16]@8 node:list_head@24", with offsets
    // in bytes; a bit field has its shift and width besides ("type:int@4/8/3"). Types are ptr,
    // char, short, int, long, and structs that are defined already; one whose name begins with '?'
    // is an anonymous union.
    void define(std::string_view name, std::uint32_t size_bytes, std::string_view members);
    void add_symbol(std::string name, char type, std::uint64_t address);
    // Bytes in the image's data or in the direct map; the address is virtual.
    GuestVirt allocate(std::size_t size_bytes, std::size_t alignment = 64);
    void finish();
    // A function with this code; to be called before finish().
    GuestVirt add_function(std::string_view name, std::string_view code);
    // A page with this text, and the pointer to it in the image's data.
    void set_vmcoreinfo(std::string_view text);
    // What a kernel as this one says of itself.
    std::string true_vmcoreinfo() const;

    // A process with its own structures, linked into all views.
    GuestVirt add_task(std::uint32_t pid, std::uint32_t tgid, std::string_view comm,
                       GuestVirt parent);
    // init, kthreadd and some children of both: enough for the layout of a task to be derived
    // where there is no BTF.
    struct System {
        GuestVirt init, kthreadd;
        GuestVirt daemon;  // pid 20, a child of init
    };
    System add_system();
    GuestVirt init_task() const { return init_task_; }
    GuestVirt init_pid_ns() const { return pid_ns_; }
    GuestVirt css_set_table() const { return css_set_table_; }
    // The same memory as the direct map shows it.
    GuestVirt direct(GuestVirt at) const;
    // One CPU; to be called before finish(). Which task runs on it.
    void add_cpu();
    GuestVirt rodata() const { return GuestVirt{rodata_virt_}; }
    GuestVirt cpu_mask() const { return cpu_mask_; }
    void run(GuestVirt task);
    // A task with a kernel stack as one that sleeps has, in a slab of task_structs.
    void make_real(GuestVirt task);
    // Unlinks like a rootkit does.
    void unlink_from_task_list(GuestVirt task);
    void unlink_from_pid_idr(std::uint32_t pid);
    void unlink_from_css_set(GuestVirt task);
    void unlink_from_tree(GuestVirt task);

    void list_init(GuestVirt head);
    void list_add_tail(GuestVirt node, GuestVirt head);
    void list_remove(GuestVirt node);

    template <typename T>
    void write(GuestVirt at, T value) {
        std::memcpy(host(at), &value, sizeof value);
    }
    template <typename T>
    T read_back(GuestVirt at) {
        T value;
        std::memcpy(&value, host(at), sizeof value);
        return value;
    }
    std::byte* host(GuestVirt at);
    std::byte* host_phys(GuestPhys at) { return ram_.data() + at.value; }
    GuestPhys phys(GuestVirt at) const;
    GuestPhys root() const { return root_; }
    std::uint32_t offset(std::string_view structure, std::string_view member) const;
    std::uint64_t reads() const { return reads_; }

    static constexpr std::string_view kBanner =
        "Linux version 6.4.0-fake (underseer@example) (gcc 12) #1 SMP\n";

  private:
    void build_page_tables();
    void build_types();
    void build_init_task();
    void build_scheduler();

    Options options_;
    std::vector<std::byte> ram_;
    std::vector<guest_memory::RamRegion> regions_;
    std::uint64_t text_virt_ = 0, rodata_virt_ = 0, data_virt_ = 0;
    std::uint64_t data_next_ = 0, data_end_ = 0;
    GuestPhys root_;
    std::vector<FakeSymbol> symbols_;
    FakeBtf btf_;
    std::map<std::string, std::uint32_t, std::less<>> types_, offsets_;
    GuestVirt init_task_, css_set_, css_set_table_, pid_ns_, idr_node_;
    GuestVirt run_queue_, cpu_mask_, sched_class_, task_cache_, struct_pages_, tasks_;
    std::uint64_t function_next_ = 0, next_task_ = 0;
    std::uint64_t reads_ = 0;
};

}  // namespace underseer::guest_linux
