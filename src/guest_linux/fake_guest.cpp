#include "guest_linux/fake_guest.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace underseer::guest_linux {

namespace {

constexpr std::uint64_t kLarge = 2u << 20;
constexpr std::uint64_t kImageMap = 0xffffffff80000000;
constexpr std::uint64_t kDirectMap4 = 0xffff888000000000, kDirectMap5 = 0xff11000000000000;
constexpr std::uint64_t kEntry = 0x3;  // present, writable
constexpr std::uint64_t kHuge = 0x80, kNx = 1ull << 63;
constexpr std::uint32_t kPfKthread = 0x00200000;
// As far apart as real ones, which are larger than what of them is used here.
constexpr std::uint32_t kTaskBytes = 8192, kStructPageBytes = 64;
constexpr std::uint64_t kSlabOrder = 8, kSlabTasks = (kPageSize << kSlabOrder) / kTaskBytes;

template <typename T>
void append(std::vector<std::byte>& out, T value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    out.insert(out.end(), bytes, bytes + sizeof value);
}
void pad(std::vector<std::byte>& out, std::size_t to) {
    while (out.size() % to != 0) out.push_back(std::byte{0});
}

}  // namespace

// ---- BTF --------------------------------------------------------------------------------------

FakeBtf::FakeBtf() : strings_(1, '\0') {}

std::uint32_t FakeBtf::string(std::string_view text) {
    if (text.empty()) return 0;
    const auto at = static_cast<std::uint32_t>(strings_.size());
    strings_ += text;
    strings_ += '\0';
    return at;
}

void FakeBtf::word(std::uint32_t value) {
    types_.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::uint32_t FakeBtf::begin_type(std::string_view name, std::uint32_t kind, std::uint32_t count,
                                  std::uint32_t size_or_type, bool kind_flag) {
    word(string(name));
    word((kind_flag ? 1u << 31 : 0u) | (kind << 24) | count);
    word(size_or_type);
    return next_id_++;
}

std::uint32_t FakeBtf::add_int(std::string_view name, std::uint32_t size_bytes) {
    const std::uint32_t id = begin_type(name, 1, 0, size_bytes);
    word(size_bytes * 8);
    return id;
}
std::uint32_t FakeBtf::add_pointer(std::uint32_t to) {
    return begin_type("", 2, 0, to);
}
std::uint32_t FakeBtf::add_array(std::uint32_t element, std::uint32_t count) {
    const std::uint32_t id = begin_type("", 3, 0, 0);
    word(element);
    word(1);
    word(count);
    return id;
}
std::uint32_t FakeBtf::add_struct(std::string_view name, std::uint32_t size_bytes,
                                  const std::vector<Member>& members, bool is_union) {
    const bool bits =
        std::ranges::any_of(members, [](const Member& m) { return m.bitfield_bits != 0; });
    const std::uint32_t id = begin_type(
        name, is_union ? 5 : 4, static_cast<std::uint32_t>(members.size()), size_bytes, bits);
    for (const Member& member : members) {
        word(string(member.name));
        word(member.type);
        word(member.offset_bits | (bits ? member.bitfield_bits << 24 : 0));
    }
    return id;
}
std::uint32_t FakeBtf::add_enum(
    std::string_view name, const std::vector<std::pair<std::string, std::int32_t>>& enumerators) {
    const std::uint32_t id =
        begin_type(name, 6, static_cast<std::uint32_t>(enumerators.size()), 4, true);
    for (const auto& [called, value] : enumerators) {
        word(string(called));
        word(static_cast<std::uint32_t>(value));
    }
    return id;
}
std::uint32_t FakeBtf::add_typedef(std::string_view name, std::uint32_t of) {
    return begin_type(name, 8, 0, of);
}

std::vector<std::byte> FakeBtf::build() const {
    std::vector<std::byte> blob;
    append<std::uint16_t>(blob, 0xeb9f);
    append<std::uint16_t>(blob, 1);
    append<std::uint32_t>(blob, 24);
    append<std::uint32_t>(blob, 0);
    append(blob, static_cast<std::uint32_t>(types_.size()));
    append(blob, static_cast<std::uint32_t>(types_.size()));
    append(blob, static_cast<std::uint32_t>(strings_.size()));
    const Bytes types = as_bytes(types_), strings = as_bytes(strings_);
    blob.insert(blob.end(), types.begin(), types.end());
    blob.insert(blob.end(), strings.begin(), strings.end());
    return blob;
}

// ---- kallsyms ---------------------------------------------------------------------------------

namespace {

struct NameTables {
    std::vector<std::byte> names;
    std::vector<std::uint32_t> markers;
};

// Every token stands for its own character, but one: token 0xff is "symbol_", so that decoding has
// to expand something.
std::string token_text(unsigned token) {
    if (token == 0xff) return "symbol_";
    if (token > ' ' && token <= '~') return std::string(1, static_cast<char>(token));
    return {};
}

NameTables encode_names(const std::vector<FakeSymbol>& symbols) {
    NameTables out;
    for (std::size_t i = 0; i < symbols.size(); ++i) {
        if (i % 256 == 0) out.markers.push_back(static_cast<std::uint32_t>(out.names.size()));
        std::string tokens = symbols[i].type + symbols[i].name;
        if (const std::size_t at = tokens.find("symbol_"); at != std::string::npos) {
            tokens.replace(at, 7, "\xff");
        }
        if (tokens.size() > 0x7f) {
            out.names.push_back(std::byte((tokens.size() & 0x7f) | 0x80));
            out.names.push_back(std::byte(tokens.size() >> 7));
        } else {
            out.names.push_back(std::byte(tokens.size()));
        }
        const Bytes raw = as_bytes(tokens);
        out.names.insert(out.names.end(), raw.begin(), raw.end());
    }
    return out;
}

void append_tokens(std::vector<std::byte>& out) {
    std::vector<std::uint16_t> index;
    std::string table;
    for (unsigned token = 0; token < 256; ++token) {
        index.push_back(static_cast<std::uint16_t>(table.size()));
        table += token_text(token);
        table += '\0';
    }
    const Bytes raw = as_bytes(table);
    out.insert(out.end(), raw.begin(), raw.end());
    pad(out, 8);
    for (const std::uint16_t offset : index) append(out, offset);
    pad(out, 8);
}

void append_offsets(std::vector<std::byte>& out, const std::vector<FakeSymbol>& symbols,
                    KallsymsForm form, GuestVirt at) {
    std::uint64_t base = 0;
    for (const FakeSymbol& symbol : symbols) {
        if (symbol.address >= kImageMap && (base == 0 || symbol.address < base))
            base = symbol.address;
    }
    for (const FakeSymbol& symbol : symbols) {
        switch (form) {
            case KallsymsForm::v7_0:
                append(out, static_cast<std::uint32_t>(symbol.address - (at.value + out.size())));
                break;
            case KallsymsForm::v6_15:
                append(out, static_cast<std::uint32_t>(symbol.address - base));
                break;
            default:
                append(out, symbol.address < kImageMap
                                ? static_cast<std::uint32_t>(symbol.address)
                                : static_cast<std::uint32_t>(base - 1 - symbol.address));
        }
    }
    pad(out, 8);
    if (form != KallsymsForm::v7_0) append(out, base);
}

void append_names(std::vector<std::byte>& out, const std::vector<FakeSymbol>& symbols,
                  KallsymsForm form) {
    const NameTables names = encode_names(symbols);
    append(out, static_cast<std::uint32_t>(symbols.size()));
    pad(out, form == KallsymsForm::v7_0 ? 4 : 8);
    out.insert(out.end(), names.names.begin(), names.names.end());
    pad(out, form == KallsymsForm::v7_0 ? 4 : 8);
    for (const std::uint32_t marker : names.markers) append(out, marker);
    pad(out, 8);
    if (form == KallsymsForm::v6_2) {
        for (std::size_t i = 0; i < symbols.size(); ++i) {
            out.push_back(std::byte(i >> 16));
            out.push_back(std::byte(i >> 8));
            out.push_back(std::byte(i));
        }
        pad(out, 8);
    }
}

}  // namespace

std::vector<std::byte> build_kallsyms(const std::vector<FakeSymbol>& symbols, KallsymsForm form,
                                      GuestVirt at, std::size_t lead) {
    std::vector<std::byte> out(lead, std::byte{0x5a});
    pad(out, 8);
    const bool offsets_first = form == KallsymsForm::v4_20 || form == KallsymsForm::v6_2;
    if (offsets_first) append_offsets(out, symbols, form, at);
    append_names(out, symbols, form);
    append_tokens(out);
    if (!offsets_first) append_offsets(out, symbols, form, at);
    // Other read-only data follows.
    out.insert(out.end(), 4096, std::byte{0x5a});
    return out;
}

// ---- ksymtab ----------------------------------------------------------------------------------

std::vector<std::byte> build_ksymtab(std::map<std::string, std::uint64_t> exports, GuestVirt at) {
    std::vector<std::byte> out;
    std::string names(1, '\0');  // the empty namespace
    const std::uint64_t names_at = at.value + 12 * exports.size();
    for (const auto& [name, address] : exports) {
        const auto here = [&] { return at.value + out.size(); };
        append(out, static_cast<std::uint32_t>(address - here()));
        append(out, static_cast<std::uint32_t>(names_at + names.size() - here()));
        append(out, static_cast<std::uint32_t>(names_at - here()));
        names += name + '\0';
    }
    const Bytes raw = as_bytes(names);
    out.insert(out.end(), raw.begin(), raw.end());
    return out;
}

// ---- the guest --------------------------------------------------------------------------------

// Image: 2 MiB of text, 4 MiB of read-only data, 4 MiB of data, contiguous from image_phys. Direct
// map: 1 GiB pages would do, but 2 MiB ones exercise one more level.
FakeGuest::FakeGuest(Options options) : options_(options), ram_(options.ram_bytes) {
    regions_ = {{GuestPhys{0}, options.ram_bytes}};
    text_virt_ = kImageMap + 0x1000000 + options.slide;
    rodata_virt_ = text_virt_ + kLarge;
    data_virt_ = rodata_virt_ + 2 * kLarge;
    data_end_ = data_virt_ + 2 * kLarge;
    data_next_ = data_virt_ + 64 * kPageSize;  // tables first
    build_page_tables();
    build_types();
    build_scheduler();
    build_init_task();
}

GuestPhys FakeGuest::phys(GuestVirt at) const {
    if (at.value >= text_virt_ && at.value < data_end_) {
        return GuestPhys{options_.image_phys + (at.value - text_virt_)};
    }
    const std::uint64_t map = options_.levels == 5 ? kDirectMap5 : kDirectMap4;
    CHECK(at.value >= map && at.value - map < ram_.size());
    return GuestPhys{at.value - map};
}

std::byte* FakeGuest::host(GuestVirt at) {
    return host_phys(phys(at));
}

void FakeGuest::read_many(std::span<guest_memory::ReadOp> ops) {
    using guest_memory::ReadStatus;
    for (guest_memory::ReadOp& op : ops) {
        ++reads_;
        if (before_read) before_read(*this, op.from);
        if (op.from.value > ram_.size() || ram_.size() - op.from.value < op.into.size()) {
            op.status = ReadStatus::outside;
        } else if (is_hole && is_hole(op.from)) {
            op.status = ReadStatus::hole;
        } else {
            op.status = ReadStatus::ok;
            std::memcpy(op.into.data(), host_phys(op.from), op.into.size());
            continue;
        }
        std::ranges::fill(op.into, std::byte{0});
    }
}

void FakeGuest::build_page_tables() {
    const std::uint64_t tables = data_virt_;
    const auto table = [&](unsigned number) { return GuestVirt{tables + number * kPageSize}; };
    const auto set = [&](GuestVirt at, unsigned index, std::uint64_t entry) {
        write(at + 8ull * index, entry);
    };
    root_ = phys(table(0));
    const GuestVirt level4 = table(1), level3 = table(2), level2 = table(3), fixmap = table(4),
                    direct3 = table(5), direct2 = table(6), direct4 = table(7);
    const auto to = [&](GuestVirt at) { return phys(at).value | kEntry; };
    GuestVirt top = table(0);
    if (options_.levels == 5) {
        set(top, 511, to(level4));
        set(level4, 511, to(level3));
        set(level4, 510, to(table(8)));  // ESPFIX, as kernels with CONFIG_X86_ESPFIX64 have it
        set(level4, 508, to(table(9)));  // cpu_entry_area
        set(top, (kDirectMap5 >> 48) & 511, to(direct4));
        set(direct4, (kDirectMap5 >> 39) & 511, to(direct3));
    } else {
        set(top, 511, to(level3));
        set(top, (kDirectMap4 >> 39) & 511, to(direct3));
    }
    set(level3, 510, to(level2));
    set(level3, 511, to(fixmap));
    for (std::uint64_t at = text_virt_; at < data_end_; at += kLarge) {
        std::uint64_t entry = phys(GuestVirt{at}).value | 1 | kHuge;
        if (at != text_virt_) entry |= kNx;
        if (at >= data_virt_) entry |= 2;
        set(level2, static_cast<unsigned>((at - kImageMap) / kLarge), entry);
    }
    const std::uint64_t map = options_.levels == 5 ? kDirectMap5 : kDirectMap4;
    set(direct3, (map >> 30) & 511, to(direct2));
    for (std::uint64_t at = 0; at < ram_.size(); at += kLarge) {
        set(direct2, static_cast<unsigned>(at / kLarge), at | kEntry | kHuge | kNx);
    }
    if (options_.trampoline) std::memcpy(host_phys(GuestPhys{0x9c000}), host(top), kPageSize);
}

GuestVirt FakeGuest::allocate(std::size_t size_bytes, std::size_t alignment) {
    data_next_ = (data_next_ + alignment - 1) / alignment * alignment;
    const GuestVirt at{data_next_};
    data_next_ += size_bytes;
    CHECK(data_next_ <= data_end_);
    return at;
}

void FakeGuest::add_symbol(std::string name, char type, std::uint64_t address) {
    symbols_.push_back({std::move(name), type, address});
}

std::uint32_t FakeGuest::offset(std::string_view structure, std::string_view member) const {
    const auto found = offsets_.find(std::string(structure) + "." + std::string(member));
    CHECK(found != offsets_.end());
    return found->second;
}

void FakeGuest::define(std::string_view name, std::uint32_t size_bytes, std::string_view members) {
    std::vector<FakeBtf::Member> list;
    while (!members.empty()) {
        // "member:type@offset", "member:type[count]@offset" or "member:type@offset/shift/bits"
        const std::string_view one = members.substr(0, members.find(' '));
        members.remove_prefix(std::min(members.size(), one.size() + 1));
        const std::size_t colon = one.find(':'), at = one.find('@');
        CHECK(colon < at && at != std::string_view::npos);
        const std::string_view member = one.substr(0, colon);
        std::string_view type_name = one.substr(colon + 1, at - colon - 1);
        const auto number = [](std::string_view text) {
            return static_cast<std::uint32_t>(std::stoul(std::string(text)));
        };
        std::uint32_t count = 0;
        if (const std::size_t bracket = type_name.find('['); bracket != std::string_view::npos) {
            count = number(type_name.substr(bracket + 1));
            type_name = type_name.substr(0, bracket);
        }
        const auto type = types_.find(type_name);
        CHECK(type != types_.end());
        const std::uint32_t id = count == 0 ? type->second : btf_.add_array(type->second, count);
        const std::uint32_t offset = number(one.substr(at + 1));
        std::uint32_t shift = 0, bits = 0;
        if (const std::size_t slash = one.find('/'); slash != std::string_view::npos) {
            shift = number(one.substr(slash + 1));
            bits = number(one.substr(one.rfind('/') + 1));
        }
        list.push_back({std::string(member), id, 8 * offset + shift, bits});
        offsets_[std::string(name) + "." + std::string(member)] = offset;
    }
    const bool anonymous = name.starts_with('?');
    types_[std::string(name)] =
        btf_.add_struct(anonymous ? "" : name, size_bytes, list, /*is_union=*/anonymous);
}

void FakeGuest::build_types() {
    types_["char"] = btf_.add_int("char", 1);
    types_["short"] = btf_.add_int("short", 2);
    types_["int"] = btf_.add_int("int", 4);
    types_["long"] = btf_.add_int("long", 8);
    types_["ptr"] = btf_.add_pointer(0);
    define("list_head", 16, "next:ptr@0 prev:ptr@8");
    define("hlist_node", 16, "next:ptr@0 pprev:ptr@8");
    define("upid", 16, "nr:int@0 ns:ptr@8");
    define("pid", 80, "level:int@4 tasks:ptr[4]@16 numbers:upid[1]@64");
    define("xarray", 16, "xa_head:ptr@8");
    define("xa_node", 40 + 512, "shift:char@0 slots:ptr[64]@40");
    define("idr", 24, "idr_rt:xarray@0 idr_base:int@16 idr_next:int@20");
    define("pid_namespace", 64, "idr:idr@8");
    define("signal_struct", 64, "nr_threads:int@8 thread_head:list_head@16");
    define("css_set", 80,
           "tasks:list_head@0 mg_tasks:list_head@16 hlist:hlist_node@32 subsys:ptr[1]@48 "
           "dying_tasks:list_head@64");
    define("thread_struct", 64, "sp:long@0");
    define("sched_entity", 32, "sum_exec_runtime:long@8");
    // An anonymous union around exit_state, to be looked through.
    define("?exit", 8, "exit_state:int@0");
    define("task_struct", 416,
           "__state:int@0 flags:int@4 :?exit@16 mm:ptr@24 tasks:list_head@32 "
           "start_boottime:long@48 pid:int@56 tgid:int@60 real_parent:ptr@64 parent:ptr@72 "
           "children:list_head@80 sibling:list_head@96 group_leader:ptr@112 thread_pid:ptr@120 "
           "pid_links:hlist_node[4]@128 thread_node:list_head@192 cg_list:list_head@208 "
           "signal:ptr@224 cgroups:ptr@232 comm:char[16]@240 stack:ptr@256 sched_class:ptr@264 "
           "on_cpu:int@272 self_exec_id:int@276 thread:thread_struct@280 files:ptr@344 "
           "se:sched_entity@352 nsproxy:ptr@384 real_cred:ptr@392 ptrace:int@400 "
           "io_uring:ptr@408");
    offsets_["task_struct.exit_state"] = offset("task_struct", "") + offset("?exit", "exit_state");
    define("rq", 8, "curr:ptr@0");
    define("files_struct", 8, "fdt:ptr@0");
    define("fdtable", 16, "max_fds:int@0 fd:ptr@8");
    define("path", 16, "mnt:ptr@0 dentry:ptr@8");
    define("file", 56,
           "f_flags:int@0 f_pos:long@8 f_inode:ptr@16 f_path:path@24 f_op:ptr@40 "
           "private_data:ptr@48");
    define("inactive_task_frame", 56, "ret_addr:long@48");
    define("page", kStructPageBytes, "flags:long@0");
    define("slab", kStructPageBytes, "slab_cache:ptr@8");
    define("kmem_cache_order_objects", 4, "x:int@0");
    define("kmem_cache", 64,
           "size:int@0 oo:kmem_cache_order_objects@4 min:kmem_cache_order_objects@8");
}

GuestVirt FakeGuest::add_function(std::string_view name, std::string_view code) {
    const GuestVirt at{text_virt_ + 0x100000 + function_next_};
    function_next_ += 1024;
    CHECK(code.size() <= 1024);
    std::memcpy(host(at), code.data(), code.size());
    add_symbol(std::string(name), 'T', at.value);
    return at;
}

std::string FakeGuest::true_vmcoreinfo() const {
    return fmt::format(
        "OSRELEASE=6.4.0-fake\nPAGESIZE=4096\nSYMBOL(_stext)={:x}\nSYMBOL(init_top_pgt)={:x}\n"
        "NUMBER(phys_base)={}\nNUMBER(pgtable_l5_enabled)={}\nKERNELOFFSET={:x}\n",
        text_virt_, data_virt_,
        static_cast<std::int64_t>(options_.image_phys - (text_virt_ - kImageMap)),
        options_.levels == 5 ? 1 : 0, options_.slide);
}

void FakeGuest::set_vmcoreinfo(std::string_view text) {
    const GuestVirt page{(options_.levels == 5 ? kDirectMap5 : kDirectMap4) + (8u << 20)};
    CHECK(text.size() < kPageSize);
    std::memset(host(page), 0, kPageSize);
    std::memcpy(host(page), text.data(), text.size());
    write(allocate(8, 8), page.value);
}

void FakeGuest::list_init(GuestVirt head) {
    write(head, head.value);
    write(head + 8, head.value);
}
void FakeGuest::list_add_tail(GuestVirt node, GuestVirt head) {
    const GuestVirt last{read_back<std::uint64_t>(head + 8)};
    write(node, head.value);
    write(node + 8, last.value);
    write(last, node.value);
    write(head + 8, node.value);
}
void FakeGuest::list_remove(GuestVirt node) {
    const GuestVirt next{read_back<std::uint64_t>(node)},
        previous{read_back<std::uint64_t>(node + 8)};
    write(previous, next.value);
    write(next + 8, previous.value);
}

// One slab of task_structs, of kSlabOrder pages, and the array of struct page that says so.
void FakeGuest::build_scheduler() {
    sched_class_ = GuestVirt{rodata_virt_ + 0x800};
    add_symbol("fair_sched_class", 'R', sched_class_.value);
    const GuestVirt variables = allocate(64);
    add_symbol("page_offset_base", 'D', variables.value);
    add_symbol("vmemmap_base", 'D', variables.value + 8);
    add_symbol("task_struct_cachep", 'd', variables.value + 16);
    task_cache_ = allocate(64);
    write(task_cache_ + offset("kmem_cache", "size"), kTaskBytes);
    const auto order = static_cast<std::uint32_t>(kSlabOrder << 16 | kSlabTasks);
    write(task_cache_ + offset("kmem_cache", "oo"), order);
    write(task_cache_ + offset("kmem_cache", "min"), std::uint32_t{1u << 16 | 1});
    tasks_ = direct(allocate(kPageSize << kSlabOrder, kPageSize << kSlabOrder));
    // Only the frames of the slab have a struct page here.
    struct_pages_ = direct(allocate(kStructPageBytes << kSlabOrder));
    write(struct_pages_ + offset("slab", "slab_cache"), task_cache_.value);
    const std::uint64_t map = options_.levels == 5 ? kDirectMap5 : kDirectMap4;
    write(variables, map);
    write(variables + 8, struct_pages_.value - phys(tasks_).value / kPageSize * kStructPageBytes);
    write(variables + 16, task_cache_.value);
}

GuestVirt FakeGuest::direct(GuestVirt at) const {
    return GuestVirt{(options_.levels == 5 ? kDirectMap5 : kDirectMap4) + phys(at).value};
}

void FakeGuest::add_cpu() {
    run_queue_ = allocate(64);
    cpu_mask_ = allocate(8);
    const GuestVirt offsets = allocate(8);
    write(cpu_mask_, std::uint64_t{1});
    add_symbol("runqueues", 'A', run_queue_.value);  // the per-CPU offset is 0
    add_symbol("__per_cpu_offset", 'D', offsets.value);
    add_symbol("__cpu_possible_mask", 'D', cpu_mask_.value);
}

void FakeGuest::run(GuestVirt task) {
    write(run_queue_ + offset("rq", "curr"), task.value);
}

void FakeGuest::make_real(GuestVirt task) {
    const GuestVirt stack = allocate(1024);
    const GuestVirt sp = stack + 512;
    write(sp + offset("inactive_task_frame", "ret_addr"), text_virt_ + 0x1234);
    write(task + offset("task_struct", "stack"), stack.value);
    write(task + offset("task_struct", "thread"), sp.value);
    write(task + offset("task_struct", "sched_class"), sched_class_.value);
}

void FakeGuest::build_init_task() {
    const GuestVirt table = allocate(128 * 8);
    css_set_ = allocate(80);
    list_init(css_set_ + offset("css_set", "tasks"));
    list_init(css_set_ + offset("css_set", "mg_tasks"));
    list_init(css_set_ + offset("css_set", "dying_tasks"));
    css_set_table_ = table;
    // css_set_hash(): the sum of subsys[], folded, times GOLDEN_RATIO_64, the top 7 bits.
    constexpr std::uint64_t kState = 0xffff888001234560;
    const std::uint64_t bucket = ((kState ^ kState >> 16) * 0x61c8864680b583ebu) >> 57;
    const GuestVirt node = css_set_ + offset("css_set", "hlist");
    write(css_set_ + offset("css_set", "subsys"), kState);
    write(table + 8 * bucket, node.value);
    write(node + 8, table.value + 8 * bucket);
    pid_ns_ = allocate(64);
    idr_node_ = allocate(40 + 512);
    write(pid_ns_ + offset("pid_namespace", "idr") + 8, idr_node_.value | 2);
    add_symbol("css_set_table", 'd', table.value);
    add_symbol("init_pid_ns", 'D', pid_ns_.value);
    init_task_ = allocate(kTaskBytes);
    for (const char* list : {"tasks", "children", "sibling", "cg_list"}) {
        list_init(init_task_ + offset("task_struct", list));
    }
    std::memcpy(host(init_task_ + offset("task_struct", "comm")), "swapper/0", 9);
    write(init_task_ + offset("task_struct", "flags"), kPfKthread);
    for (const char* own : {"real_parent", "parent", "group_leader"}) {
        write(init_task_ + offset("task_struct", own), init_task_.value);
    }
    write(init_task_ + offset("task_struct", "cgroups"), css_set_.value);
    const GuestVirt number = allocate(80);  // init_struct_pid
    write(number + offset("pid", "numbers") + 8, pid_ns_.value);
    write(init_task_ + offset("task_struct", "thread_pid"), number.value);
    const GuestVirt signal = allocate(64);
    list_init(signal + offset("signal_struct", "thread_head"));
    write(init_task_ + offset("task_struct", "signal"), signal.value);
    list_add_tail(init_task_ + offset("task_struct", "thread_node"),
                  signal + offset("signal_struct", "thread_head"));
    add_symbol("init_task", 'D', init_task_.value);
}

FakeGuest::System FakeGuest::add_system() {
    const GuestVirt init = add_task(1, 1, "init", init_task_);
    const GuestVirt kthreadd = add_task(2, 2, "kthreadd", init_task_);
    for (std::uint32_t pid = 3; pid < 9; ++pid) {
        add_task(pid, pid, fmt::format("kworker/{}", pid), kthreadd);
    }
    const GuestVirt daemon = add_task(20, 20, "daemon", init);
    for (std::uint32_t pid = 21; pid < 30; ++pid) add_task(pid, pid, "daemon", init);
    return {init, kthreadd, daemon};
}

GuestVirt FakeGuest::add_task(std::uint32_t pid, std::uint32_t tgid, std::string_view comm,
                              GuestVirt parent) {
    CHECK(next_task_ < kSlabTasks);
    const GuestVirt task = tasks_ + kTaskBytes * next_task_++;
    const auto at = [&](std::string_view member) { return task + offset("task_struct", member); };
    write(at("pid"), pid);
    write(at("tgid"), tgid);
    write(at("start_boottime"), std::uint64_t{1'000'000} * pid);
    write(at("real_parent"), parent.value);
    write(at("parent"), parent.value);
    write(at("group_leader"), pid == tgid ? task.value : parent.value);
    const std::string_view parents_name(
        reinterpret_cast<const char*>(host(parent + offset("task_struct", "comm"))), 8);
    if (comm == "kthreadd" || parents_name == "kthreadd") write(at("flags"), kPfKthread);
    std::memcpy(host(at("comm")), comm.data(), std::min<std::size_t>(comm.size(), 15));
    list_init(at("children"));
    const bool leader = pid == tgid;
    GuestVirt signal = allocate(64);
    if (leader) {
        list_init(signal + offset("signal_struct", "thread_head"));
        list_add_tail(at("tasks"), init_task_ + offset("task_struct", "tasks"));
        list_add_tail(at("sibling"), parent + offset("task_struct", "children"));
    } else {
        signal = GuestVirt{read_back<std::uint64_t>(parent + offset("task_struct", "signal"))};
    }
    write(at("signal"), signal.value);
    list_add_tail(at("thread_node"), signal + offset("signal_struct", "thread_head"));
    list_add_tail(at("cg_list"), css_set_ + offset("css_set", "tasks"));
    const GuestVirt number = allocate(80);
    write(number + offset("pid", "tasks"), at("pid_links").value);
    write(number + offset("pid", "numbers"), pid);
    write(number + offset("pid", "numbers") + 8, pid_ns_.value);
    write(at("thread_pid"), number.value);
    // The IDR has one node: a higher pid is not in it.
    if (pid < 64) write(idr_node_ + offset("xa_node", "slots") + 8ull * pid, number.value);
    make_real(task);
    return task;
}

void FakeGuest::unlink_from_task_list(GuestVirt task) {
    list_remove(task + offset("task_struct", "tasks"));
}
void FakeGuest::unlink_from_pid_idr(std::uint32_t pid) {
    write(idr_node_ + offset("xa_node", "slots") + 8ull * pid, std::uint64_t{0});
}
void FakeGuest::unlink_from_css_set(GuestVirt task) {
    list_remove(task + offset("task_struct", "cg_list"));
}

void FakeGuest::unlink_from_tree(GuestVirt task) {
    list_remove(task + offset("task_struct", "sibling"));
}

void FakeGuest::finish() {
    add_symbol("_text", 'T', text_virt_);
    add_symbol("_stext", 'T', text_virt_);
    add_symbol("init_top_pgt", 'D', data_virt_);
    add_symbol("linux_banner", 'R', rodata_virt_ + 64);
    // Enough symbols for several markers, with some per-CPU offsets where the form has them.
    for (unsigned i = 0; i < 2000; ++i) {
        add_symbol("fake_symbol_" + std::to_string(i), 't', text_virt_ + 0x100 + 16 * i);
    }
    if (options_.form != KallsymsForm::v6_15 && options_.form != KallsymsForm::v7_0) {
        add_symbol("runqueues_offset", 'A', 0x1000);
    }
    if (!options_.kallsyms_all) {
        std::map<std::string, std::uint64_t> exports{{"init_task", init_task_.value},
                                                     {"init_pid_ns", pid_ns_.value}};
        for (unsigned i = 0; i < 20; ++i) {
            exports["kernel_function_" + std::to_string(i)] = text_virt_ + 64 * i;
        }
        const GuestVirt at{rodata_virt_ + 0x2c0000};
        const auto table = build_ksymtab(std::move(exports), at);
        std::memcpy(host(at), table.data(), table.size());
        std::erase_if(symbols_, [&](const FakeSymbol& symbol) {
            return symbol.address < text_virt_ || symbol.address >= rodata_virt_;
        });
    }
    std::ranges::stable_sort(symbols_, {}, &FakeSymbol::address);
    std::memcpy(host(GuestVirt{rodata_virt_ + 64}), kBanner.data(), kBanner.size());
    const GuestVirt tables{rodata_virt_ + 0x10000};
    const auto kallsyms = build_kallsyms(symbols_, options_.form, tables, 128);
    std::memcpy(host(tables), kallsyms.data(), kallsyms.size());
    CHECK(kallsyms.size() < 0x200000);
    if (!options_.btf) return;
    const auto blob = btf_.build();
    std::memcpy(host(GuestVirt{rodata_virt_ + 0x300000}), blob.data(), blob.size());
}

}  // namespace underseer::guest_linux
