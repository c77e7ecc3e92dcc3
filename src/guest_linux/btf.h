// BTF: the kernel's own description of its types, parsed from the blob that the running kernel
// maps. Format: Documentation/bpf/btf.rst of Linux 6.18, kinds 1 to 19.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/bytes.h"

namespace underseer::guest_linux {

enum class BtfKind : std::uint8_t {
    unknown,
    integer,
    pointer,
    array,
    structure,
    union_,
    enumeration,
    forward,
    type_def,
    volatile_,
    const_,
    restrict_,
    function,
    function_prototype,
    variable,
    data_section,
    floating,
    decl_tag,
    type_tag,
    enumeration64,
};

// Where a member lies inside its outermost type.
struct BtfMember {
    std::uint32_t offset_bits = 0;
    std::uint32_t size_bits = 0;  // of a bitfield; otherwise 8 * size of the type
    std::uint32_t type = 0;       // id, modifiers and typedefs still on it
};

class Btf {
  public:
    static constexpr std::uint32_t kHeaderBytes = 24;

    // TRUST: `blob` is guest memory. Everything is bounded here; afterwards ids are in range, names
    // end inside the string section and no type refers outside.
    static Result<Btf> parse(std::vector<std::byte> blob);

    // Size of the whole blob that starts with this header (24 bytes are enough).
    static Result<std::uint64_t> blob_bytes(Bytes header);

    struct Type {
        std::uint32_t name = 0;  // offset into the strings
        BtfKind kind = BtfKind::unknown;
        bool kind_flag = false;
        std::uint16_t count = 0;  // members, enumerators, parameters, ..
        std::uint32_t size_or_type = 0;
        std::uint32_t extra = 0;  // offset of what follows the fixed part, in the type section
    };

    std::uint32_t type_count() const { return static_cast<std::uint32_t>(types_.size()); }
    const Type& type(std::uint32_t id) const { return types_[id]; }  // REQUIRES: id < type_count()
    std::string_view name(const Type& type) const { return string_at(type.name); }
    std::string_view string_at(std::uint32_t offset) const;

    // The struct or union of that name (not a forward declaration).
    std::optional<std::uint32_t> find_struct(std::string_view name) const;

    // `path` may go through nested members ("se.cfs_rq"); anonymous structs and unions are
    // transparent. Pointers are not followed.
    std::optional<BtfMember> find_member(std::uint32_t struct_id, std::string_view path) const;

    // Type behind typedefs and const/volatile/restrict/type tags.
    std::uint32_t strip(std::uint32_t id) const;
    // 0 for what has no size (functions, void, forward declarations).
    std::uint64_t size_bytes(std::uint32_t id) const;

    struct Array {
        std::uint32_t element_type = 0;
        std::uint32_t index_type = 0;
        std::uint32_t count = 0;
    };
    std::optional<Array> array(std::uint32_t id) const;

    // Of an integer: bits of BTF_INT_SIGNED, _CHAR, _BOOL (Documentation/bpf/btf.rst).
    std::uint32_t int_encoding(const Type& integer) const {
        return word(integer.extra) >> 24 & 0xf;
    }

    // The name that an enum of that name gives a value; empty when it has none.
    std::string_view enumerator_name(std::string_view enumeration, std::int64_t value) const;

    // Value of an enumerator of any (anonymous or named) enum.
    std::optional<std::int64_t> enumerator(std::string_view name) const;

    struct RawMember {
        std::uint32_t name = 0, type = 0, offset_bits = 0, bitfield_bits = 0;
    };
    RawMember member(const Type& structure, std::uint32_t index) const;
    struct RawEnumerator {
        std::uint32_t name = 0;
        std::int64_t value = 0;
    };
    RawEnumerator enumerator(const Type& enumeration, std::uint32_t index) const;

  private:
    Result<void> index_types(Bytes type_section);
    Result<void> check_references() const;
    std::uint32_t word(std::uint32_t offset) const;
    std::optional<BtfMember> find_direct(std::uint32_t struct_id, std::string_view name,
                                         unsigned depth, std::uint32_t& budget) const;

    std::vector<std::byte> blob_;
    std::uint32_t type_section_ = 0;  // offset in blob_
    std::uint32_t string_section_ = 0;
    std::uint32_t string_bytes_ = 0;
    std::vector<Type> types_;
    std::unordered_map<std::string_view, std::uint32_t> structs_, enumerations_;
};

}  // namespace underseer::guest_linux
