#include "guest_linux/isf.h"

#include <fmt/format.h>

#include <array>
#include <map>
#include <set>
#include <unordered_set>

#include "json/writer.h"

namespace underseer::guest_linux {

namespace {

using Kind = BtfKind;

// Pointers to pointers and arrays of arrays: C has no more than a few; what is deeper is cyclic.
constexpr unsigned kMaxTypeDepth = 16;
constexpr std::uint64_t kLinkedBase = 0xffffffff81000000;  // CONFIG_PHYSICAL_START at 16 MiB
// BTF_INT_SIGNED, BTF_INT_CHAR, BTF_INT_BOOL (Documentation/bpf/btf.rst), above the bit offset.
constexpr std::uint32_t kIntSigned = 1, kIntChar = 2, kIntBool = 4;

// BTF gives the types of per-CPU variables only. These are the ones that tools ask for by name;
// where a kernel has no such symbol or type, the entry is not used.
enum class Form : std::uint8_t { object, pointer, number };
struct KnownType {
    std::string_view symbol, type;
    Form form = Form::object;
};
constexpr KnownType kKnownTypes[] = {
    {"init_task", "task_struct"},
    {"init_pid_ns", "pid_namespace"},
    {"init_mm", "mm_struct"},
    {"init_files", "files_struct"},
    {"init_fs", "fs_struct"},
    {"init_cred", "cred"},
    {"init_signals", "signal_struct"},
    {"init_sighand", "sighand_struct"},
    {"init_nsproxy", "nsproxy"},
    {"init_net", "net"},
    {"init_uts_ns", "uts_namespace"},
    {"init_user_ns", "user_namespace"},
    {"init_ipc_ns", "ipc_namespace"},
    {"init_css_set", "css_set"},
    {"root_task_group", "task_group"},
    {"modules", "list_head"},
    {"module_kset", "kset", Form::pointer},
    {"net_namespace_list", "list_head"},
    {"super_blocks", "list_head"},
    {"tty_drivers", "list_head"},
    {"vmap_area_list", "list_head"},
    {"file_systems", "file_system_type", Form::pointer},
    {"ftrace_ops_list", "ftrace_ops", Form::pointer},
    {"mount_hashtable", "hlist_head", Form::pointer},
    {"inode_hashtable", "hlist_bl_head", Form::pointer},
    {"prog_idr", "idr"},
    {"map_idr", "idr"},
    {"link_idr", "idr"},
    {"iomem_resource", "resource"},
    {"ioport_resource", "resource"},
    {"keyboard_notifier_list", "atomic_notifier_head"},
    {"prb", "printk_ringbuffer", Form::pointer},
    {"log_buf", "char", Form::pointer},
    {"saved_command_line", "char", Form::pointer},
    {"log_buf_len", "unsigned int", Form::number},
    {"cap_last_cap", "int", Form::number},
    {"page_offset_base", "long unsigned int", Form::number},
    {"vmalloc_base", "long unsigned int", Form::number},
    {"vmemmap_base", "long unsigned int", Form::number},
    {"phys_base", "long unsigned int", Form::number},
    {"jiffies_64", "long unsigned int", Form::number},
    {"socket_file_ops", "file_operations"},
    {"sockfs_dentry_operations", "dentry_operations"},
    {"boot_cpu_data", "cpuinfo_x86"},
    {"tk_core", "tk_data"},
};
constexpr unsigned kIdtEntries = 256;

struct BaseType {
    std::uint64_t size = 0;
    std::string_view kind = "int";
    bool is_signed = false;
};

std::string base64(std::string_view bytes) {
    constexpr std::string_view kDigits =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string text;
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        std::uint32_t group = 0;
        for (std::size_t k = 0; k < 3; ++k) {
            const unsigned char byte =
                i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0;
            group = group << 8 | byte;
        }
        for (std::size_t k = 0; k < 4; ++k) {
            text += i + k <= bytes.size() ? kDigits[group >> (18 - 6 * k) & 63] : '=';
        }
    }
    return text;
}

class IsfWriter {
  public:
    explicit IsfWriter(Kernel& kernel) : kernel_(kernel), types_(kernel.types()) {}

    Result<std::string> write() {
        collect_names();
        json_.begin_object();
        write_metadata();
        write_base_types();
        TRY(write_enums());
        TRY(write_user_types());
        TRY(write_symbols());
        json_.end_object();
        return std::move(out_);
    }

  private:
    static bool is_composite(Kind kind) { return kind == Kind::structure || kind == Kind::union_; }
    static bool is_enum(Kind kind) {
        return kind == Kind::enumeration || kind == Kind::enumeration64;
    }
    static bool is_number(Kind kind) { return kind == Kind::integer || kind == Kind::floating; }

    // What a type is called: its own name, or one made of its id.
    std::string name_of(std::uint32_t id) const {
        const Btf::Type& type = types_.type(id);
        return type.name == 0 ? fmt::format("unnamed_{}", id) : std::string(types_.name(type));
    }

    void collect_names() {
        base_ = {{"void", {0, "void", false}},    {"pointer", {8, "int", false}},
                 {"char", {1, "char", true}},     {"unsigned char", {1, "char", false}},
                 {"short int", {2, "int", true}}, {"short unsigned int", {2, "int", false}},
                 {"int", {4, "int", true}},       {"unsigned int", {4, "int", false}},
                 {"long int", {8, "int", true}},  {"long unsigned int", {8, "int", false}}};
        for (std::uint32_t id = 1; id < types_.type_count(); ++id) {
            const Btf::Type& type = types_.type(id);
            if (is_composite(type.kind)) composites_.emplace(name_of(id), id);
            if (is_enum(type.kind)) enums_.emplace(name_of(id), id);
            if (is_number(type.kind)) add_number(type);
            if (type.kind == Kind::variable) {
                variables_.emplace(types_.name(type), type.size_or_type);
            }
        }
        for (std::uint32_t id = 1; id < types_.type_count(); ++id) {
            const Btf::Type& type = types_.type(id);
            if (type.kind != Kind::forward || composites_.contains(name_of(id))) continue;
            // Of a forward declaration kind_flag says whether it is a union.
            forwards_.emplace(name_of(id), type.kind_flag);
        }
    }

    void add_number(const Btf::Type& type) {
        const std::string_view name = types_.name(type);
        BaseType base{type.size_or_type, "int", false};
        if (type.kind == Kind::floating) {
            base.kind = "float";
            base.is_signed = true;
        } else {
            const std::uint32_t encoding = types_.int_encoding(type);
            base.is_signed = (encoding & kIntSigned) != 0;
            const bool text = (encoding & kIntChar) != 0 || name == "char" ||
                              name == "unsigned char" || name == "signed char";
            if (text && base.size == 1) base.kind = "char";
            if ((encoding & kIntBool) != 0) base.kind = "bool";
        }
        // "char" is signed on x86; the compiler's word for it in BTF is the same.
        base_.emplace(name, base);
    }

    Result<void> check_size() const {
        if (out_.size() <= limits::kMaxSymbolFileBytes) return {};
        return fail(Code::limit, fmt::format("the symbol file has more than {} MiB",
                                             limits::kMaxSymbolFileBytes >> 20));
    }

    void write_metadata() {
        json_.key("metadata").begin_object().member("format", "6.2.0");
        json_.key("producer").begin_object();
        json_.member("name", "underseer").member("version", UNDERSEER_VERSION).end_object();
        json_.key("linux").begin_object().key("symbols").begin_array().begin_object();
        json_.member("kind", "symtab").member("name", "kallsyms " + kernel_.image().release());
        json_.end_object().end_array().end_object().end_object();
    }

    void write_base_types() {
        json_.key("base_types").begin_object();
        for (const auto& [name, type] : base_) {
            json_.key(name).begin_object();
            json_.member("size", type.size).member("signed", type.is_signed);
            json_.member("kind", type.kind).member("endian", "little").end_object();
        }
        json_.end_object();
    }

    Result<void> write_enums() {
        json_.key("enums").begin_object();
        for (const auto& [name, id] : enums_) {
            const Btf::Type& type = types_.type(id);
            json_.key(name).begin_object().member("size", type.size_or_type);
            json_.member("base", base_of_enum(type)).key("constants").begin_object();
            std::set<std::string_view> seen;
            for (std::uint32_t i = 0; i < type.count; ++i) {
                const Btf::RawEnumerator one = types_.enumerator(type, i);
                const std::string_view constant = types_.string_at(one.name);
                if (seen.insert(constant).second) json_.member(constant, one.value);
            }
            json_.end_object().end_object();
            TRY(check_size());
        }
        json_.end_object();
        return {};
    }

    static std::string_view base_of_enum(const Btf::Type& type) {
        const bool is_signed = type.kind_flag;
        switch (type.size_or_type) {
            case 1:
                return is_signed ? "char" : "unsigned char";
            case 2:
                return is_signed ? "short int" : "short unsigned int";
            case 8:
                return is_signed ? "long int" : "long unsigned int";
            default:
                return is_signed ? "int" : "unsigned int";
        }
    }

    Result<void> write_user_types() {
        json_.key("user_types").begin_object();
        for (const auto& [name, id] : composites_) {
            const Btf::Type& type = types_.type(id);
            json_.key(name).begin_object().member("kind", kind_text(type.kind));
            json_.member("size", type.size_or_type).key("fields").begin_object();
            std::unordered_set<std::string> seen;
            for (std::uint32_t i = 0; i < type.count; ++i) {
                const Btf::RawMember member = types_.member(type, i);
                std::string field(types_.string_at(member.name));
                const bool anonymous = field.empty();
                if (anonymous) field = fmt::format("unnamed_field_{}", i);
                if (seen.insert(field).second) write_field(field, member, anonymous);
            }
            json_.end_object().end_object();
            TRY(check_size());
        }
        for (const auto& [name, is_union] : forwards_) {
            json_.key(name).begin_object().member("kind", is_union ? "union" : "struct");
            json_.member("size", 0).key("fields").begin_object().end_object().end_object();
            TRY(check_size());
        }
        json_.end_object();
        return {};
    }

    static std::string_view kind_text(Kind kind) {
        return kind == Kind::union_ ? "union" : "struct";
    }

    void write_field(std::string_view name, const Btf::RawMember& member, bool anonymous) {
        json_.key(name).begin_object().key("type");
        std::uint32_t offset = member.offset_bits / 8;
        if (member.bitfield_bits == 0) {
            write_type(member.type, 0);
        } else {
            // Read as a whole unit of the declared type, aligned as the compiler aligns it; one
            // that crosses such a unit (packed) from its own first byte.
            const std::uint64_t unit =
                std::clamp<std::uint64_t>(types_.size_bytes(member.type), 1, 8);
            const auto aligned = static_cast<std::uint32_t>(offset / unit * unit);
            if (member.offset_bits - 8 * aligned + member.bitfield_bits <= 8 * unit) {
                offset = aligned;
            }
            json_.begin_object().member("kind", "bitfield");
            json_.member("bit_position", member.offset_bits - 8 * offset);
            json_.member("bit_length", member.bitfield_bits).key("type");
            const Kind kind = types_.type(types_.strip(member.type)).kind;
            if (is_number(kind) || is_enum(kind)) {
                write_type(member.type, 0);
            } else {
                write_named("base", "unsigned int");
            }
            json_.end_object();
        }
        json_.member("offset", offset);
        const Kind kind = types_.type(types_.strip(member.type)).kind;
        if (anonymous && member.bitfield_bits == 0 && is_composite(kind)) {
            json_.member("anonymous", true);
        }
        json_.end_object();
    }

    void write_named(std::string_view kind, std::string_view name) {
        json_.begin_object().member("kind", kind).member("name", name).end_object();
    }

    void write_type(std::uint32_t id, unsigned depth) {
        id = types_.strip(id);
        const Btf::Type& type = types_.type(id);
        if (depth > kMaxTypeDepth) return write_named("base", "void");
        switch (type.kind) {
            case Kind::integer:
            case Kind::floating:
                return write_named("base", types_.name(type));
            case Kind::structure:
            case Kind::union_:
            case Kind::forward:
                return write_composite(id);
            case Kind::enumeration:
            case Kind::enumeration64:
                return write_named("enum", name_of(id));
            case Kind::function:
            case Kind::function_prototype:
                json_.begin_object().member("kind", "function").end_object();
                return;
            case Kind::pointer:
                json_.begin_object().member("kind", "pointer").key("subtype");
                write_type(type.size_or_type, depth + 1);
                json_.end_object();
                return;
            case Kind::array: {
                const auto array = types_.array(id);
                json_.begin_object().member("kind", "array").member("count", array->count);
                json_.key("subtype");
                write_type(array->element_type, depth + 1);
                json_.end_object();
                return;
            }
            default:
                return write_named("base", "void");
        }
    }

    void write_composite(std::uint32_t id) {
        const std::string name = name_of(id);
        const auto found = composites_.find(name);
        bool is_union = false;
        if (found != composites_.end()) {
            is_union = types_.type(found->second).kind == Kind::union_;
        } else {
            is_union = forwards_.at(name);
        }
        write_named(is_union ? "union" : "struct", name);
    }

    Result<void> write_symbols() {
        const KernelImage& image = kernel_.image();
        const std::uint64_t slide = image.begin().value - kLinkedBase;
        std::map<std::string_view, const KnownType*> known;
        for (const KnownType& type : kKnownTypes) known.emplace(type.symbol, &type);
        json_.key("symbols").begin_object();
        std::unordered_set<std::string_view> seen;
        const Symbols& symbols = kernel_.symbols();
        for (std::size_t i = 0; i < symbols.size(); ++i) {
            const std::string_view name = symbols.at(i).name;
            if (!seen.insert(name).second) continue;
            // Per-CPU offsets and other absolute values do not move.
            const GuestVirt address = *symbols.address(name);
            const bool moves = address >= image.begin();
            json_.key(name).begin_object();
            json_.member("address", moves ? address.value - slide : address.value);
            const auto variable = variables_.find(name);
            const auto type = known.find(name);
            if (name == "idt_table") {
                write_idt();
            } else if (type != known.end()) {
                write_known(*type->second);
            } else if (variable != variables_.end()) {
                json_.key("type");
                write_type(variable->second, 0);
            }
            if (name == "linux_banner") {
                // The whole array, as it lies in memory: tools search for these bytes.
                std::string banner = TRY(kernel_.memory().read_cstring(address, 512));
                json_.member("constant_data", base64(banner += '\0'));
            }
            json_.end_object();
            TRY(check_size());
        }
        json_.end_object();
        return {};
    }

    void write_known(const KnownType& known) {
        const auto found = composites_.find(std::string(known.type));
        const bool base = base_.contains(std::string(known.type));
        if (found == composites_.end() && !base) return;
        json_.key("type");
        if (known.form == Form::pointer) {
            json_.begin_object().member("kind", "pointer").key("subtype");
        }
        if (base) {
            write_named("base", known.type);
        } else {
            write_named(kind_text(types_.type(found->second).kind), known.type);
        }
        if (known.form == Form::pointer) json_.end_object();
    }

    void write_idt() {
        if (!composites_.contains("gate_struct")) return;
        json_.key("type").begin_object().member("kind", "array").member("count", kIdtEntries);
        json_.key("subtype");
        write_named("struct", "gate_struct");
        json_.end_object();
    }

    Kernel& kernel_;
    const Btf& types_;
    std::string out_;
    json::Writer json_{&out_};
    std::map<std::string, BaseType> base_;
    std::map<std::string, std::uint32_t> composites_, enums_;
    std::map<std::string, bool> forwards_;
    std::map<std::string_view, std::uint32_t> variables_;
};

}  // namespace

Result<std::string> isf_of(Kernel& kernel) {
    return IsfWriter(kernel).write();
}

}  // namespace underseer::guest_linux
