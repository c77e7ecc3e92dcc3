#include "guest_linux/unwind_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "guest_linux/hooks.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kMaxEntryBytes = 32;
constexpr std::uint64_t kSampledParts = 16, kEntriesOfPart = 64;
constexpr std::size_t kMaxRemembered = 1u << 14;
constexpr std::uint32_t kMaxModuleSymbols = 1u << 16;
constexpr std::uint64_t kMaxModuleCodeBytes = 256u << 20;
constexpr std::size_t kElfSymbolBytes = 24;  // Elf64_Sym

std::uint64_t member_of(Bytes bytes, const Field& field) {
    std::uint64_t value = 0;
    if (field.offset >= bytes.size()) return 0;
    std::memcpy(&value, bytes.data() + field.offset,
                std::min<std::size_t>(8, bytes.size() - field.offset));
    if (field.bit_count != 0) {
        return value >> field.bit_shift & ((std::uint64_t{1} << field.bit_count) - 1);
    }
    const unsigned bits = 8 * std::min<unsigned>(field.size_bytes, 8);
    return bits == 64 ? value : value & ((std::uint64_t{1} << bits) - 1);
}

// The types of 6.4 and later, and those before, where the end of a stack is a bit beside them.
OrcType new_type(std::uint64_t number) {
    return number <= static_cast<std::uint64_t>(OrcType::partial_registers)
               ? static_cast<OrcType>(number)
               : OrcType::undefined;
}
OrcType old_type(std::uint64_t number, OrcRegister sp_register, bool is_end) {
    if (sp_register == OrcRegister::none)
        return is_end ? OrcType::end_of_stack : OrcType::undefined;
    return number == 0   ? OrcType::call
           : number == 1 ? OrcType::registers
           : number == 2 ? OrcType::partial_registers
                         : OrcType::undefined;
}

constexpr std::uint64_t kOldPrevSp = 1, kNewPrevSp = 8;

// ORC_REG_* of arch/x86/include/asm/orc_types.h, until 6.12 at least, and in 7.2.
OrcRegister register_of(std::uint64_t number, bool of_7_2) {
    using enum OrcRegister;
    static constexpr std::array kOldNumbers{none, prev_sp, dx,  di,          bp,
                                            sp,   r10,     r13, bp_indirect, sp_indirect};
    static constexpr std::array kNewNumbers{none, ax,  dx,      sp,          bp,         di,
                                            r10,  r13, prev_sp, sp_indirect, bp_indirect};
    if (of_7_2) return number < kNewNumbers.size() ? kNewNumbers[number] : unknown;
    return number < kOldNumbers.size() ? kOldNumbers[number] : unknown;
}

}  // namespace

Result<std::size_t> OrcFormat::entry_bytes_of(const Kernel& kernel) {
    const std::uint64_t bytes = TRY(kernel.require_size_of("orc_entry"));
    if (bytes > kMaxEntryBytes) return fail(Code::malformed, "an ORC entry is too long");
    return bytes;
}

Result<OrcFormat> OrcFormat::of(const Kernel& kernel, Bytes some) {
    OrcFormat format;
    format.bytes_ = TRY(entry_bytes_of(kernel));
    const auto member = [&](std::string_view name) { return kernel.field("orc_entry", name); };
    format.sp_offset_ = member("sp_offset");
    format.bp_offset_ = member("bp_offset");
    format.sp_register_ = member("sp_reg");
    format.bp_register_ = member("bp_reg");
    format.type_ = member("type");
    format.signal_ = member("signal");
    format.end_ = member("end");
    TRY(kernel.require({format.sp_offset_, format.bp_offset_, format.sp_register_,
                        format.bp_register_, format.type_}));
    for (const Field& field : {format.sp_offset_, format.bp_offset_, format.sp_register_,
                               format.bp_register_, format.type_, format.signal_, format.end_}) {
        if (field.bit_shift + field.bit_count > 32) {
            return fail(Code::malformed, fmt::format("{} is no part of an ORC entry", field.name));
        }
    }
    TRY(format.find_numbers(some));
    return format;
}

Result<void> OrcFormat::find_numbers(Bytes some) {
    std::size_t old_ones = 0, new_ones = 0;
    for (; some.size() >= bytes_; some = some.subspan(bytes_)) {
        const std::uint64_t number = member_of(some.first(bytes_), bp_register_);
        if (number == kOldPrevSp) ++old_ones;
        if (number == kNewPrevSp) ++new_ones;
    }
    if ((old_ones == 0) == (new_ones == 0)) {
        return fail(Code::unavailable,
                    "which numbers registers have in this kernel's ORC tables "
                    "is not known");
    }
    numbers_of_7_2_ = new_ones != 0;
    return {};
}

OrcEntry OrcFormat::decode(Bytes entry) const {
    OrcEntry decoded;
    decoded.sp_offset = static_cast<std::int16_t>(member_of(entry, sp_offset_));
    decoded.bp_offset = static_cast<std::int16_t>(member_of(entry, bp_offset_));
    decoded.sp_register = register_of(member_of(entry, sp_register_), numbers_of_7_2_);
    decoded.bp_register = register_of(member_of(entry, bp_register_), numbers_of_7_2_);
    const std::uint64_t type = member_of(entry, type_);
    decoded.type = end_.known() ? old_type(type, decoded.sp_register, member_of(entry, end_) != 0)
                                : new_type(type);
    decoded.is_signal = signal_.known() ? member_of(entry, signal_) != 0
                                        : decoded.type == OrcType::registers ||
                                              decoded.type == OrcType::partial_registers;
    return decoded;
}

Result<UnwindTables> UnwindTables::of(Kernel* kernel, VirtualMemory* live) {
    UnwindTables tables(kernel, live);
    Part text;
    text.begin = TRY(kernel->symbol({"_stext", "_text"}));
    text.end = TRY(kernel->symbol("_etext"));
    const KernelImage& image = kernel->image();
    if (text.begin < image.begin() || text.end > image.end() || text.end <= text.begin) {
        return fail(Code::malformed, "the kernel's code does not lie within its image");
    }
    tables.parts_.push_back(std::move(text));
    if (const auto loaded = tables.load_kernel_tables(); !loaded.has_value()) {
        tables.no_tables_ = loaded.error().to_text();
    }
    tables.load_modules();
    return tables;
}

Result<void> UnwindTables::load_kernel_tables() {
    const std::size_t entry_bytes = TRY(OrcFormat::entry_bytes_of(*kernel_));
    const GuestVirt ips = TRY(kernel_->symbol("__start_orc_unwind_ip")),
                    ips_end = TRY(kernel_->symbol("__stop_orc_unwind_ip")),
                    entries = TRY(kernel_->symbol("__start_orc_unwind")),
                    entries_end = TRY(kernel_->symbol("__stop_orc_unwind"));
    const std::uint64_t count = (ips_end - ips) / sizeof(std::int32_t);
    if (ips_end <= ips || entries_end <= entries || count > limits::kMaxUnwindEntries ||
        (entries_end - entries) / entry_bytes != count) {
        return fail(Code::malformed, "the kernel's two ORC tables are not equally long");
    }
    // Some from every part of the table.
    std::vector<std::byte> some;
    for (std::uint64_t part = 0; part < kSampledParts; ++part) {
        const std::uint64_t first = count * part / kSampledParts;
        std::vector<std::byte> bytes(std::min(count - first, kEntriesOfPart) * entry_bytes);
        TRY(live_->read(entries + first * entry_bytes, bytes));
        some.insert(some.end(), bytes.begin(), bytes.end());
    }
    format_ = TRY(OrcFormat::of(*kernel_, some));
    Part& text = parts_.front();
    text.ips = ips, text.entries = entries, text.count = count;
    return {};
}

Result<UnwindTables::Part> UnwindTables::read_module(GuestVirt module) {
    const Kernel& k = *kernel_;
    Part part;
    part.module = TRY(kernel_->read_text(module, k.field("module", "name")));
    // mem[MOD_TEXT] since 6.4; text_size of what was core_layout before.
    if (const Field memory = k.field("module", "mem"); memory.known()) {
        const GuestVirt text = module + memory.offset;
        part.begin = TRY(kernel_->read_pointer(text, k.field("module_memory", "base")));
        part.end = part.begin + TRY(kernel_->read(text, k.field("module_memory", "size")));
    } else {
        part.begin = TRY(kernel_->read_pointer(module, k.field("module", "core_layout.base")));
        part.end =
            part.begin + TRY(kernel_->read(module, k.field("module", "core_layout.text_size")));
    }
    if (part.end < part.begin || part.end - part.begin > kMaxModuleCodeBytes) {
        return fail(Code::malformed, "a module's code is too long");
    }
    // Without these its code is still known.
    if (auto symbols = kernel_->read_pointer(module, k.field("module", "kallsyms"));
        symbols.has_value()) {
        part.kallsyms = *symbols;
    }
    const auto count = kernel_->read(module, k.field("module", "arch.num_orcs"));
    const auto ips = kernel_->read_pointer(module, k.field("module", "arch.orc_unwind_ip"));
    const auto entries = kernel_->read_pointer(module, k.field("module", "arch.orc_unwind"));
    if (count.has_value() && ips.has_value() && entries.has_value() &&
        *count <= limits::kMaxUnwindEntries) {
        part.ips = *ips, part.entries = *entries, part.count = *count;
    }
    return part;
}

// What cannot be read of them is code of nobody, where a walk ends and says so.
void UnwindTables::load_modules() {
    parts_.resize(1);
    names_.clear();
    const Part& text = parts_.front();
    std::erase_if(found_,
                  [&](const auto& one) { return one.first < text.begin || one.first >= text.end; });
    const auto head = kernel_->symbol("modules");
    const Field list = kernel_->field("module", "list");
    if (!head.has_value() || !list.known()) return;
    (void)kernel_->walk_list(*head, [&](GuestVirt node) {
        if (auto part = read_module(node - list.offset); part.has_value()) {
            parts_.push_back(std::move(*part));
        }
        return true;
    });
}

const UnwindTables::Part* UnwindTables::part_of(GuestVirt at) const {
    for (const Part& part : parts_) {
        if (at >= part.begin && at < part.end) return &part;
    }
    return nullptr;
}

Result<OrcEntry> UnwindTables::find(GuestVirt code) {
    if (const auto known = found_.find(code); known != found_.end()) return known->second;
    const Part* part = part_of(code);
    if (part == nullptr) {
        return fail(Code::unavailable,
                    fmt::format("{:#x} is no code of the kernel or of a module", code.value));
    }
    const OrcEntry entry = TRY(search(*part, code));
    if (found_.size() == kMaxRemembered) found_.clear();
    found_.emplace(code, entry);
    return entry;
}

// Addresses are sorted, each relative to its own place. In a table that somebody has changed the
// search ends somewhere.
Result<OrcEntry> UnwindTables::search(const Part& part, GuestVirt code) {
    if (!no_tables_.empty()) return fail(Code::unavailable, no_tables_);
    if (part.count == 0) {
        return fail(Code::unavailable,
                    fmt::format("module {} has no tables to unwind by", part.module));
    }
    std::uint64_t begin = 0, end = part.count;
    while (begin < end) {
        const std::uint64_t middle = begin + (end - begin) / 2;
        const GuestVirt at = part.ips + middle * sizeof(std::int32_t);
        const auto distance = TRY(live_->read<std::int32_t>(at));
        if (at + static_cast<std::uint64_t>(std::int64_t{distance}) <= code) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    if (begin == 0) return fail(Code::unavailable, "no entry to unwind by");
    std::vector<std::byte> bytes(format_.entry_bytes());
    TRY(live_->read(part.entries + (begin - 1) * bytes.size(), bytes));
    return format_.decode(bytes);
}

UnwindTables::Place UnwindTables::place_of(GuestVirt code) {
    const Part* part = part_of(code);
    if (part == nullptr || part->module.empty()) return {symbol_text(*kernel_, code), ""};
    auto& name = names_[code];
    if (name.empty()) {
        if (names_.size() > kMaxRemembered) {
            names_.clear();
            return {fmt::format("{:#x}", code.value), part->module};
        }
        auto symbol = module_symbol(*part, code);
        name = symbol.has_value() ? std::move(*symbol)
                                  : fmt::format("{}+{:#x}", part->module, code - part->begin);
    }
    return {name, part->module};
}

// struct mod_kallsyms (include/linux/module.h): ELF's symbols of the module, those of data as well.
Result<std::string> UnwindTables::module_symbol(const Part& part, GuestVirt code) {
    const Kernel& k = *kernel_;
    const GuestVirt table =
        TRY(kernel_->read_pointer(part.kallsyms, k.field("mod_kallsyms", "symtab")));
    const GuestVirt names =
        TRY(kernel_->read_pointer(part.kallsyms, k.field("mod_kallsyms", "strtab")));
    const std::uint64_t count =
        TRY(kernel_->read(part.kallsyms, k.field("mod_kallsyms", "num_symtab")));
    if (count > kMaxModuleSymbols) return fail(Code::limit, "a module has too many symbols");
    std::vector<std::byte> symbols(count * kElfSymbolBytes);
    TRY(live_->read(table, symbols));
    std::uint64_t best = 0;
    std::uint32_t name_at = 0;
    for (std::size_t i = 0; i < count; ++i) {
        std::uint32_t name = 0;
        std::uint64_t value = 0;
        std::memcpy(&name, symbols.data() + i * kElfSymbolBytes, sizeof name);
        std::memcpy(&value, symbols.data() + i * kElfSymbolBytes + 8, sizeof value);
        if (value < part.begin.value || value > code.value || value < best || name == 0) continue;
        best = value, name_at = name;
    }
    if (best == 0) return fail(Code::not_found, "no symbol");
    const std::string name = TRY(live_->read_cstring(names + name_at, limits::kMaxSymbolNameBytes));
    if (name.empty()) return fail(Code::not_found, "no symbol");
    return fmt::format("{}+{:#x}", name, code.value - best);
}

}  // namespace underseer::guest_linux
