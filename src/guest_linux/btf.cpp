#include "guest_linux/btf.h"

#include <fmt/format.h>

#include "base/limits.h"

namespace underseer::guest_linux {

namespace {

constexpr std::uint16_t kBtfMagic = 0xeb9f;
// Anonymous members nest a few levels deep in the kernel (struct page, struct sk_buff: 4).
constexpr unsigned kMaxAnonymousDepth = 16;
constexpr unsigned kMaxModifiers = 32;
// A forged description may fan out at every level; task_struct has about 300 members in all.
constexpr std::uint32_t kMaxMembersVisited = 1u << 16;

// Bytes that follow the 12-byte fixed part, per kind (Documentation/bpf/btf.rst, 2.2).
std::uint32_t extra_bytes(BtfKind kind, std::uint32_t count) {
    switch (kind) {
        case BtfKind::integer:
        case BtfKind::variable:
        case BtfKind::decl_tag:
            return 4;
        case BtfKind::array:
            return 12;
        case BtfKind::structure:
        case BtfKind::union_:
        case BtfKind::data_section:
        case BtfKind::enumeration64:
            return 12 * count;
        case BtfKind::enumeration:
        case BtfKind::function_prototype:
            return 8 * count;
        default:
            return 0;
    }
}

bool refers_to_type(BtfKind kind) {
    switch (kind) {
        case BtfKind::pointer:
        case BtfKind::type_def:
        case BtfKind::volatile_:
        case BtfKind::const_:
        case BtfKind::restrict_:
        case BtfKind::function:
        case BtfKind::function_prototype:
        case BtfKind::variable:
        case BtfKind::decl_tag:
        case BtfKind::type_tag:
            return true;
        default:
            return false;
    }
}

bool is_modifier(BtfKind kind) {
    switch (kind) {
        case BtfKind::type_def:
        case BtfKind::volatile_:
        case BtfKind::const_:
        case BtfKind::restrict_:
        case BtfKind::type_tag:
            return true;
        default:
            return false;
    }
}

bool is_composite(BtfKind kind) {
    return kind == BtfKind::structure || kind == BtfKind::union_;
}

struct Header {
    std::uint32_t header_bytes = 0, type_offset = 0, type_bytes = 0, string_offset = 0,
                  string_bytes = 0;
    std::uint64_t total_bytes() const {
        return header_bytes + std::max<std::uint64_t>(std::uint64_t{type_offset} + type_bytes,
                                                      std::uint64_t{string_offset} + string_bytes);
    }
};

Result<Header> parse_header(Bytes bytes) {
    ByteCursor cursor(bytes);
    const auto magic = TRY(cursor.read<std::uint16_t>());
    const auto version = TRY(cursor.read<std::uint8_t>());
    TRY(cursor.skip(1));
    Header header;
    header.header_bytes = TRY(cursor.read<std::uint32_t>());
    header.type_offset = TRY(cursor.read<std::uint32_t>());
    header.type_bytes = TRY(cursor.read<std::uint32_t>());
    header.string_offset = TRY(cursor.read<std::uint32_t>());
    header.string_bytes = TRY(cursor.read<std::uint32_t>());
    if (magic != kBtfMagic || version != 1) {
        return fail(Code::malformed,
                    fmt::format("no BTF header: magic {:#x}, version {}", magic, version));
    }
    if (header.header_bytes < Btf::kHeaderBytes || header.header_bytes > 4096 ||
        header.total_bytes() > limits::kMaxBtfBytes || header.type_bytes % 4 != 0 ||
        header.string_bytes == 0) {
        return fail(Code::malformed,
                    fmt::format("BTF header with {} header, {} type and {} string "
                                "bytes",
                                header.header_bytes, header.type_bytes, header.string_bytes));
    }
    return header;
}

}  // namespace

Result<std::uint64_t> Btf::blob_bytes(Bytes header) {
    return TRY(parse_header(header)).total_bytes();
}

Result<Btf> Btf::parse(std::vector<std::byte> blob) {
    const Header header = TRY(parse_header(blob));
    if (header.total_bytes() > blob.size()) {
        return fail(Code::malformed, fmt::format("BTF of {} bytes is cut off after {}",
                                                 header.total_bytes(), blob.size()));
    }
    Btf btf;
    btf.blob_ = std::move(blob);
    btf.type_section_ = header.header_bytes + header.type_offset;
    btf.string_section_ = header.header_bytes + header.string_offset;
    btf.string_bytes_ = header.string_bytes;
    const Bytes whole(btf.blob_);
    if (whole[btf.string_section_] != std::byte{0} ||
        whole[btf.string_section_ + btf.string_bytes_ - 1] != std::byte{0}) {
        return fail(Code::malformed, "BTF strings do not begin and end with NUL");
    }
    TRY(btf.index_types(whole.subspan(btf.type_section_, header.type_bytes)));
    TRY(btf.check_references());
    return btf;
}

Result<void> Btf::index_types(Bytes section) {
    types_.reserve(section.size() / 24);
    types_.emplace_back();  // id 0 is void
    std::uint64_t offset = 0;
    while (offset + 12 <= section.size()) {
        if (types_.size() > limits::kMaxBtfTypes)
            return fail(Code::limit, "BTF has too many types");
        Type type;
        type.name = word(static_cast<std::uint32_t>(offset));
        const std::uint32_t info = word(static_cast<std::uint32_t>(offset + 4));
        type.size_or_type = word(static_cast<std::uint32_t>(offset + 8));
        type.count = static_cast<std::uint16_t>(info & 0xffff);
        type.kind = static_cast<BtfKind>((info >> 24) & 0x1f);
        type.kind_flag = (info >> 31) != 0;
        type.extra = static_cast<std::uint32_t>(offset + 12);
        const auto id = static_cast<std::uint32_t>(types_.size());
        if (type.kind == BtfKind::unknown || type.kind > BtfKind::enumeration64) {
            return fail(Code::malformed, fmt::format("BTF type {} has unknown kind {}", id,
                                                     static_cast<int>(type.kind)));
        }
        if (type.name >= string_bytes_) {
            return fail(Code::malformed, fmt::format("BTF type {} has its name outside", id));
        }
        offset += 12 + extra_bytes(type.kind, type.count);
        if (offset > section.size()) {
            return fail(Code::malformed, fmt::format("BTF type {} is cut off", id));
        }
        if (is_composite(type.kind) && type.name != 0) structs_.emplace(name(type), id);
        const bool is_enumeration =
            type.kind == BtfKind::enumeration || type.kind == BtfKind::enumeration64;
        // One of count 0 is a forward declaration.
        if (is_enumeration && type.name != 0 && type.count != 0) {
            enumerations_.emplace(name(type), id);
        }
        types_.push_back(type);
    }
    return {};
}

Result<void> Btf::check_references() const {
    const std::uint32_t count = type_count();
    for (std::uint32_t id = 1; id < count; ++id) {
        const Type& type = types_[id];
        bool good = !refers_to_type(type.kind) || type.size_or_type < count;
        if (is_composite(type.kind)) {
            for (std::uint32_t i = 0; good && i < type.count; ++i) {
                const RawMember raw = member(type, i);
                good = raw.type < count && raw.name < string_bytes_;
            }
        } else if (type.kind == BtfKind::array) {
            good = word(type.extra) < count && word(type.extra + 4) < count;
        }
        if (!good) {
            return fail(Code::malformed, fmt::format("BTF type {} refers to a type or a name that "
                                                     "does not exist",
                                                     id));
        }
    }
    return {};
}

std::uint32_t Btf::word(std::uint32_t offset) const {
    return load_le<std::uint32_t>(blob_, type_section_ + offset).value_or(0);
}

std::string_view Btf::string_at(std::uint32_t offset) const {
    if (offset >= string_bytes_) return {};
    // The section ends with NUL, so this stops inside it.
    return reinterpret_cast<const char*>(blob_.data()) + string_section_ + offset;
}

Btf::RawMember Btf::member(const Type& structure, std::uint32_t index) const {
    const std::uint32_t at = structure.extra + 12 * index;
    RawMember raw{word(at), word(at + 4), word(at + 8), 0};
    if (structure.kind_flag) {
        raw.bitfield_bits = raw.offset_bits >> 24;
        raw.offset_bits &= 0xffffff;
    }
    return raw;
}

Btf::RawEnumerator Btf::enumerator(const Type& enumeration, std::uint32_t index) const {
    if (enumeration.kind == BtfKind::enumeration64) {
        const std::uint32_t at = enumeration.extra + 12 * index;
        const std::uint64_t value = word(at + 4) | (std::uint64_t{word(at + 8)} << 32);
        return {word(at), static_cast<std::int64_t>(value)};
    }
    const std::uint32_t at = enumeration.extra + 8 * index;
    const std::uint32_t value = word(at + 4);
    return {word(at), enumeration.kind_flag ? static_cast<std::int32_t>(value)
                                            : static_cast<std::int64_t>(value)};
}

std::optional<std::uint32_t> Btf::find_struct(std::string_view name) const {
    const auto found = structs_.find(name);
    if (found == structs_.end()) return std::nullopt;
    return found->second;
}

std::uint32_t Btf::strip(std::uint32_t id) const {
    for (unsigned step = 0; step < kMaxModifiers && is_modifier(types_[id].kind); ++step) {
        id = types_[id].size_or_type;
    }
    return id;
}

std::uint64_t Btf::size_bytes(std::uint32_t id) const {
    std::uint64_t factor = 1;
    for (unsigned step = 0; step < kMaxModifiers; ++step) {
        id = strip(id);
        const Type& type = types_[id];
        if (type.kind == BtfKind::pointer) return factor * 8;
        if (type.kind == BtfKind::array) {
            factor *= word(type.extra + 8);
            id = word(type.extra);
            continue;
        }
        switch (type.kind) {
            case BtfKind::integer:
            case BtfKind::structure:
            case BtfKind::union_:
            case BtfKind::enumeration:
            case BtfKind::enumeration64:
            case BtfKind::floating:
                return factor * type.size_or_type;
            default:
                return 0;
        }
    }
    return 0;
}

std::optional<Btf::Array> Btf::array(std::uint32_t id) const {
    const Type& type = types_[strip(id)];
    if (type.kind != BtfKind::array) return std::nullopt;
    return Array{word(type.extra), word(type.extra + 4), word(type.extra + 8)};
}

std::optional<BtfMember> Btf::find_direct(std::uint32_t struct_id, std::string_view wanted,
                                          unsigned depth, std::uint32_t& budget) const {
    const Type& type = types_[struct_id];
    if (!is_composite(type.kind) || depth > kMaxAnonymousDepth) return std::nullopt;
    for (std::uint32_t i = 0; i < type.count && budget != 0; ++i) {
        --budget;
        const RawMember raw = member(type, i);
        const std::string_view name = string_at(raw.name);
        if (name == wanted) {
            const std::uint64_t bits =
                raw.bitfield_bits != 0 ? raw.bitfield_bits : 8 * size_bytes(raw.type);
            return BtfMember{raw.offset_bits, static_cast<std::uint32_t>(bits), raw.type};
        }
        if (name.empty()) {
            auto inner = find_direct(strip(raw.type), wanted, depth + 1, budget);
            if (inner) {
                inner->offset_bits += raw.offset_bits;
                return inner;
            }
        }
    }
    return std::nullopt;
}

std::optional<BtfMember> Btf::find_member(std::uint32_t struct_id, std::string_view path) const {
    std::uint32_t base_bits = 0;
    std::uint32_t id = strip(struct_id);
    std::uint32_t budget = kMaxMembersVisited;
    for (;;) {
        const std::size_t dot = path.find('.');
        auto found = find_direct(id, path.substr(0, dot), 0, budget);
        if (!found) return std::nullopt;
        found->offset_bits += base_bits;
        if (dot == std::string_view::npos) return found;
        base_bits = found->offset_bits;
        id = strip(found->type);
        path.remove_prefix(dot + 1);
    }
}

std::string_view Btf::enumerator_name(std::string_view enumeration, std::int64_t value) const {
    const auto found = enumerations_.find(enumeration);
    if (found == enumerations_.end()) return {};
    const Type& type = types_[found->second];
    for (std::uint32_t i = 0; i < type.count; ++i) {
        const RawEnumerator raw = enumerator(type, i);
        if (raw.value == value) return string_at(raw.name);
    }
    return {};
}

std::optional<std::int64_t> Btf::enumerator(std::string_view wanted) const {
    for (const Type& type : types_) {
        if (type.kind != BtfKind::enumeration && type.kind != BtfKind::enumeration64) continue;
        for (std::uint32_t i = 0; i < type.count; ++i) {
            const RawEnumerator raw = enumerator(type, i);
            if (string_at(raw.name) == wanted) return raw.value;
        }
    }
    return std::nullopt;
}

}  // namespace underseer::guest_linux
