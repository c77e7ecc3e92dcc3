#include "guest_linux/code_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <set>

#include "guest_linux/direct_map.h"
#include "guest_linux/modules.h"
#include "guest_linux/vmalloc.h"

namespace underseer::guest_linux {

namespace {

using Kind = CodeOwner::Kind;

constexpr std::uint64_t kKexecCodeBytes = 2 * kPageSize;  // KEXEC_CONTROL_PAGE_SIZE and one behind
constexpr std::uint64_t kModText = 0, kModInitText = 4;
constexpr std::uint64_t kLive = 0;  // MODULE_STATE_LIVE
constexpr std::size_t kMaxOwners = 1u << 20;
// TAINT_PROPRIETARY_MODULE, TAINT_OOT_MODULE, TAINT_UNSIGNED_MODULE (include/linux/panic.h).
constexpr std::uint64_t kForeignTaints = 1u << 0 | 1u << 12 | 1u << 13;

constexpr std::uint64_t page_down(std::uint64_t at) {
    return at & kPageMask;
}
constexpr std::uint64_t page_up(std::uint64_t at) {
    return (at + kPageSize - 1) & kPageMask;
}

class Mapper {
  public:
    explicit Mapper(Kernel& kernel) : kernel_(kernel) {}

    Result<CodeMap> map() {
        const AddressSpace space = kernel_.image().space;
        const GuestVirt begin{~std::uint64_t{0} << (11 + 9 * space.levels)};
        CodeRanges found = TRY(executable_ranges(kernel_.physical(), space, begin,
                                                 GuestVirt{~std::uint64_t{0} & kPageMask}));
        if (found.unreadable > 0) {
            map_.gaps.add("page tables",
                          {Code::unreadable, 0,
                           fmt::format("{} of {} cannot be read", found.unreadable, found.tables)});
        }
        map_.executable = std::move(found.ranges);
        if (auto areas = vmalloc_areas(kernel_); areas.has_value()) {
            areas_ = std::move(*areas);
        } else {
            map_.gaps.add("vmalloc areas", areas.error());
        }
        ask("kernel", &Mapper::add_kernel);
        ask("modules", &Mapper::add_modules);
        ask("BPF", &Mapper::add_bpf);
        ask("ftrace", &Mapper::add_ftrace);
        ask("kprobes", &Mapper::add_kprobes);
        ask("real mode", &Mapper::add_real_mode);
        ask("kexec", &Mapper::add_kexec);
        find_strays();
        return std::move(map_);
    }

  private:
    void ask(std::string_view who, Result<void> (Mapper::*add)()) {
        if (auto added = (this->*add)(); !added.has_value()) {
            map_.gaps.add(who, added.error());
        }
    }

    void keep(std::uint64_t begin, std::uint64_t size, const CodeOwner& who) {
        if (size == 0 || begin + size < begin) return;
        map_.memory.assign(begin, begin + size, who);
    }
    void own(std::uint64_t begin, std::uint64_t size, const CodeOwner& who) {
        if (size == 0 || begin + size < begin) return;
        map_.owners.assign(page_down(begin), page_up(begin + size), who);
    }

    Result<void> add_kernel() {
        const GuestVirt begin = TRY(kernel_.symbol("_text")), end = TRY(kernel_.symbol("_etext"));
        own(begin.value, end.value - begin.value, {Kind::kernel});
        const KernelImage& image = kernel_.image();
        keep(image.begin().value, image.end() - image.begin(), {Kind::kernel});
        return {};
    }

    // Since 6.4 a module's memory is in parts, the first and fifth of which are code (enum
    // mod_mem_type, include/linux/module.h); before, it is two layouts that begin with their code.
    Result<void> add_modules() {
        const Field name = kernel_.field("module", "name"),
                    taints = kernel_.field("module", "taints"),
                    state = kernel_.field("module", "state"),
                    parts = kernel_.field("module", "mem");
        std::set<GuestVirt> seen;
        for (const ModuleViewResult& view : walk_module_views(kernel_)) {
            if (view.gap) map_.gaps.add("modules", *view.gap);
            for (const GuestVirt module : view.modules) {
                if (!seen.insert(module).second) continue;
                const std::uint64_t flags = TRY(kernel_.read(module, taints));
                const CodeOwner who{Kind::module, TRY(kernel_.read_text(module, name)),
                                    (flags & kForeignTaints) != 0};
                ModuleCode code{.module = module, .name = who.module};
                code.life = TRY(life_of(module));
                code.is_live = TRY(kernel_.read(module, state)) == kLive;
                if (parts.known()) {
                    TRY(add_parts(module + parts.offset, parts.size_bytes, who, code));
                } else {
                    TRY(add_layout(module, "core_layout", who, &code));
                    TRY(add_layout(module, "init_layout", who, nullptr));
                }
                map_.modules.push_back(std::move(code));
            }
        }
        return {};
    }

    // The number of its folder in sysfs is given to no other (kernfs_node.id, since 5.5).
    Result<std::uint64_t> life_of(GuestVirt module) {
        const Field folder = kernel_.field("module", "mkobj.kobj.sd"),
                    id = kernel_.field("kernfs_node", "id");
        if (!folder.known() || !id.known()) return 0;
        const GuestVirt node = TRY(kernel_.read_pointer(module, folder));
        return node ? kernel_.read(node, id) : 0;
    }

    Result<void> add_parts(GuestVirt parts, std::uint64_t bytes, const CodeOwner& who,
                           ModuleCode& code) {
        const Field base = kernel_.field("module_memory", "base"),
                    size = kernel_.field("module_memory", "size");
        const std::uint64_t step = TRY(kernel_.require_size_of("module_memory"));
        for (std::uint64_t i = 0; (i + 1) * step <= bytes; ++i) {
            const std::uint64_t begin = TRY(kernel_.read(parts + i * step, base)),
                                length = TRY(kernel_.read(parts + i * step, size));
            keep(begin, length, who);
            if (i == kModText || i == kModInitText) own(begin, length, who);
            if (i == kModText) code.begin = GuestVirt{begin}, code.size_bytes = length;
        }
        return {};
    }

    // `code`: what it is of the layout, where wanted.
    Result<void> add_layout(GuestVirt module, std::string_view layout, const CodeOwner& who,
                            ModuleCode* code) {
        const auto member = [&](std::string_view name) {
            return kernel_.read(module,
                                kernel_.field("module", fmt::format("{}.{}", layout, name)));
        };
        const std::uint64_t begin = TRY(member("base"));
        keep(begin, TRY(member("size")), who);
        const std::uint64_t text = TRY(member("text_size"));
        own(begin, text, who);
        if (code != nullptr) code->begin = GuestVirt{begin}, code->size_bytes = text;
        return {};
    }

    // Programs, trampolines and dispatchers are in a list (struct bpf_ksym). Filters that were
    // translated from classic BPF are not: they lie in packs since 5.18 (struct bpf_prog_pack,
    // kernel/bpf/core.c), and before in areas of their own that BPF has asked for.
    Result<void> add_bpf() {
        const Field node = kernel_.field("bpf_ksym", "lnode"),
                    begin = kernel_.field("bpf_ksym", "start"),
                    end = kernel_.field("bpf_ksym", "end"),
                    is_program = kernel_.field("bpf_ksym", "prog");
        const Field pack_node = kernel_.field("bpf_prog_pack", "list"),
                    pack = kernel_.field("bpf_prog_pack", "ptr");
        if (pack_node.known()) {
            TRY(each(TRY(kernel_.symbol("pack_list")), pack_node,
                     [&](GuestVirt at) -> Result<void> {
                         own_area(TRY(kernel_.read_pointer(at, pack)), {Kind::bpf});
                         return {};
                     }));
        }
        for (const VmallocArea& area : areas_) {
            if (asked_by(area).starts_with("bpf_")) {
                own(area.begin.value, area.size_bytes, {Kind::bpf});
            }
        }
        // They say most, and so the last word.
        TRY(kernel_.require({node, begin, end, is_program}));
        TRY(each(TRY(kernel_.symbol("bpf_kallsyms")), node, [&](GuestVirt at) -> Result<void> {
            const std::uint64_t first = TRY(kernel_.read(at, begin));
            CodeOwner who{Kind::bpf};
            who.is_stub = TRY(kernel_.read(at, is_program)) == 0;
            own(first, TRY(kernel_.read(at, end)) - first, who);
            return {};
        }));
        return {};
    }

    // Those that are called now are a chain from ftrace_ops_list to ftrace_list_end; one that is
    // not called any more may keep its trampoline, in ftrace_ops_trampoline_list (since 5.8;
    // kernel/trace/ftrace.c).
    Result<void> add_ftrace() {
        const Field next = kernel_.field("ftrace_ops", "next"),
                    begin = kernel_.field("ftrace_ops", "trampoline"),
                    size = kernel_.field("ftrace_ops", "trampoline_size");
        TRY(kernel_.require({next, begin, size}));
        const GuestVirt last = TRY(kernel_.symbol("ftrace_list_end"));
        GuestVirt ops =
            TRY(kernel_.memory().read<GuestVirt>(TRY(kernel_.symbol("ftrace_ops_list"))));
        CircleGuard circle;
        for (std::size_t i = 0; ops && ops != last; ++i) {
            if (i > limits::kMaxListSteps || circle.closes_at(ops)) {
                return fail(Code::limit, "ftrace's chain does not come to its end");
            }
            own(TRY(kernel_.read(ops, begin)), TRY(kernel_.read(ops, size)), {Kind::ftrace});
            ops = TRY(kernel_.read_pointer(ops, next));
        }
        const auto kept = kernel_.symbol("ftrace_ops_trampoline_list");
        const Field node = kernel_.field("ftrace_ops", "list");
        if (!kept.has_value() || !node.known()) return {};
        return each(*kept, node, [&](GuestVirt at) -> Result<void> {
            own(TRY(kernel_.read(at, begin)), TRY(kernel_.read(at, size)), {Kind::ftrace});
            return {};
        });
    }

    // struct kprobe_insn_page (kernel/kprobes.c): a page of slots each.
    Result<void> add_kprobes() {
        const Field pages = kernel_.field("kprobe_insn_cache", "pages"),
                    node = kernel_.field("kprobe_insn_page", "list"),
                    code = kernel_.field("kprobe_insn_page", "insns");
        TRY(kernel_.require({pages, node, code}));
        for (const std::string_view cache : {"kprobe_insn_slots", "kprobe_optinsn_slots"}) {
            const auto at = kernel_.symbol(cache);
            if (!at.has_value() && cache == "kprobe_optinsn_slots") continue;  // CONFIG_OPTPROBES=n
            TRY(each(TRY(Result(at)) + pages.offset, node, [&](GuestVirt page) -> Result<void> {
                own(TRY(kernel_.read(page, code)), kPageSize, {Kind::kprobes});
                return {};
            }));
        }
        return {};
    }

    // Where another CPU starts, in the direct map (set_real_mode_permissions(),
    // arch/x86/realmode/init.c).
    Result<void> add_real_mode() {
        const Field text = kernel_.field("real_mode_header", "text_start"),
                    end = kernel_.field("real_mode_header", "ro_end");
        TRY(kernel_.require({text, end}));
        const auto header =
            TRY(kernel_.memory().read<GuestVirt>(TRY(kernel_.symbol("real_mode_header"))));
        const std::uint64_t from = TRY(kernel_.read(header, text)),
                            to = TRY(kernel_.read(header, end));
        // The header lies in the direct map itself, below 1 MiB.
        const std::uint64_t map = header.value & ~std::uint64_t{(1u << 30) - 1};
        own(map + from, to - from, {Kind::cpu_start});
        return {};
    }

    // The page that starts another kernel, for kexec or after a crash, is executable in the direct
    // map as long as that kernel is loaded (machine_kexec_prepare(),
    // arch/x86/kernel/machine_kexec_64.c).
    Result<void> add_kexec() {
        const Field page = kernel_.field("kimage", "control_code_page");
        if (!page.known()) return {};  // CONFIG_KEXEC_CORE=n
        for (const std::string_view image : {"kexec_image", "kexec_crash_image"}) {
            const auto at = kernel_.symbol(image);
            if (!at.has_value()) continue;
            const auto loaded = TRY(kernel_.memory().read<GuestVirt>(*at));
            if (!loaded) continue;
            const GuestPhys control =
                TRY(physical_of_page(kernel_, TRY(kernel_.read_pointer(loaded, page))));
            const GuestVirt shown = TRY(direct_map(kernel_)) + control.value;
            own(shown.value, kKexecCodeBytes, {Kind::kexec});
        }
        return {};
    }

    Result<void> each(GuestVirt head, const Field& node,
                      const std::function<Result<void>(GuestVirt)>& use) {
        Result<void> inside;
        std::size_t count = 0;
        TRY(kernel_.walk_list(head, [&](GuestVirt at) {
            inside = use(at - node.offset);
            return inside.has_value() && ++count < kMaxOwners;
        }));
        return inside;
    }

    const VmallocArea* area_at(GuestVirt at) const {
        auto area = std::ranges::upper_bound(areas_, at, {}, &VmallocArea::begin);
        if (area == areas_.begin()) return nullptr;
        --area;
        return at < area->end() ? &*area : nullptr;
    }
    void own_area(GuestVirt at, const CodeOwner& who) {
        if (const VmallocArea* area = area_at(at)) own(area->begin.value, area->size_bytes, who);
    }
    std::string asked_by(const VmallocArea& area) const {
        if (!area.caller) return "";
        const auto symbol = kernel_.symbols().nearest(area.caller);
        return symbol ? std::string(symbol->name) : fmt::format("{:#x}", area.caller.value);
    }

    void find_strays() {
        IntervalMap<bool> left;  // -> writable
        for (const CodeRange& range : map_.executable) {
            left.assign(range.begin.value, range.end().value, range.writable);
        }
        map_.owners.for_each([&](std::uint64_t begin, std::uint64_t end, const CodeOwner&) {
            left.erase(begin, end);
        });
        left.for_each([&](std::uint64_t begin, std::uint64_t end, bool writable) {
            for (std::uint64_t page = begin; page < end; page += kPageSize) {
                if (holds_traps_only(GuestVirt{page})) continue;
                add_stray(GuestVirt{page}, writable);
            }
        });
    }

    // The kernel fills what is free of an executable area with one-byte breakpoints
    // (execmem_fill_trapping_insns(), arch/x86/mm/init.c, since 6.13): no code is there.
    bool holds_traps_only(GuestVirt page) {
        std::array<std::byte, kPageSize> bytes;
        if (!kernel_.memory().read(page, bytes).has_value()) return false;
        return std::ranges::all_of(bytes, [](std::byte one) { return one == std::byte{0xcc}; });
    }

    void add_stray(GuestVirt page, bool writable) {
        auto& strays = map_.strays;
        if (!strays.empty() && strays.back().range.end() == page &&
            strays.back().range.writable == writable) {
            strays.back().range.size_bytes += kPageSize;
            return;
        }
        const VmallocArea* area = area_at(page);
        strays.push_back({{page, kPageSize, writable}, area == nullptr ? "" : asked_by(*area)});
    }

    Kernel& kernel_;
    CodeMap map_;
    std::vector<VmallocArea> areas_;
};

}  // namespace

std::string CodeOwner::to_text() const {
    switch (kind) {
        case Kind::kernel:
            return "the kernel";
        case Kind::module:
            return "module " + module;
        case Kind::bpf:
            return "BPF";
        case Kind::ftrace:
            return "ftrace";
        case Kind::kprobes:
            return "kprobes";
        case Kind::cpu_start:
            return "the start of CPUs";
        case Kind::kexec:
            return "a kernel to be started by kexec";
    }
    return "?";
}

std::optional<CodeOwner> CodeMap::owner_of(GuestVirt code) const {
    auto found = owners.find(code.value);
    if (!found) return std::nullopt;
    return std::move(found->value);
}

Result<CodeMap> map_code(Kernel& kernel) {
    return Mapper(kernel).map();
}

}  // namespace underseer::guest_linux
