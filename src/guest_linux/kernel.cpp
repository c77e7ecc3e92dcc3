#include "guest_linux/kernel.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "guest_linux/build_id.h"
#include "guest_linux/symbol_ladder.h"
#include "guest_linux/task_layout.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kMaxTextBytes = 4096;  // of a char array: names have less than a hundred
constexpr unsigned kMaxCpus = 8192;          // NR_CPUS of the largest distribution kernels
constexpr unsigned kDerivations = 4;
constexpr std::uint64_t kNanosPerSecond = 1'000'000'000;
// arch/x86/include/asm/page_64_types.h: __START_KERNEL_map, and where an image without KASLR begins
// (CONFIG_PHYSICAL_START is 16 MiB).
constexpr std::uint64_t kStartKernelMap = 0xffffffff80000000, kLinkedBegin = 0xffffffff81000000;
constexpr std::string_view kBtfHeaderStart("\x9f\xeb\x01\x00\x18\x00\x00\x00", 8);

// The last bit before the dot-separated member that is asked for.
std::uint64_t low_bits(std::uint64_t value, unsigned count) {
    return count >= 64 ? value : value & ((1ull << count) - 1);
}

}  // namespace

Kernel::Kernel(KernelImage image, guest_memory::GuestMemory* memory, Lacking lacking)
    : image_(std::move(image)), memory_(memory, image_.space), lacking_(std::move(lacking)) {}

Result<std::unique_ptr<Kernel>> Kernel::attach(guest_memory::GuestMemory* memory, Known known,
                                               Lacking lacking) {
    auto images = TRY(find_kernel_images(*memory, top_tables_of(known.cpus)));
    struct Rank {
        bool runs = false;  // a CPU says so
        std::uint64_t clock = 0;
        auto operator<=>(const Rank&) const = default;
    };
    std::unique_ptr<Kernel> best;
    Rank best_rank;
    std::vector<std::unique_ptr<Kernel>> others;
    std::vector<std::string> passed_over;
    Error last_error;
    bool run_but_unread = false;
    for (KernelImage& image : images) {
        const bool runs = hear_cpus(*memory, image, known.cpus).count(Testimony::runs_it) > 0;
        std::unique_ptr<Kernel> kernel(new Kernel(std::move(image), memory, lacking));
        auto loaded = kernel->load(known.remains);
        if (!loaded.has_value()) {
            Error error = std::move(std::move(loaded).error()).with_context(kernel->who());
            passed_over.push_back(error.to_text());
            if (runs || !run_but_unread) last_error = std::move(error);
            run_but_unread |= runs;
            continue;
        }
        const Rank rank{runs, kernel->wall_clock().value_or(0)};
        if (!best || rank > best_rank) {
            std::swap(best, kernel);
            best_rank = rank;
        }
        if (kernel) others.push_back(std::move(kernel));
    }
    // What the CPUs do not run is no answer, even when it is all that can be read.
    if (!best || (run_but_unread && !best_rank.runs)) return fail(std::move(last_error));
    for (const auto& other : others) {
        passed_over.push_back(fmt::format(
            "another kernel in RAM, {}: {}",
            best_rank.runs ? "which no CPU runs" : "with an older clock", other->who()));
        if (!best_rank.runs) continue;
        if (auto unrun = other->as_unrun(); unrun.has_value()) best->unrun_.push_back(*unrun);
    }
    std::ranges::move(passed_over, std::back_inserter(best->notes_));
    return best;
}

Result<void> Kernel::load(std::span<const VitalSigns> remains) {
    TRY(load_symbols());
    load_vmcoreinfo();
    choose_root();
    check_vmcoreinfo();
    TRY(load_types());
    find_missing_symbols(*this, rodata_, rodata_extent_.virt);
    find_build_id_note();
    if (types_.type_count() == 0) TRY(derive_layout());
    rodata_ = {};
    return check_alive(remains);
}

std::string Kernel::who() const {
    return fmt::format("{} at {:#x}", image_.release(), image_.space.root.value);
}

Result<UnrunKernel> Kernel::as_unrun() const {
    const GuestPhys banner_at = TRY(image_.phys_of(image_.banner_virt)),
                    ticks_at = TRY(image_.phys_of(TRY(symbol("jiffies_64"))));
    return UnrunKernel{.release = image_.release(),
                       .banner = image_.banner,
                       .root = image_.space.root,
                       .banner_at = banner_at,
                       .ticks_at = ticks_at};
}

Result<void> Kernel::check_alive(std::span<const VitalSigns> remains) {
    if (!memory_.physical().live()) return {};
    const VitalSigns signs = TRY(read_vital_signs(*this));
    for (const VitalSigns& other : remains) {
        if (signs.is_remains_of(other)) {
            return fail(Code::unavailable,
                        "the guest is booting: this is what a kernel that has ended left in RAM");
        }
    }
    return {};
}

Result<std::vector<std::byte>> Kernel::read_rodata(const ImageExtent& extent) {
    std::vector<std::byte> bytes(extent.size_bytes);
    TRY(memory_.physical().read(extent.phys, bytes));
    return bytes;
}

Result<void> Kernel::load_symbols() {
    Error last{Code::not_found, 0, "the image has no read-only data"};
    for (const ImageExtent& extent : image_.extents) {
        if (extent.writable || extent.executable || extent.size_bytes < (1u << 20)) continue;
        auto bytes = read_rodata(extent);
        if (!bytes.has_value()) {
            last = std::move(bytes).error();
            continue;
        }
        auto symbols = Symbols::find(*bytes, extent.virt);
        if (!symbols.has_value()) {
            last = std::move(symbols).error();
            continue;
        }
        symbols_ = std::move(*symbols);
        // scripts/kallsyms.c, symbol_valid(): without KALLSYMS_ALL only what lies in text.
        if (lacking_.data_symbols) {
            symbols_.keep_only([&](GuestVirt address) { return image_.executable(address); });
        }
        rodata_ = std::move(*bytes);
        rodata_extent_ = extent;
        notes_.push_back(fmt::format("kernel found by: {}", image_.found_by));
        notes_.push_back(fmt::format("kallsyms: {}", symbols_.layout_text()));
        if (const auto banner = symbols_.address("linux_banner")) {
            auto text = memory_.read_cstring(*banner, 512);
            if (text.has_value() && text->starts_with("Linux version ")) {
                while (!text->empty() && text->back() == '\n') text->pop_back();
                image_.banner = std::move(*text);
                image_.banner_virt = *banner;
            }
        }
        return {};
    }
    return fail(std::move(last));
}

void Kernel::load_vmcoreinfo() {
    auto info = find_vmcoreinfo(memory_, image_, symbols_);
    if (info.has_value()) {
        vmcoreinfo_ = std::move(*info);
    } else {
        notes_.push_back(fmt::format("VMCOREINFO: {}", info.error().to_text()));
    }
}

// Whether the page is a top table of this kernel: all of them have the same last entry.
bool Kernel::leads_to_image(GuestPhys root) {
    std::uint64_t own = 0, other = 1;
    const auto read = [&](GuestPhys table, std::uint64_t& entry) {
        return memory_.physical()
            .read(table + 511 * 8, std::as_writable_bytes(std::span(&entry, 1)))
            .has_value();
    };
    return read(image_.space.root, own) && read(root, other) && own == other;
}

// Freed init memory stays mapped in the image, so a process table can lie there (without page-table
// isolation, arch/x86/mm/init.c, free_kernel_image_pages), and it looks like the kernel's own until
// its process ends. The kernel's own has a name, which the image map leads to without any root.
void Kernel::choose_root() {
    for (const std::string_view name : {"init_top_pgt", "swapper_pg_dir"}) {
        auto address = symbols_.address(name);
        std::string_view source = "kallsyms";
        if (!address && vmcoreinfo_) {
            address = vmcoreinfo_->symbol(name);
            source = "VMCOREINFO";
        }
        if (!address) continue;
        const auto root = image_.phys_of(*address);
        if (root.has_value() && *root == image_.space.root) return;
        if (!root.has_value() || root->value % kPageSize != 0 || !leads_to_image(*root)) {
            notes_.push_back(
                fmt::format("page tables: {} of {} is none, and not followed", name, source));
            continue;
        }
        notes_.push_back(
            fmt::format("page tables: {} of {}, not the copy at {:#x} that was found first", name,
                        source, image_.space.root.value));
        image_.space.root = *root;
        memory_ = VirtualMemory(&memory_.physical(), image_.space);
        return;
    }
}

// What VMCOREINFO says and the page tables, the image or kallsyms do not: told, never followed.
void Kernel::check_vmcoreinfo() {
    if (!vmcoreinfo_) return;
    unsigned agreed = 0;
    const auto compare = [&](std::string_view what, const auto& said, const auto& true_value) {
        if (said == true_value) {
            ++agreed;
            return;
        }
        notes_.push_back(
            fmt::format("VMCOREINFO is wrong or forged, and not followed: it says {} "
                        "is {}, but it is {}",
                        what, said, true_value));
    };
    const auto hex = [](std::uint64_t value) { return fmt::format("{:#x}", value); };
    if (const auto said = vmcoreinfo_->text("OSRELEASE")) {
        compare("the release", std::string(*said), image_.release());
    }
    if (const auto said = vmcoreinfo_->kernel_offset()) {
        compare("the KASLR offset", hex(*said), hex(image_.begin().value - kLinkedBegin));
    }
    // phys = virt - __START_KERNEL_map + phys_base (arch/x86/include/asm/page_64.h)
    if (const auto said = vmcoreinfo_->number("phys_base")) {
        const ImageExtent& first = image_.extents.front();
        compare("phys_base", hex(static_cast<std::uint64_t>(*said)),
                hex(first.phys.value - (first.virt.value - kStartKernelMap)));
    }
    if (const auto said = vmcoreinfo_->number("pgtable_l5_enabled")) {
        compare("pgtable_l5_enabled", *said, std::int64_t{image_.space.levels == 5});
    }
    for (const std::string_view name :
         {"_stext", "init_uts_ns", "swapper_pg_dir", "init_top_pgt"}) {
        const auto said = vmcoreinfo_->symbol(name);
        const auto known = symbols_.address(name);
        if (said && known) compare(name, hex(said->value), hex(known->value));
    }
    if (const auto said = vmcoreinfo_->symbol("kallsyms_names")) {
        compare("kallsyms_names", hex(said->value), hex(symbols_.names_at().value));
    }
    notes_.push_back(fmt::format("VMCOREINFO: {} statements confirmed", agreed));
}

Result<void> Kernel::load_types() {
    if (lacking_.types) return {};
    const auto begin = symbols_.address("__start_BTF");
    const auto end = symbols_.address("__stop_BTF");
    const std::string_view text = as_text(rodata_);
    const auto parse_at = [&](std::size_t offset) -> Result<Btf> {
        const Bytes rest = Bytes(rodata_).subspan(offset);
        const std::uint64_t size = TRY(Btf::blob_bytes(rest));
        if (size > rest.size())
            return fail(Code::malformed, "BTF reaches behind the read-only data");
        return Btf::parse({rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(size)});
    };
    const auto usable = [](const Result<Btf>& btf) {
        return btf.has_value() && btf->find_struct("task_struct").has_value();
    };
    if (begin && end && *begin >= rodata_extent_.virt &&
        *end <= rodata_extent_.virt + rodata_extent_.size_bytes) {
        const std::size_t at = *begin - rodata_extent_.virt;
        auto btf = parse_at(at);
        if (usable(btf)) {
            types_ = std::move(*btf);
            types_at_ = at;
            notes_.push_back(fmt::format("BTF: {} types, at __start_BTF", types_.type_count()));
            return {};
        }
    }
    for (std::size_t at = text.find(kBtfHeaderStart); at != std::string_view::npos;
         at = text.find(kBtfHeaderStart, at + 1)) {
        auto btf = parse_at(at);
        if (!usable(btf)) continue;
        types_ = std::move(*btf);
        types_at_ = at;
        notes_.push_back(fmt::format("BTF: {} types, found by its header", types_.type_count()));
        return {};
    }
    if (begin && end) {
        return fail(
            Code::unavailable,
            "the kernel's BTF is damaged: it is being unpacked, or what is left of a kernel "
            "is being overwritten, as while the guest is booting");
    }
    return {};
}

// The rung below BTF.
Result<void> Kernel::derive_layout() {
    auto layout = derive_task_layout(*this);
    // A list that changes while it is walked leads nowhere: that is timing, and tried again.
    for (unsigned i = 1; i < kDerivations && !layout.has_value() && memory_.physical().live();
         ++i) {
        forget();
        layout = derive_task_layout(*this);
    }
    if (!layout.has_value()) {
        return fail(std::move(layout).error().with_context(
            "the kernel maps no BTF (CONFIG_DEBUG_INFO_BTF is off), and the layout of its tasks "
            "cannot be derived"));
    }
    derived_ = std::move(*layout);
    notes_.push_back(
        fmt::format("no BTF: {} members of task_struct and signal_struct derived from "
                    "the tasks themselves, all others are unavailable",
                    derived_.size()));
    return {};
}

Result<void> Kernel::require_types() const {
    if (types_.type_count() != 0) return {};
    return fail(Code::unavailable,
                "the kernel maps no BTF (CONFIG_DEBUG_INFO_BTF is off), so the layout of its "
                "structures is not known");
}

Unexpected Kernel::no_member(const Field& field) const {
    return fail(Code::unavailable,
                types_.type_count() != 0
                    ? fmt::format("this kernel's types have no member {}", field.name)
                    : fmt::format("no BTF, and the place of {} cannot be derived", field.name));
}

Result<GuestVirt> Kernel::symbol(std::string_view name) const {
    return symbol({name});
}

Result<GuestVirt> Kernel::symbol(std::initializer_list<std::string_view> names) const {
    for (const std::string_view name : names) {
        if (const auto address = symbols_.address(name)) return *address;
        if (const auto found = adopted_.find(name); found != adopted_.end()) return found->second;
    }
    return fail(Code::unavailable, fmt::format("this kernel has no symbol {}", *names.begin()));
}

void Kernel::adopt_symbol(std::string_view name, GuestVirt address, std::string_view found_by) {
    adopted_.emplace(name, address);
    notes_.push_back(fmt::format("{} is not in kallsyms, found by: {}", name, found_by));
}

Field Kernel::field(std::string_view structure,
                    std::initializer_list<std::string_view> paths) const {
    const auto id = types_.find_struct(structure);
    if (!id) {
        const auto derived = derived_.find(fmt::format("{}.{}", structure, *paths.begin()));
        if (derived == derived_.end()) return {.name = *paths.begin()};
        Field result = derived->second;
        result.name = *paths.begin();
        return result;
    }
    for (const std::string_view path : paths) {
        const auto member = types_.find_member(*id, path);
        if (!member) continue;
        Field result{.name = *paths.begin(), .offset = member->offset_bits / 8};
        const bool bitfield = member->size_bits % 8 != 0 || member->offset_bits % 8 != 0;
        if (bitfield) {
            result.bit_shift = static_cast<std::uint8_t>(member->offset_bits % 8);
            result.bit_count = static_cast<std::uint8_t>(std::min(member->size_bits, 56u));
        } else {
            result.size_bytes = member->size_bits / 8;
            // A flexible array has no size of its own; its place is what counts.
            if (result.size_bytes == 0) result.size_bytes = 8;
        }
        if (lacking_.alter) lacking_.alter(structure, path, result);
        if (result.known()) return result;
    }
    return {.name = *paths.begin()};
}

std::uint64_t Kernel::size_of(std::string_view structure) const {
    const auto id = types_.find_struct(structure);
    Field whole{.name = structure, .offset = 0};
    // BTF has 32 bits for the size of a struct.
    if (id) whole.size_bytes = static_cast<std::uint32_t>(types_.size_bytes(*id));
    if (lacking_.alter) lacking_.alter(structure, "", whole);
    return whole.size_bytes;
}

Result<std::uint64_t> Kernel::require_size_of(std::string_view structure) const {
    const std::uint64_t bytes = size_of(structure);
    if (bytes != 0) return bytes;
    return fail(Code::unavailable, fmt::format("this kernel's types have no struct {}", structure));
}

Result<void> Kernel::require(std::initializer_list<Field> fields) const {
    for (const Field& field : fields) {
        if (!field.known()) return no_member(field);
    }
    return {};
}

Result<std::uint64_t> Kernel::read(GuestVirt object, const Field& field) {
    if (!field.known()) return no_member(field);
    std::uint64_t value = 0;
    if (field.bit_count != 0) {
        const unsigned bytes = (field.bit_shift + field.bit_count + 7u) / 8;
        TRY(memory_.read(object + field.offset, {reinterpret_cast<std::byte*>(&value), bytes}));
        return low_bits(value >> field.bit_shift, field.bit_count);
    }
    const std::size_t bytes = std::min<std::size_t>(field.size_bytes, sizeof value);
    TRY(memory_.read(object + field.offset, {reinterpret_cast<std::byte*>(&value), bytes}));
    return value;
}

Result<GuestVirt> Kernel::read_pointer(GuestVirt object, const Field& field) {
    return GuestVirt{TRY(read(object, field))};
}

Result<std::string> Kernel::read_text(GuestVirt object, const Field& field) {
    if (!field.known()) return no_member(field);
    return memory_.read_cstring(object + field.offset,
                                std::min<std::size_t>(field.size_bytes, kMaxTextBytes));
}

Result<GuestVirt> Kernel::per_cpu(GuestVirt variable, unsigned cpu) {
    const GuestVirt offsets = TRY(symbol("__per_cpu_offset"));
    const auto offset = TRY(memory_.read<std::uint64_t>(offsets + 8ull * cpu));
    return variable + offset;
}

Result<std::vector<unsigned>> Kernel::possible_cpus() {
    const GuestVirt mask = TRY(symbol("__cpu_possible_mask"));
    const std::uint64_t known_bytes = size_of("cpumask");
    const std::uint64_t bytes =
        std::min<std::uint64_t>(known_bytes != 0 ? known_bytes : 8, kMaxCpus / 8);
    std::vector<std::uint64_t> words(std::max<std::uint64_t>(bytes / 8, 1));
    TRY(memory_.read(mask, std::as_writable_bytes(std::span(words))));
    std::vector<unsigned> cpus;
    for (std::size_t word = 0; word < words.size(); ++word) {
        for (std::uint64_t bits = words[word]; bits != 0; bits &= bits - 1) {
            cpus.push_back(static_cast<unsigned>(64 * word) +
                           static_cast<unsigned>(std::countr_zero(bits)));
        }
    }
    // A kernel runs on one at least: with none, whoever asks what runs there would be told
    // "nobody".
    if (cpus.empty()) return fail(Code::malformed, "the guest says that it has no CPU");
    return cpus;
}

// tk_core is {seqcount, timekeeper, ..}: a struct without a name until 6.12, tk_data since, an
// array of them named timekeeper_data since 6.17 (kernel/time/timekeeping.c).
std::uint64_t Kernel::timekeeper_offset() const {
    if (const Field inside = field("tk_data", "timekeeper"); inside.known()) return inside.offset;
    // Without a name: the sequence counter, padded to the timekeeper's alignment of 8. It has a
    // pointer to its lock in a PREEMPT_RT kernel.
    const std::uint64_t seq = size_of("seqcount_raw_spinlock");
    return seq == 0 ? Field::kNowhere : (seq + 7) / 8 * 8;
}

Result<GuestVirt> Kernel::timekeeper() const {
    return TRY(symbol({"tk_core", "timekeeper_data"})) + timekeeper_offset();
}

Result<std::uint64_t> Kernel::boot_time() {
    const GuestVirt tk = TRY(timekeeper());
    const std::uint64_t real = TRY(read(tk, field("timekeeper", "offs_real")));
    const std::uint64_t boot = TRY(read(tk, field("timekeeper", "offs_boot")));
    return real - boot;
}

Result<std::uint64_t> Kernel::wall_clock() {
    const GuestVirt tk = TRY(timekeeper());
    return TRY(read(tk, field("timekeeper", "xtime_sec"))) * kNanosPerSecond;
}

Result<std::string> Kernel::build_id() {
    if (!build_id_note_.empty()) return build_id_note_;
    const GuestVirt begin = TRY(symbol("__start_notes"));
    const GuestVirt end = TRY(symbol("__stop_notes"));
    if (end < begin || end - begin > (1u << 16))
        return fail(Code::malformed, "notes are too large");
    std::vector<std::byte> notes(end - begin);
    TRY(memory_.read(begin, notes));
    std::string id = TRY(build_id_in(notes));
    if (id.empty()) return fail(Code::unavailable, "the image carries no build id");
    return id;
}

// Without their symbols: by the note's header. Others lie around it, those of the vDSO images
// before and, in the memory that the alignment of the read-only data had wasted (mark_rodata_ro(),
// arch/x86/mm/init_64.c), whatever uses that now, such as a program's file. The kernel's own are
// the last before its BTF (include/asm-generic/vmlinux.lds.h, RO_DATA); where there is none, the
// one that VMCOREINFO tells of.
void Kernel::find_build_id_note() {
    static constexpr std::string_view kHeader("\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0", 16);
    if (symbol("__start_notes").has_value()) return;
    const std::string_view text = as_text(rodata_);
    const auto id_at = [&](std::size_t at) {
        return build_id_in(Bytes(rodata_).subspan(at)).value_or("");
    };
    if (types_at_) {
        const std::size_t at = text.rfind(kHeader, *types_at_);
        if (at != std::string_view::npos) build_id_note_ = id_at(at);
        return;
    }
    const auto said = vmcoreinfo_ ? vmcoreinfo_->text("BUILD-ID") : std::nullopt;
    if (!said) return;
    for (std::size_t at = text.find(kHeader); at != std::string_view::npos;
         at = text.find(kHeader, at + 1)) {
        if (id_at(at) != *said) continue;
        build_id_note_ = *said;
        return;
    }
}

// With page-table isolation the page after the top table is the one that user mode runs on; its
// kernel half then leads to tables of its own, outside the image (arch/x86/mm/pti.c).
Result<bool> Kernel::page_table_isolation() {
    std::array<std::uint64_t, 256> kernel_half;
    TRY(memory_.physical().read(image_.space.root + kPageSize + 8 * kernel_half.size(),
                                std::as_writable_bytes(std::span(kernel_half))));
    for (const std::uint64_t entry : kernel_half) {
        if ((entry & kPtePresent) == 0) continue;
        const GuestPhys target = entry_target(entry);
        const bool inside = std::ranges::any_of(image_.extents, [&](const ImageExtent& extent) {
            return target >= extent.phys && target < extent.phys + extent.size_bytes;
        });
        if (!inside) return true;
    }
    return false;
}

event::SystemInfo Kernel::info() {
    event::SystemInfo info;
    info.banner = image_.banner;
    info.kernel_release = image_.release();
    info.build_id = observed(build_id());
    info.boot_time = observed(boot_time());
    info.wall_clock = observed(wall_clock());
    const auto uts = symbol("init_uts_ns");
    if (uts.has_value()) {
        info.host_name = observed(read_text(*uts, field("uts_namespace", "name.nodename")));
    }
    info.kaslr_slide_bytes = image_.begin().value - kLinkedBegin;
    info.physical_base = image_.extents.front().phys.value;
    info.page_table_root = image_.space.root.value;
    info.page_table_levels = image_.space.levels;
    info.page_table_isolation = observed(page_table_isolation());
    info.cpus = observed(possible_cpus().and_then([](const std::vector<unsigned>& cpus) {
        return Result<std::uint32_t>(static_cast<std::uint32_t>(cpus.size()));
    }));
    info.symbol_count = symbols_.size();
    info.type_count = types_.type_count();
    info.notes = notes_;
    return info;
}

}  // namespace underseer::guest_linux
