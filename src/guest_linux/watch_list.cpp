#include "guest_linux/watch_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/limits.h"
#include "guest_linux/hooks.h"
#include "guest_linux/syscall_names.h"

namespace underseer::guest_linux {

namespace {

using PlaceKind = WatchedPlace::Kind;

constexpr std::size_t kWordBytes = 8, kIdtGateBytes = 16;
constexpr std::size_t kIdtGates = 256;
constexpr std::uint64_t kFirstX32Call = 512;
constexpr std::uint64_t kMaxPlaceBytes = 64u << 10;
constexpr std::size_t kMaxSecurityHooks = 4096;
constexpr std::size_t kMaxProgramBytes = 128;  // CORENAME_MAX_SIZE; the others are longer

constexpr std::string_view kCallTables[] = {"sys_call_table", "ia32_sys_call_table",
                                            "x32_sys_call_table"};
// Instructions from there to the next symbol (arch/x86/entry/). Each kernel has some of them.
constexpr std::string_view kEntryCode[] = {
    "x64_sys_call",         "x32_sys_call",          "ia32_sys_call",      "entry_SYSCALL_64",
    "entry_SYSCALL_compat", "entry_SYSENTER_compat", "entry_INT80_compat", "asm_int80_emulation",
    "do_syscall_64",        "do_fast_syscall_32",    "do_int80_emulation", "do_int80_syscall_32",
    "do_SYSENTER_32",       "int80_emulation"};
struct Operations {
    std::string_view symbol, structure;
};
constexpr Operations kOperations[] = {{"tcp4_seq_ops", "seq_operations"},
                                      {"tcp6_seq_ops", "seq_operations"},
                                      {"udp_seq_ops", "seq_operations"},
                                      {"udp6_seq_ops", "seq_operations"},
                                      {"raw_seq_ops", "seq_operations"},
                                      {"unix_seq_ops", "seq_operations"},
                                      {"packet_seq_ops", "seq_operations"},
                                      {"netlink_seq_ops", "seq_operations"},
                                      {"modules_op", "seq_operations"},
                                      {"kallsyms_op", "seq_operations"},
                                      {"proc_root_operations", "file_operations"},
                                      {"proc_root_inode_operations", "inode_operations"},
                                      {"proc_tgid_base_operations", "file_operations"},
                                      {"proc_tgid_base_inode_operations", "inode_operations"},
                                      {"proc_task_operations", "file_operations"},
                                      {"kernfs_dir_fops", "file_operations"},
                                      {"kmsg_fops", "file_operations"},
                                      {"n_tty_ops", "tty_ldisc_ops"}};
constexpr std::string_view kPrograms[] = {"core_pattern", "modprobe_path"};

class WatchLister {
  public:
    explicit WatchLister(Kernel& kernel) : kernel_(kernel) {}

    WatchList list() {
        for (const std::string_view name : kCallTables) {
            part(name, [&] { return to_next_symbol(PlaceKind::pointers, name); });
        }
        for (const std::string_view name : kEntryCode) {
            part(name, [&] { return to_next_symbol(PlaceKind::code, name); });
        }
        part("idt_table", [&]() -> Result<void> {
            const GuestVirt at = TRY(kernel_.symbol("idt_table"));
            add({PlaceKind::gates, "idt_table", at, kIdtGates * kIdtGateBytes});
            return {};
        });
        for (const Operations& table : kOperations) {
            part(table.symbol, [&]() -> Result<void> {
                const GuestVirt at = TRY(kernel_.symbol(table.symbol));
                return functions_of(std::string(table.symbol), table.structure, at);
            });
        }
        part("proc_root", [&] { return proc_root(); });
        part("static_calls_table", [&] { return security_calls(); });
        part("security_hook_heads", [&] { return security_lists(); });
        for (const std::string_view name : kPrograms) {
            part(name, [&]() -> Result<void> {
                const GuestVirt at = TRY(kernel_.symbol(name));
                add({PlaceKind::program, std::string(name), at, kMaxProgramBytes});
                return {};
            });
        }
        std::ranges::sort(list_.places, {}, &WatchedPlace::begin);
        return std::move(list_);
    }

  private:
    // What a kernel does not have is not missing: they come and go with versions.
    template <typename Read>
    void part(std::string_view symbol, Read&& read) {
        if (!kernel_.symbol(symbol).has_value()) return;
        if (auto done = read(); !done.has_value()) {
            list_.gaps.add(symbol, done.error());
        }
    }

    void add(WatchedPlace place) {
        if (place.size_bytes > 0) list_.places.push_back(std::move(place));
    }

    Result<void> to_next_symbol(PlaceKind kind, std::string_view name) {
        const GuestVirt begin = TRY(kernel_.symbol(name));
        const auto end = kernel_.symbols().after(begin);
        if (!end || *end - begin > kMaxPlaceBytes) return fail(Code::unavailable, "it has no end");
        add({kind, std::string(name), begin, (*end - begin) / kWordBytes * kWordBytes});
        return {};
    }

    // From the first pointer to a function in it to the last.
    Result<void> functions_of(std::string name, std::string_view structure, GuestVirt at) {
        TRY(kernel_.require_types());
        const auto members = function_members(kernel_.types(), structure);
        if (members.empty()) return fail(Code::unavailable, fmt::format("no type {}", structure));
        const auto [first, last] = std::ranges::minmax(members, {}, &FunctionMember::offset);
        add({PlaceKind::pointers, std::move(name), at + first.offset,
             last.offset - first.offset + kWordBytes, std::string(structure), first.offset});
        return {};
    }

    Result<void> proc_root() {
        const GuestVirt root = TRY(kernel_.symbol("proc_root"));
        for (const std::string_view member : {"proc_iops", "proc_dir_ops"}) {
            const Field field = kernel_.field("proc_dir_entry", member);
            if (!field.known()) continue;
            add({PlaceKind::pointers, fmt::format("proc_root.{}", member), root + field.offset,
                 kWordBytes});
        }
        return {};
    }

    // Until 6.11: a list for each question (security/security.c), of elements that lie in the
    // image: both the heads and the elements.
    Result<void> security_lists() {
        const GuestVirt heads = TRY(kernel_.symbol("security_hook_heads"));
        const std::uint64_t bytes = TRY(kernel_.require_size_of("security_hook_heads"));
        if (bytes > kMaxPlaceBytes) return fail(Code::malformed, "it has no end");
        const Field node = kernel_.field("security_hook_list", "list"),
                    function = kernel_.field("security_hook_list", "hook");
        TRY(kernel_.require({node, function}));
        std::vector<GuestVirt> firsts(bytes / kWordBytes);
        TRY(kernel_.memory().read(heads, std::as_writable_bytes(std::span(firsts))));
        add({PlaceKind::pointers, "security_hook_heads", heads, firsts.size() * kWordBytes});
        std::size_t hooks = 0;
        for (const GuestVirt first : firsts) {
            for (GuestVirt at = first; at; at = TRY(kernel_.memory().read<GuestVirt>(at))) {
                if (++hooks > kMaxSecurityHooks) return fail(Code::limit, "it has too many hooks");
                const GuestVirt hook = at - node.offset;
                add({PlaceKind::pointers, "security_hook_list", at, kWordBytes});
                add({PlaceKind::pointers, "security_hook_list.hook", hook + function.offset,
                     kWordBytes});
            }
        }
        return {};
    }

    // Since 6.12: the calls that were made for each question, and whom they go to.
    Result<void> security_calls() {
        const GuestVirt table = TRY(kernel_.symbol("static_calls_table"));
        const std::uint64_t bytes = TRY(kernel_.require_size_of("lsm_static_calls_table")),
                            step = TRY(kernel_.require_size_of("lsm_static_call"));
        if (bytes > 4 * kMaxPlaceBytes || step == 0) return fail(Code::malformed, "it has no end");
        const Field registered = kernel_.field("lsm_static_call", "hl"),
                    key = kernel_.field("lsm_static_call", "key"),
                    target = kernel_.field("static_call_key", "func"),
                    function = kernel_.field("security_hook_list", "hook");
        TRY(kernel_.require({registered, key, target, function}));
        for (std::uint64_t at = 0; at + step <= bytes; at += step) {
            const GuestVirt call = table + at;
            const GuestVirt hook = TRY(kernel_.read_pointer(call, registered));
            if (!hook) continue;
            add({PlaceKind::pointers, "static_calls_table", call, step / kWordBytes * kWordBytes});
            add({PlaceKind::pointers, "security_hook_list.hook", hook + function.offset,
                 kWordBytes});
            const GuestVirt called = TRY(kernel_.read_pointer(call, key));
            add({PlaceKind::pointers, "static_call_key.func", called + target.offset, kWordBytes});
        }
        return {};
    }

    Kernel& kernel_;
    WatchList list_;
};

}  // namespace

std::size_t WatchedPlace::unit_bytes() const {
    switch (kind) {
        case PlaceKind::pointers:
            return kWordBytes;
        case PlaceKind::gates:
            return kIdtGateBytes;
        case PlaceKind::code:
        case PlaceKind::program:
        case PlaceKind::data:
            break;
    }
    return size_bytes;
}

WatchList list_watched(Kernel& kernel) {
    return WatchLister(kernel).list();
}

WatchList list_regions(Kernel& kernel, std::span<const event::MemoryRegion> regions) {
    WatchList list;
    const auto place_of = [&](const event::MemoryRegion& region) -> Result<WatchedPlace> {
        const GuestVirt symbol = TRY(kernel.symbol(region.symbol)), begin = symbol + region.offset;
        std::uint64_t bytes = region.size_bytes;
        if (bytes == 0) {
            const auto end = kernel.symbols().after(symbol);
            if (!end || *end - symbol > limits::kMaxMonitoredBytes) {
                return fail(Code::limit,
                            fmt::format("it has more than {} bytes; say how many, as in '{}:64'",
                                        limits::kMaxMonitoredBytes, region.symbol));
            }
            bytes = *end - symbol;
        }
        std::string name = region.symbol;
        if (region.offset != 0) name += fmt::format("+{:#x}", region.offset);
        return WatchedPlace{PlaceKind::data, std::move(name), begin, bytes};
    };
    for (const event::MemoryRegion& region : regions) {
        auto place = place_of(region);
        if (place.has_value()) {
            list.places.push_back(std::move(*place));
        } else {
            list.gaps.add(region.symbol, place.error());
        }
    }
    return list;
}

std::string watched_name(const Kernel& kernel, const WatchedPlace& place, std::uint64_t offset) {
    if (place.kind == PlaceKind::program || place.kind == PlaceKind::data) return place.name;
    if (place.kind == PlaceKind::gates)
        return fmt::format("interrupt {:#x}", offset / kIdtGateBytes);
    if (place.kind == PlaceKind::code) return symbol_text(kernel, place.begin + offset);
    if (!place.structure.empty()) {
        for (const FunctionMember& member : function_members(kernel.types(), place.structure)) {
            if (member.offset != place.first_byte + offset) continue;
            return fmt::format("{}.{}", place.name, member.name);
        }
        return fmt::format("{}+{:#x}", place.name, place.first_byte + offset);
    }
    if (!place.name.ends_with("sys_call_table")) return symbol_text(kernel, place.begin + offset);
    const std::uint64_t number = offset / kWordBytes;
    const std::string_view call = place.name == "ia32_sys_call_table" || number >= kFirstX32Call
                                      ? std::string_view()
                                      : syscall_name(number);
    return call.empty() ? fmt::format("{}[{}]", place.name, number)
                        : fmt::format("{} ({}[{}])", call, place.name, number);
}

GuestVirt gate_target(std::uint64_t low, std::uint64_t high) {
    return GuestVirt{(low & 0xffff) | (low >> 32 & 0xffff0000) | high << 32};
}

}  // namespace underseer::guest_linux
