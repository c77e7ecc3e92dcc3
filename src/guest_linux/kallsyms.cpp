#include "guest_linux/kallsyms.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <numeric>

#include "base/limits.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kTokens = 256;
constexpr std::size_t kMaxTokenTableBytes = 0xffff;  // token_index is 16 bits wide
constexpr std::uint32_t kSymbolsPerMarker = 256;
// The tables lie within this distance of token_table: 4 Mi symbols would need more, real kernels
// (100k to 250k symbols) need about 3 MiB.
constexpr std::size_t kSearchBytes = 32u << 20;
constexpr std::uint32_t kNoEntry = 0xffff'ffff;
constexpr std::size_t kMaxCollisions =
    4096;  // of names that nobody has chosen, some ten are enough
constexpr std::uint64_t kKernelHalf = 0xffff800000000000;

std::uint32_t word_at(Bytes bytes, std::size_t offset) {
    return load_le<std::uint32_t>(bytes, offset).value_or(0);
}
std::size_t align_up(std::size_t value, std::size_t to) {
    return (value + to - 1) / to * to;
}

struct TokenTable {
    std::size_t begin = 0;  // of token_table
    std::size_t index = 0;  // of token_index
    std::array<std::uint16_t, kTokens> offsets{};
};

// Start of token 1, counted back from token '0'. Where token 0 begins cannot be seen: what lies
// before it (seqs_of_names of 6.2) may end in any byte.
std::optional<std::size_t> start_of_token_one(Bytes rodata, std::size_t digit_zero) {
    std::size_t begin = digit_zero;
    for (int token = '0' - 1; token >= 1; --token) {
        if (begin < 2 || byte_at(rodata, begin - 1) != 0) return std::nullopt;
        --begin;
        while (begin > 0 && byte_at(rodata, begin - 1) != 0) {
            if (digit_zero - --begin > kMaxTokenTableBytes) return std::nullopt;
        }
    }
    return begin;
}

// The table whose token_index begins at `index` and agrees with every token.
std::optional<TokenTable> table_with_index(Bytes rodata, std::size_t token_one, std::size_t index) {
    if (index + 2 * kTokens > rodata.size()) return std::nullopt;
    const std::size_t first_bytes = load_le<std::uint16_t>(rodata, index + 2).value_or(0);
    if (first_bytes == 0 || first_bytes > token_one) return std::nullopt;
    TokenTable table{token_one - first_bytes, index, {}};
    std::size_t at = table.begin;
    for (std::size_t token = 0; token < kTokens; ++token) {
        table.offsets[token] = static_cast<std::uint16_t>(at - table.begin);
        if (load_le<std::uint16_t>(rodata, index + 2 * token) != table.offsets[token]) {
            return std::nullopt;
        }
        while (at < index && byte_at(rodata, at) != 0) ++at;
        if (++at > index) return std::nullopt;
    }
    return table;
}

// The tokens for the characters '0'..'9' are those characters themselves, so the table holds
// "0\0" "1\0" .. "9\0" at entries 48..57, and token_index follows it (padded to 8).
std::optional<TokenTable> token_table_around(Bytes rodata, std::size_t digit_zero) {
    const auto token_one = start_of_token_one(rodata, digit_zero);
    if (!token_one) return std::nullopt;
    std::size_t end = digit_zero;
    for (std::size_t token = '0'; token < kTokens; ++token) {
        while (end < rodata.size() && byte_at(rodata, end) != 0) ++end;
        if (++end > rodata.size() || end - digit_zero > kMaxTokenTableBytes) return std::nullopt;
    }
    for (std::size_t index = align_up(end, 2); index <= align_up(end, 2) + 8; index += 2) {
        if (const auto table = table_with_index(rodata, *token_one, index)) return table;
    }
    return std::nullopt;
}

std::optional<TokenTable> find_token_table(Bytes rodata, std::size_t& from) {
    static constexpr std::string_view kDigits("0\0001\0002\0003\0004\0005\0006\0007\0008\0009\0",
                                              20);
    const std::string_view text = as_text(rodata);
    while ((from = text.find(kDigits, from)) != std::string_view::npos) {
        auto table = token_table_around(rodata, from);
        ++from;
        if (table) return table;
    }
    return std::nullopt;
}

// One compressed name: its length (one byte, or two as ULEB128 since 6.1), then token numbers.
struct NameSpan {
    std::size_t tokens = 0;  // offset of the first token
    std::size_t count = 0;
    std::size_t next() const { return tokens + count; }
};
std::optional<NameSpan> name_at(Bytes rodata, std::size_t at) {
    if (at + 2 > rodata.size()) return std::nullopt;
    std::size_t count = byte_at(rodata, at++);
    if ((count & 0x80) != 0) count = (count & 0x7f) | (std::size_t{byte_at(rodata, at++)} << 7);
    if (count == 0 || count > limits::kMaxSymbolNameBytes || at + count > rodata.size()) {
        return std::nullopt;
    }
    return NameSpan{at, count};
}

struct Markers {
    std::size_t begin = 0;
    std::uint32_t count = 0;
};

// markers[i] is the offset in names of symbol 256 * i: the first is 0, each step is at least two
// bytes and at most KSYM_NAME_LEN + 2 bytes a symbol.
std::uint32_t marker_run(Bytes rodata, std::size_t begin, std::size_t end) {
    std::uint32_t previous = 0;
    std::uint32_t count = 1;
    for (std::size_t at = begin + 4; at + 4 <= end; at += 4, ++count) {
        const std::uint32_t value = word_at(rodata, at);
        if (value < previous + 2 * kSymbolsPerMarker ||
            value > previous + (limits::kMaxSymbolNameBytes + 2) * kSymbolsPerMarker) {
            break;
        }
        previous = value;
    }
    return count;
}

struct Names {
    std::size_t begin = 0;
    std::uint32_t count = 0;
};

// Whether names that begin here have their 256th, 512th, .. symbol where the markers say.
bool names_agree(Bytes rodata, Names names, Markers markers) {
    std::size_t at = names.begin;
    for (std::uint32_t i = 0; i < names.count; ++i) {
        if (i % kSymbolsPerMarker == 0 &&
            at - names.begin != word_at(rodata, markers.begin + 4 * (i / kSymbolsPerMarker))) {
            return false;
        }
        const auto span = name_at(rodata, at);
        if (!span || span->next() > markers.begin) return false;
        at = span->next();
    }
    return markers.begin - at < 8;  // only padding lies between names and markers
}

// num_syms stands right before names (padded to 4 or 8 bytes), names end at the markers.
std::optional<Names> names_before(Bytes rodata, Markers run) {
    const std::size_t last = word_at(rodata, run.begin + 4 * (run.count - 1));
    const std::size_t slack = (limits::kMaxSymbolNameBytes + 2) * kSymbolsPerMarker + 8;
    if (run.begin < last + 8) return std::nullopt;
    const std::size_t highest = (run.begin - last) & ~std::size_t{3};
    const std::size_t lowest = highest > slack ? highest - slack : 8;
    for (std::size_t begin = highest; begin >= lowest; begin -= 4) {
        for (const std::size_t back : {std::size_t{4}, std::size_t{8}}) {
            const std::uint32_t count = word_at(rodata, begin - back);
            if (back == 8 && word_at(rodata, begin - 4) != 0) continue;
            if ((count + kSymbolsPerMarker - 1) / kSymbolsPerMarker != run.count) continue;
            const Names names{begin, count};
            if (names_agree(rodata, names, run)) return names;
        }
    }
    return std::nullopt;
}

}  // namespace

struct Symbols::Tables {
    Bytes rodata;
    TokenTable tokens;
    Markers markers;
    Names names;
    std::size_t num_syms = 0;  // where it stands

    static std::optional<Tables> around(Bytes rodata, const TokenTable& tokens);
};

std::optional<Symbols::Tables> Symbols::Tables::around(Bytes rodata, const TokenTable& tokens) {
    const std::size_t end = tokens.begin;
    const std::size_t floor = end > kSearchBytes ? end - kSearchBytes : 0;
    // Markers end at token_table, or before the seqs_of_names that 6.2 and 6.3 put between them, so
    // every zero word that starts a long enough run is tried, nearest first.
    for (std::size_t at = end & ~std::size_t{3}; at >= floor + 8; at -= 4) {
        const std::size_t begin = at - 4;
        if (word_at(rodata, begin) != 0) continue;
        Markers markers{begin, marker_run(rodata, begin, end)};
        if (markers.count < 4) continue;
        // What follows the markers may look like one more of them.
        for (int longer = 0; longer < 2 && markers.count >= 4; ++longer, --markers.count) {
            if (const auto names = names_before(rodata, markers)) {
                Tables tables{rodata, tokens, markers, *names, 0};
                tables.num_syms = word_at(rodata, names->begin - 4) == names->count
                                      ? names->begin - 4
                                      : names->begin - 8;
                return tables;
            }
        }
    }
    return std::nullopt;
}

Result<Symbols> Symbols::find(Bytes rodata, GuestVirt at) {
    std::size_t from = 0;
    unsigned candidates = 0;
    while (const auto tokens = find_token_table(rodata, from)) {
        ++candidates;
        const auto tables = Tables::around(rodata, *tokens);
        if (!tables || tables->names.count > limits::kMaxKernelSymbols) continue;
        Symbols symbols;
        TRY(symbols.decode_names(*tables));
        TRY(symbols.decode_addresses(*tables, at));
        symbols.names_at_ = at + tables->names.begin;
        symbols.index();
        return symbols;
    }
    return fail(Code::not_found,
                fmt::format("no kallsyms table in {} bytes of read-only data ({} token tables "
                            "looked at)",
                            rodata.size(), candidates));
}

Result<void> Symbols::decode_names(const Tables& tables) {
    entries_.reserve(tables.names.count);
    text_.reserve(std::size_t{tables.names.count} * 24);
    std::size_t at = tables.names.begin;
    std::array<std::string_view, kTokens> tokens;
    const std::string_view table = as_text(tables.rodata).substr(tables.tokens.begin);
    for (std::size_t token = 0; token < kTokens; ++token) {
        const std::string_view rest = table.substr(tables.tokens.offsets[token]);
        tokens[token] = rest.substr(0, rest.find('\0'));
    }
    for (std::uint32_t i = 0; i < tables.names.count; ++i) {
        const auto span = name_at(tables.rodata, at);
        if (!span) return fail(Code::malformed, fmt::format("kallsyms name {} is cut off", i));
        const std::size_t begin = text_.size();
        for (std::size_t k = 0; k < span->count; ++k) {
            text_ += tokens[byte_at(tables.rodata, span->tokens + k)];
            if (text_.size() - begin > limits::kMaxSymbolNameBytes) {
                return fail(Code::limit, fmt::format("kallsyms name {} is too long", i));
            }
        }
        if (text_.size() == begin) return fail(Code::malformed, "kallsyms name is empty");
        // The first character is the symbol's type.
        entries_.push_back({0, static_cast<std::uint32_t>(begin + 1),
                            static_cast<std::uint16_t>(text_.size() - begin - 1), text_[begin]});
        at = span->next();
    }
    return {};
}

namespace {

// One guess at where the offsets are and what they mean.
struct OffsetGuess {
    std::size_t offsets = 0;
    std::uint64_t base = 0;
    Symbols::Encoding encoding{};
    bool offsets_first = false;
};

std::uint64_t decode_offset(const OffsetGuess& guess, std::uint32_t raw, GuestVirt self) {
    const auto sign_extended =
        static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<std::int32_t>(raw)));
    switch (guess.encoding) {
        case Symbols::Encoding::absolute_percpu:
            return static_cast<std::int32_t>(raw) >= 0 ? raw : guess.base - 1 - sign_extended;
        case Symbols::Encoding::base_relative:
            return guess.base + raw;
        case Symbols::Encoding::self_relative:
            return self.value + sign_extended;
    }
    return 0;
}

// Symbols are sorted by address, and all but per-CPU offsets lie in the kernel half.
bool plausible(const OffsetGuess& guess, Bytes rodata, std::uint32_t count, GuestVirt at) {
    if (guess.offsets + 4 * std::size_t{count} > rodata.size()) return false;
    std::uint64_t previous = 0;
    std::uint32_t kernel = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
        const std::size_t where = guess.offsets + 4 * std::size_t{i};
        const std::uint64_t address = decode_offset(guess, word_at(rodata, where), at + where);
        if (address < previous) return false;
        previous = address;
        kernel += address >= kKernelHalf;
    }
    return kernel > count / 2;
}

}  // namespace

Result<void> Symbols::decode_addresses(const Tables& tables, GuestVirt at) {
    const Bytes rodata = tables.rodata;
    const std::uint32_t count = tables.names.count;
    const std::size_t table_bytes = 4 * std::size_t{count};
    std::vector<OffsetGuess> guesses;
    const auto add = [&](std::size_t offsets, std::size_t base_at, bool first) {
        const auto base = load_le<std::uint64_t>(rodata, base_at);
        if (!base || *base < kKernelHalf) return;
        guesses.push_back({offsets, *base, Encoding::absolute_percpu, first});
        guesses.push_back({offsets, *base, Encoding::base_relative, first});
    };
    // 6.4 and later: behind token_index.
    const std::size_t behind = tables.tokens.index + 2 * kTokens;
    for (const std::size_t offsets : {align_up(behind, 4), align_up(behind, 8)}) {
        add(offsets, align_up(offsets + table_bytes, 8), false);
        guesses.push_back({offsets, 0, Encoding::self_relative, false});
    }
    // Up to 6.3: before num_syms, which follows relative_base.
    const std::size_t base_at = (tables.num_syms - 8) & ~std::size_t{7};
    for (const std::size_t padding : {std::size_t{0}, std::size_t{4}}) {
        if (base_at >= table_bytes + padding) add(base_at - table_bytes - padding, base_at, true);
    }
    for (const OffsetGuess& guess : guesses) {
        if (!plausible(guess, rodata, count, at)) continue;
        encoding_ = guess.encoding;
        offsets_first_ = guess.offsets_first;
        for (std::uint32_t i = 0; i < count; ++i) {
            const std::size_t where = guess.offsets + 4 * std::size_t{i};
            entries_[i].address = decode_offset(guess, word_at(rodata, where), at + where);
        }
        tables_begin_ = at + std::min(guess.offsets, tables.num_syms);
        // Behind the offsets their base, and three bytes for each name (seqs_of_names).
        tables_end_ = guess.offsets_first
                          ? at + behind
                          : at + guess.offsets + table_bytes + 8 + 3 * std::size_t{count};
        return {};
    }
    return fail(
        Code::unsupported,
        fmt::format("kallsyms has {} names but no table of offsets in a known form", count));
}

void Symbols::keep_only(const std::function<bool(GuestVirt)>& kept) {
    std::erase_if(entries_, [&](const Entry& entry) { return !kept({entry.address}); });
    index();
}

void Symbols::index() {
    by_address_.resize(entries_.size());
    std::iota(by_address_.begin(), by_address_.end(), 0u);
    std::ranges::stable_sort(by_address_, {}, [&](std::uint32_t i) { return entries_[i].address; });
    by_name_.assign(std::bit_ceil(2 * entries_.size() + 1), kNoEntry);
    for (std::uint32_t i = 0; i < entries_.size(); ++i) {
        const auto place = place_of(name_of(i));
        if (place && by_name_[*place] == kNoEntry)
            by_name_[*place] = i;  // the first of a name stays
    }
}

std::string_view Symbols::name_of(std::uint32_t entry) const {
    return std::string_view(text_).substr(entries_[entry].name_offset, entries_[entry].name_bytes);
}

// Where in by_name_ a name is, or would be. Of names that somebody has chosen to collide only so
// many have a place; the others are as unknown.
std::optional<std::size_t> Symbols::place_of(std::string_view name) const {
    const std::size_t first = std::hash<std::string_view>{}(name);
    for (std::size_t i = 0; i < std::min(kMaxCollisions, by_name_.size()); ++i) {
        const std::size_t place = (first + i) & (by_name_.size() - 1);
        if (by_name_[place] == kNoEntry || name_of(by_name_[place]) == name) return place;
    }
    return std::nullopt;
}

Symbol Symbols::at(std::size_t index) const {
    const std::uint32_t entry = by_address_[index];
    return {{entries_[entry].address}, entries_[entry].type, name_of(entry)};
}

std::optional<GuestVirt> Symbols::address(std::string_view name) const {
    const auto place = place_of(name);
    if (!place || by_name_[*place] == kNoEntry) return std::nullopt;
    return GuestVirt{entries_[by_name_[*place]].address};
}

std::vector<GuestVirt> Symbols::addresses(std::string_view name) const {
    std::vector<GuestVirt> found;
    for (const std::uint32_t i : by_address_) {
        if (name_of(i) == name) found.push_back(GuestVirt{entries_[i].address});
    }
    return found;
}

std::optional<Symbol> Symbols::nearest(GuestVirt address) const {
    const auto above = std::ranges::upper_bound(
        by_address_, address.value, {}, [&](std::uint32_t i) { return entries_[i].address; });
    if (above == by_address_.begin()) return std::nullopt;
    return at(static_cast<std::size_t>(above - by_address_.begin()) - 1);
}

std::optional<GuestVirt> Symbols::after(GuestVirt address) const {
    const auto above = std::ranges::upper_bound(
        by_address_, address.value, {}, [&](std::uint32_t i) { return entries_[i].address; });
    if (above == by_address_.end()) return std::nullopt;
    return GuestVirt{entries_[*above].address};
}

bool Symbols::any_at(GuestVirt address,
                     const std::function<bool(std::string_view)>& is_wanted) const {
    for (std::size_t i = index_of(address); i < size() && at(i).address == address; ++i) {
        if (is_wanted(at(i).name)) return true;
    }
    return false;
}

std::size_t Symbols::index_of(GuestVirt address) const {
    const auto found = std::ranges::lower_bound(
        by_address_, address.value, {}, [&](std::uint32_t i) { return entries_[i].address; });
    return static_cast<std::size_t>(found - by_address_.begin());
}

std::string Symbols::layout_text() const {
    static constexpr std::array kEncodings{"absolute per-CPU", "base-relative", "self-relative"};
    return fmt::format("{} symbols, offsets {} names, {}", entries_.size(),
                       offsets_first_ ? "before" : "behind",
                       kEncodings[static_cast<std::size_t>(encoding_)]);
}

}  // namespace underseer::guest_linux
