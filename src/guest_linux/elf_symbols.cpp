#include "guest_linux/elf_symbols.h"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <tuple>

#include "base/limits.h"

namespace underseer::guest_linux {

namespace {

constexpr std::uint64_t kSymbolsOfRead = 128;
// Names of C++ may be longer: they are cut.
constexpr std::size_t kMaxNameBytes = 256;
// Of one address: those of a C library have some ten names at most.
constexpr std::size_t kMaxAliases = 32;
// Functions that begin behind the one looked for and before the address: labels, mostly.
constexpr std::size_t kMaxNested = 64;

// The value of PT_DYNAMIC's entries that lead to symbols.
struct DynamicEntries {
    std::uint64_t symbols = 0, names = 0, names_bytes = 0, hash = 0, gnu_hash = 0;
};

Result<DynamicEntries> read_dynamic(const ElfImage& image, const ReadFile& read) {
    if (!image.dynamic()) return fail(Code::not_found, "it is linked statically");
    const ElfImage::Part part = *image.dynamic();
    DynamicEntries found;
    const std::uint64_t count =
        std::min<std::uint64_t>(part.size_bytes / sizeof(Elf64_Dyn), limits::kMaxElfDynamicEntries);
    for (std::uint64_t i = 0; i < count; ++i) {
        Elf64_Dyn entry{};
        TRY(image.read(read, part.address + i * sizeof entry,
                       std::as_writable_bytes(std::span(&entry, 1))));
        if (entry.d_tag == DT_NULL) break;
        if (entry.d_tag == DT_SYMTAB) found.symbols = entry.d_un.d_ptr;
        if (entry.d_tag == DT_STRTAB) found.names = entry.d_un.d_ptr;
        if (entry.d_tag == DT_STRSZ) found.names_bytes = entry.d_un.d_val;
        if (entry.d_tag == DT_HASH) found.hash = entry.d_un.d_ptr;
        if (entry.d_tag == DT_GNU_HASH) found.gnu_hash = entry.d_un.d_ptr;
    }
    return found;
}

using ReadNumber = std::function<Result<std::uint32_t>(std::uint64_t address)>;

// The GNU table says where each chain of its buckets begins, and a bit where it ends: the last
// symbol is that of the last chain ("GNU Hash ELF Sections", Oracle's linker blog, 2006).
Result<std::uint64_t> count_by_gnu_hash(const ReadNumber& number, std::uint64_t table,
                                        std::uint64_t most) {
    const std::uint64_t buckets = TRY(number(table)), first = TRY(number(table + 4)),
                        bloom = TRY(number(table + 8));
    if (buckets > most || bloom > most) return fail(Code::limit, "a hash table of symbols is long");
    const std::uint64_t buckets_at = table + 16 + 8 * bloom, chains_at = buckets_at + 4 * buckets;
    std::uint64_t last = 0;
    for (std::uint64_t i = 0; i < buckets; ++i) {
        last = std::max<std::uint64_t>(last, TRY(number(buckets_at + 4 * i)));
    }
    if (last < first) return first;
    for (; last < most; ++last) {
        if ((TRY(number(chains_at + 4 * (last - first))) & 1) != 0) return last + 1;
    }
    return fail(Code::limit, "a hash table of symbols does not come to its end");
}

}  // namespace

Result<ElfSymbols::Table> ElfSymbols::whole_table(const ElfImage& image, const ReadFile& read) {
    const auto sections = TRY(image.sections(read));
    const auto table =
        std::ranges::find(sections, std::uint32_t{SHT_SYMTAB}, &ElfImage::Section::type);
    if (table == sections.end() || table->link >= sections.size()) {
        return fail(Code::not_found, "it is stripped of its symbols");
    }
    const ElfImage::Section& names = sections[table->link];
    return Table{.offset = table->offset,
                 .count = table->size_bytes / sizeof(Elf64_Sym),
                 .names = {names.offset, names.size_bytes}};
}

Result<ElfSymbols::Table> ElfSymbols::dynamic_table(const ElfImage& image, const ReadFile& read,
                                                    std::uint64_t bias,
                                                    std::uint64_t& budget_bytes) {
    const DynamicEntries entries = TRY(read_dynamic(image, read));
    const auto offset_of = [&](std::uint64_t address) -> Result<std::uint64_t> {
        if (const auto offset = image.offset_of(address)) return *offset;
        // glibc's linker makes addresses of them in its own copy (elf/get-dynamic-info.h).
        if (const auto offset = image.offset_of(address - bias)) return *offset;
        return fail(Code::malformed, fmt::format("no segment has its symbols at {:#x}", address));
    };
    const std::uint64_t most = budget_bytes / sizeof(Elf64_Sym);
    const std::uint64_t hash_at =
        TRY(offset_of(entries.hash != 0 ? entries.hash : entries.gnu_hash));
    const ReadNumber number = [&](std::uint64_t offset) -> Result<std::uint32_t> {
        std::uint32_t value = 0;
        if (budget_bytes < sizeof value)
            return fail(Code::limit, "a hash table of symbols is long");
        budget_bytes -= sizeof value;
        TRY(read(offset, std::as_writable_bytes(std::span(&value, 1))));
        return value;
    };
    // The second word of the old table is how many chains it has: one for each symbol.
    const std::uint64_t count = entries.hash != 0 ? TRY(number(hash_at + 4))
                                                  : TRY(count_by_gnu_hash(number, hash_at, most));
    return Table{.offset = TRY(offset_of(entries.symbols)),
                 .count = count,
                 .names = {TRY(offset_of(entries.names)), entries.names_bytes}};
}

void ElfSymbols::add(const ElfImage& image, const ReadFile& read, const Table& table,
                     bool is_dynamic, std::uint64_t& budget_bytes) {
    if (table.count > budget_bytes / sizeof(Elf64_Sym)) {
        is_cut_ = true;
        return;
    }
    budget_bytes -= table.count * sizeof(Elf64_Sym);
    (is_dynamic ? dynamic_names_ : names_) = table.names;
    std::array<Elf64_Sym, kSymbolsOfRead> some{};
    for (std::uint64_t i = 0; i < table.count; i += kSymbolsOfRead) {
        const auto part = std::span(some).first(std::min(kSymbolsOfRead, table.count - i));
        if (!read(table.offset + i * sizeof(Elf64_Sym), std::as_writable_bytes(part)).has_value()) {
            continue;
        }
        for (const Elf64_Sym& symbol : part) {
            const unsigned type = ELF64_ST_TYPE(symbol.st_info);
            if (type != STT_FUNC && type != STT_GNU_IFUNC && type != STT_NOTYPE) continue;
            if (symbol.st_shndx == SHN_UNDEF || symbol.st_name == 0) continue;
            if (!image.is_code(symbol.st_value)) continue;
            symbols_.push_back({.address = symbol.st_value,
                                .size_bytes = static_cast<std::uint32_t>(
                                    std::min<std::uint64_t>(symbol.st_size, ~std::uint32_t{0})),
                                .name = symbol.st_name,
                                .is_dynamic = is_dynamic,
                                .is_local = ELF64_ST_BIND(symbol.st_info) == STB_LOCAL,
                                .is_function = type == STT_FUNC});
        }
    }
}

ElfSymbols ElfSymbols::of(const ElfImage& image, const ReadFile& read, std::uint64_t bias,
                          std::uint64_t& budget_bytes) {
    ElfSymbols symbols;
    if (const auto table = whole_table(image, read); table.has_value()) {
        symbols.add(image, read, *table, false, budget_bytes);
    }
    if (const auto table = dynamic_table(image, read, bias, budget_bytes); table.has_value()) {
        symbols.add(image, read, *table, true, budget_bytes);
    } else if (table.error().code == Code::limit) {
        symbols.is_cut_ = true;
    }
    symbols.symbols_.shrink_to_fit();
    std::ranges::sort(symbols.symbols_, {}, &Symbol::address);
    return symbols;
}

Result<std::string> ElfSymbols::name_of(const ReadFile& read, const Symbol& symbol) const {
    const Names& names = symbol.is_dynamic ? dynamic_names_ : names_;
    if (symbol.name >= names.size_bytes) return fail(Code::malformed, "a symbol has no name");
    std::string name(std::min<std::uint64_t>(kMaxNameBytes, names.size_bytes - symbol.name), '\0');
    std::size_t known = 0;
    // In steps, as what lies behind it may not be in memory.
    constexpr std::size_t kStep = 32;
    while (known < name.size()) {
        const std::size_t bytes = std::min(kStep, name.size() - known);
        TRY(read(names.offset + symbol.name + known,
                 std::as_writable_bytes(std::span(name)).subspan(known, bytes)));
        const std::size_t end = name.find('\0', known);
        known += bytes;
        if (end >= known) continue;
        name.resize(end);
        break;
    }
    if (name.empty()) return fail(Code::malformed, "a symbol has no name");
    return name;
}

namespace {

// Of the names of one function that which people know is the least: "read", not "__libc_read".
auto rank_of(bool has_size, bool is_local, const std::string& name) {
    const std::size_t underscores = std::min(name.find_first_not_of('_'), name.size());
    return std::tuple(!has_size, underscores, is_local, name.size(), name);
}

}  // namespace

std::vector<ElfSymbols::Function> ElfSymbols::functions(
    const ReadFile& read, const std::function<bool(std::string_view)>& is_wanted,
    std::uint64_t& unread) const {
    std::vector<Function> found;
    auto best = rank_of(false, true, "");
    for (const Symbol& symbol : symbols_) {
        if (!symbol.is_function) continue;
        auto name = name_of(read, symbol);
        if (!name.has_value()) {
            ++unread;
            continue;
        }
        if (!is_wanted(*name)) continue;
        auto rank = rank_of(symbol.size_bytes != 0, symbol.is_local, *name);
        if (found.empty() || found.back().address != symbol.address) {
            found.push_back({symbol.address, std::move(*name)});
        } else if (rank < best) {
            found.back().name = std::move(*name);
        } else {
            continue;
        }
        best = std::move(rank);
    }
    return found;
}

Result<ElfSymbols::Found> ElfSymbols::find(const ReadFile& read, std::uint64_t address,
                                           std::optional<Bounds> bounds) const {
    const auto covers = [&](const Symbol& symbol) {
        if (symbol.size_bytes != 0) return address - symbol.address < symbol.size_bytes;
        return bounds && symbol.address >= bounds->begin && symbol.address < bounds->end;
    };
    const auto after = std::ranges::upper_bound(symbols_, address, {}, &Symbol::address);
    auto last = after;
    for (std::size_t i = 0; i < kMaxNested && last != symbols_.begin(); ++i) {
        if (covers(*--last)) break;
    }
    if (last == after || !covers(*last)) {
        return fail(Code::not_found, "no symbol is known there");
    }
    Result<Found> best = fail(Code::not_found, "no symbol is known there");
    auto best_rank = rank_of(false, true, "");
    for (std::size_t i = 0; i < kMaxAliases; ++i) {
        const auto name = name_of(read, *last);
        if (name.has_value() && covers(*last)) {
            auto rank = rank_of(last->size_bytes != 0, last->is_local, *name);
            if (!best.has_value() || rank < best_rank) {
                best = Found{*name, address - last->address};
                best_rank = std::move(rank);
            }
        } else if (!name.has_value() && !best.has_value()) {
            best = fail(name.error());
        }
        if (last == symbols_.begin() || std::prev(last)->address != last->address) break;
        --last;
    }
    return best;
}

}  // namespace underseer::guest_linux
