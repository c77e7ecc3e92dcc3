// kallsyms: the kernel's own symbol table, found in its read-only data without any symbol.
//
// Layouts (scripts/kallsyms.c, kernel/kallsyms.c), all found by their content, never by version:
//   4.20 - 6.3   offsets, relative_base, num_syms, names, markers, [seqs_of_names 6.2+],
//                token_table, token_index
//   6.4 - 6.18   num_syms, names, markers, token_table, token_index, offsets, relative_base, seqs
//   7.0+         as 6.4 without relative_base: offsets[i] is relative to its own address
// Encodings of an offset: absolute if >= 0, else relative_base - 1 - offset (x86-64 SMP
// until 6.14); relative_base + (u32)offset (6.15+, arm64); &offsets[i] + (s32)offset (7.0+).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"

namespace underseer::guest_linux {

struct Symbol {
    GuestVirt address;
    char type = '?';  // as in nm(1): T, t, D, d, B, R, ..
    std::string_view name;
};

class Symbols {
  public:
    enum class Encoding : std::uint8_t { absolute_percpu, base_relative, self_relative };

    Symbols() = default;
    Symbols(Symbols&&) = default;
    Symbols& operator=(Symbols&&) = default;
    Symbols(const Symbols&) = delete;  // some 10 MB
    Symbols& operator=(const Symbols&) = delete;

    // Finds the table in `rodata`, a copy of the kernel's read-only data that is mapped at `at`.
    // TRUST: guest memory; every length and offset is checked, and the table is taken only when its
    // parts agree with each other.
    static Result<Symbols> find(Bytes rodata, GuestVirt at);

    std::optional<GuestVirt> address(std::string_view name) const;  // the first of that name
    // Every one of that name: parts of a kernel may each have something of it. Looks at all
    // symbols.
    std::vector<GuestVirt> addresses(std::string_view name) const;
    // The symbol whose address is the greatest one not above `address`.
    std::optional<Symbol> nearest(GuestVirt address) const;

    // Whether one of those at exactly `address`, where several may be, has a name as asked for.
    bool any_at(GuestVirt address, const std::function<bool(std::string_view)>& is_wanted) const;

    // The least address above `address` that has a symbol.
    std::optional<GuestVirt> after(GuestVirt address) const;

    // Of the first symbol, in the order of addresses, that does not lie below `address`; size()
    // when there is none.
    std::size_t index_of(GuestVirt address) const;
    std::size_t size() const { return entries_.size(); }
    Symbol at(std::size_t index) const;               // REQUIRES: index < size(); in address order
    GuestVirt names_at() const { return names_at_; }  // of kallsyms_names
    // From the first of its tables to behind the last; both 0 where there are none.
    std::pair<GuestVirt, GuestVirt> tables() const { return {tables_begin_, tables_end_}; }
    // Forgets all symbols whose address is not `kept`.
    void keep_only(const std::function<bool(GuestVirt)>& kept);
    Encoding encoding() const { return encoding_; }
    std::string layout_text() const;  // for people: "names before tokens, self-relative"

  private:
    struct Entry {
        std::uint64_t address;
        std::uint32_t name_offset;  // into text_
        std::uint16_t name_bytes;
        char type;
    };
    struct Tables;

    Result<void> decode_names(const Tables& tables);
    Result<void> decode_addresses(const Tables& tables, GuestVirt at);
    void index();
    std::string_view name_of(std::uint32_t entry) const;
    std::optional<std::size_t> place_of(std::string_view name) const;

    std::string text_;
    std::vector<Entry> entries_;  // table order
    std::vector<std::uint32_t> by_address_;
    // A hash table of entries, twice as large as need be: a map of 200,000 names takes 13 MB more.
    std::vector<std::uint32_t> by_name_;
    Encoding encoding_ = Encoding::base_relative;
    bool offsets_first_ = false;
    GuestVirt names_at_, tables_begin_, tables_end_;
};

}  // namespace underseer::guest_linux
