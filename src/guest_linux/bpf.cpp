#include "guest_linux/bpf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "guest_linux/bpf_links.h"
#include "guest_linux/bpf_places.h"
#include "guest_linux/hooks.h"
#include "guest_linux/xarray.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kInstructionBytes = 8;  // struct bpf_insn, include/uapi/linux/bpf.h
constexpr std::uint8_t kCallCode = 0x85;      // BPF_JMP | BPF_CALL
constexpr unsigned kAttempts = 3;
constexpr std::uint64_t kMaxUsedMaps = 4096;  // of one program; the verifier takes 64
// Maps and helpers that all programs name; some ten a program are usual.
constexpr std::size_t kMaxNamed = 8 * limits::kMaxBpfObjects;

class BpfReader {
  public:
    BpfReader(Kernel& kernel, BpfTargets& targets) : kernel_(kernel), targets_(targets) {}

    Result<BpfObjects> read(std::span<const GuestVirt> tasks) {
        TRY(kernel_.require({aux_, length_, instructions_, type_, function_, id_, name_, symbol_,
                             node_, itself_, map_count_, used_maps_}));
        TRY(read_tables());
        places_ = list_bpf_places(kernel_, targets_, tasks, result_.gaps);
        read_links();
        read_programs();
        read_maps();
        add_attachments();
        if (!result_.gaps.empty()) omit_joined();
        std::ranges::sort(result_.programs, {}, &event::BpfProgram::id);
        std::ranges::sort(result_.maps, {}, &event::BpfMap::id);
        std::ranges::sort(result_.links, {}, &event::BpfLink::id);
        return std::move(result_);
    }

  private:
    // Which views show an object. Where a table could not be walked, its absence accuses nobody.
    struct Seen {
        bool listed = false, symbol = false, attached = false;
    };
    using Objects = std::map<GuestVirt, Seen>;

    // ---- the kernel's tables -----------------------------------------------------------------

    Result<void> read_tables() {
        programs_listed_ = read_table("prog_idr", programs_);
        maps_listed_ = read_table("map_idr", maps_);
        links_listed_ = read_table("link_idr", links_);
        const auto symbols = each_symbol([&](GuestVirt at) { programs_[at].symbol = true; });
        symbols_listed_ = symbols.has_value();
        if (!symbols_listed_) result_.gaps.add("bpf_kallsyms", symbols.error());
        if (!programs_listed_ && !symbols_listed_) {
            return fail(Code::unavailable, result_.gaps.texts.front());
        }
        return {};
    }

    bool read_table(std::string_view symbol, Objects& objects) {
        const auto walked = [&]() -> Result<void> {
            return each_of_idr(kernel_, TRY(kernel_.symbol(symbol)), limits::kMaxBpfObjects, symbol,
                               [&](GuestVirt at) { objects[at].listed = true; });
        }();
        if (!walked.has_value()) result_.gaps.add(symbol, walked.error());
        return walked.has_value();
    }

    // Programs among BPF's symbols; trampolines and dispatchers are others (struct bpf_ksym).
    Result<void> each_symbol(const std::function<void(GuestVirt)>& use) {
        const Field is_program = kernel_.field("bpf_ksym", "prog");
        TRY(kernel_.require({is_program}));
        Result<void> inside;
        std::size_t count = 0;
        TRY(kernel_.walk_list(TRY(kernel_.symbol("bpf_kallsyms")), [&](GuestVirt at) {
            inside = [&]() -> Result<void> {
                const GuestVirt symbol = at - node_.offset;
                if (TRY(kernel_.read(symbol, is_program)) == 0) return {};
                use(TRY(kernel_.read_pointer(symbol - symbol_.offset, itself_)));
                if (++count <= limits::kMaxBpfObjects) return {};
                return fail(Code::limit, fmt::format("more than {}", limits::kMaxBpfObjects));
            }();
            return inside.has_value();
        }));
        return inside;
    }

    // ---- links -------------------------------------------------------------------------------

    void read_links() {
        for (const BpfPlace& place : places_) {
            if (place.link) links_[place.link].attached = true;
        }
        for (const auto& [at, views] : links_) {
            auto record = read_bpf_link(kernel_, targets_, at);
            if (!record.has_value()) {
                result_.gaps.add(fmt::format("the link at {:#x}", at.value), record.error());
                records_whole_ = false;
                continue;
            }
            record->link.listed = views.listed || !links_listed_;
            if (record->program) programs_[record->program].attached = true;
            records_.emplace(at, std::move(*record));
        }
        for (const BpfPlace& place : places_) {
            const auto record = records_.find(place.link);
            if (record != records_.end()) record->second.link.target = place.target.text;
        }
    }

    // ---- programs ----------------------------------------------------------------------------

    struct ReadProgram {
        event::BpfProgram program;
        std::vector<GuestVirt> maps;
        bool is_of_device = false;
    };

    void read_programs() {
        std::unordered_set<GuestVirt> classic;
        for (const BpfPlace& place : places_) {
            programs_[place.program].attached = true;
            if (place.takes_classic) classic.insert(place.program);
        }
        for (const auto& [at, views] : programs_) {
            auto read = read_program(at);
            if (!read.has_value()) {
                result_.gaps.add(fmt::format("the program at {:#x}", at.value), read.error());
                continue;
            }
            event::BpfProgram& program = read->program;
            program.listed = views.listed || !programs_listed_;
            if (symbols_listed_) program.has_symbol = views.symbol;
            // A part of another program is a symbol, and has no number; nor has a classic filter,
            // or a program that was made for a device which is gone.
            if (program.id == 0 && !views.listed) {
                if (!views.attached || read->is_of_device) continue;
                if (program.type == "unspec" && classic.contains(at)) continue;
            }
            for (const GuestVirt map : read->maps) use_map(map, program.id);
            used_.emplace(at, std::move(read->maps));
            result_.programs.push_back(std::move(program));
        }
    }

    void use_map(GuestVirt map, std::uint32_t program) {
        if (maps_.size() >= limits::kMaxBpfObjects && !maps_.contains(map)) {
            return result_.gaps.add(
                "maps that programs use",
                {Code::limit, 0, fmt::format("more than {}", limits::kMaxBpfObjects)});
        }
        maps_.try_emplace(map);
        users_[map].push_back(program);
    }

    Result<void> count_named(std::uint64_t more) {
        named_ += more;
        if (named_ <= kMaxNamed) return {};
        return fail(Code::limit, "all programs together name more than can be looked at");
    }

    Result<ReadProgram> read_program(GuestVirt at) {
        ReadProgram read;
        event::BpfProgram& program = read.program;
        program.address = at.value;
        const GuestVirt aux = TRY(kernel_.read_pointer(at, aux_));
        if (TRY(kernel_.read_pointer(aux, itself_)) != at) {
            return fail(Code::malformed, "it is not what its own record belongs to");
        }
        program.id = static_cast<std::uint32_t>(TRY(kernel_.read(aux, id_)));
        program.name = TRY(kernel_.read_text(aux, name_));
        program.type =
            bpf_word(kernel_, "bpf_prog_type", "BPF_PROG_TYPE_", TRY(kernel_.read(at, type_)));
        program.code = TRY(kernel_.read_pointer(at, function_)).value;
        const Field user = kernel_.field("bpf_prog_aux", "user"),
                    uid = kernel_.field("user_struct", "uid");
        if (const GuestVirt owner = TRY(kernel_.read_pointer(aux, user))) {
            program.uid = static_cast<std::uint32_t>(TRY(kernel_.read(owner, uid)));
        }
        for (const std::string_view flag : {"offload_requested", "dev_bound"}) {
            const Field of_device = kernel_.field("bpf_prog_aux", flag);
            if (of_device.known() && TRY(kernel_.read(aux, of_device)) != 0) {
                read.is_of_device = true;
            }
        }
        TRY(read_helpers(at, program));
        const std::uint64_t count = TRY(kernel_.read(aux, map_count_));
        if (count > kMaxUsedMaps) return fail(Code::limit, "it uses more maps than it can");
        TRY(count_named(count));
        read.maps.resize(count);
        if (count != 0) {
            const GuestVirt maps = TRY(kernel_.read_pointer(aux, used_maps_));
            TRY(kernel_.memory().read(maps, std::as_writable_bytes(std::span(read.maps))));
        }
        return read;
    }

    // A call of a helper says how far it is from __bpf_call_base (kernel/bpf/verifier.c).
    Result<void> read_helpers(GuestVirt at, event::BpfProgram& program) {
        const std::uint64_t length = TRY(kernel_.read(at, length_));
        if (length > limits::kMaxBpfInstructions) {
            return fail(Code::limit, "it has more instructions than the kernel takes");
        }
        instructions_read_ += length;
        if (instructions_read_ > limits::kMaxBpfInstructionsOfAll) {
            return fail(Code::limit, "all programs together have more than can be looked at");
        }
        const GuestVirt base = TRY(kernel_.symbol("__bpf_call_base"));
        std::unordered_set<std::int32_t> called;
        std::vector<std::byte> code(length * kInstructionBytes);
        TRY(kernel_.memory().read(at + instructions_.offset, code));
        for (std::size_t i = 0; i < code.size(); i += kInstructionBytes) {
            const auto source = static_cast<std::uint8_t>(code[i + 1]) >> 4;
            if (static_cast<std::uint8_t>(code[i]) != kCallCode || source != 0) continue;
            std::int32_t distance;
            std::memcpy(&distance, code.data() + i + 4, sizeof distance);
            if (!called.insert(distance).second) continue;
            TRY(count_named(1));
            program.helpers.push_back(
                symbol_text(kernel_, base + static_cast<std::uint64_t>(std::int64_t{distance})));
        }
        return {};
    }

    // ---- maps --------------------------------------------------------------------------------

    void read_maps() {
        for (const auto& [at, views] : maps_) {
            auto map = read_map(at);
            if (!map.has_value()) {
                result_.gaps.add(fmt::format("the map at {:#x}", at.value), map.error());
                continue;
            }
            map->listed = views.listed || !maps_listed_;
            std::ranges::sort(users_[at]);
            map->program_ids = users_[at];
            map_ids_.emplace(at, map->id);
            result_.maps.push_back(std::move(*map));
        }
        for (event::BpfProgram& program : result_.programs) {
            std::vector<std::uint32_t> ids;
            for (const GuestVirt map : used_[GuestVirt{program.address}]) {
                const auto id = map_ids_.find(map);
                if (id != map_ids_.end()) ids.push_back(id->second);
            }
            std::ranges::sort(ids);
            program.map_ids = std::move(ids);
        }
    }

    Result<event::BpfMap> read_map(GuestVirt at) {
        const auto number = [&](std::string_view member) -> Result<std::uint32_t> {
            return static_cast<std::uint32_t>(
                TRY(kernel_.read(at, kernel_.field("bpf_map", member))));
        };
        event::BpfMap map;
        map.id = TRY(number("id"));
        map.type = bpf_word(kernel_, "bpf_map_type", "BPF_MAP_TYPE_", TRY(number("map_type")));
        map.name = TRY(kernel_.read_text(at, kernel_.field("bpf_map", "name")));
        map.key_bytes = TRY(number("key_size"));
        map.value_bytes = TRY(number("value_size"));
        map.max_entries = TRY(number("max_entries"));
        map.flags = TRY(number("map_flags"));
        map.frozen = TRY(number("frozen")) != 0;
        map.address = at.value;
        return map;
    }

    // ---- what is attached where --------------------------------------------------------------

    void add_attachments() {
        std::unordered_map<GuestVirt, event::BpfProgram*> programs;
        std::unordered_map<GuestVirt, std::vector<event::BpfAttachment>> attached;
        std::set<std::tuple<GuestVirt, std::string, std::string, std::uint32_t>> known;
        std::set<std::pair<GuestVirt, GuestVirt>> recorded;  // program, place
        for (event::BpfProgram& program : result_.programs) {
            programs.emplace(GuestVirt{program.address}, &program);
        }
        const auto attach = [&](GuestVirt at, event::BpfAttachment attachment) {
            if (known.emplace(at, attachment.kind, attachment.target, attachment.link_id).second) {
                attached[at].push_back(std::move(attachment));
            }
        };
        const auto id_of = [&](GuestVirt at) {
            const auto found = programs.find(at);
            return found == programs.end() ? 0 : found->second->id;
        };
        for (auto& [at, record] : records_) {
            event::BpfLink& link = record.link;
            recorded.emplace(record.program, record.at);
            link.program_id = id_of(record.program);
            if (record.at) attach(record.program, {link.kind, link.target.value(), link.id});
            result_.links.push_back(std::move(link));
        }
        for (const BpfPlace& place : places_) {
            if (place.link || recorded.contains({place.program, place.target.at})) continue;
            attach(place.program, {place.target.kind, place.target.text, 0});
            // What could not be read may be its link.
            if (!place.has_link || !links_listed_ || !records_whole_) continue;
            result_.links.push_back({.type = place.target.kind,
                                     .program_id = id_of(place.program),
                                     .kind = place.target.kind,
                                     .target = place.target.text});
        }
        for (event::BpfProgram& program : result_.programs) {
            program.attachments = std::move(attached[GuestVirt{program.address}]);
        }
    }

    // What one object says of others is not whole where one of them could not be read.
    void omit_joined() {
        const std::string& why = result_.gaps.texts.front();
        const auto omit = [&]<typename T>(event::Observed<T>& joined) {
            joined = event::Observed<T>::unavailable(why);
        };
        for (event::BpfProgram& program : result_.programs) {
            omit(program.attachments), omit(program.map_ids);
            if (!symbols_listed_) omit(program.has_symbol);
        }
        for (event::BpfMap& map : result_.maps) omit(map.program_ids);
        for (event::BpfLink& link : result_.links) {
            if (link.program_id.value() == 0) omit(link.program_id);
            if (link.target.value().empty()) omit(link.target);
        }
    }

    Kernel& kernel_;
    BpfTargets& targets_;
    BpfObjects result_;
    Objects programs_, maps_, links_;
    bool programs_listed_ = false, maps_listed_ = false, links_listed_ = false,
         symbols_listed_ = false;
    bool records_whole_ = true;
    std::vector<BpfPlace> places_;
    std::map<GuestVirt, BpfLinkRecord> records_;
    std::unordered_map<GuestVirt, std::vector<GuestVirt>> used_;       // maps by program
    std::unordered_map<GuestVirt, std::vector<std::uint32_t>> users_;  // programs by map
    std::unordered_map<GuestVirt, std::uint32_t> map_ids_;
    std::uint64_t instructions_read_ = 0, named_ = 0;
    Field aux_ = kernel_.field("bpf_prog", "aux"), length_ = kernel_.field("bpf_prog", "len"),
          instructions_ = kernel_.field("bpf_prog", {"insnsi", "insns"}),
          type_ = kernel_.field("bpf_prog", "type"),
          function_ = kernel_.field("bpf_prog", "bpf_func"),
          id_ = kernel_.field("bpf_prog_aux", "id"), name_ = kernel_.field("bpf_prog_aux", "name"),
          itself_ = kernel_.field("bpf_prog_aux", "prog"),
          map_count_ = kernel_.field("bpf_prog_aux", "used_map_cnt"),
          used_maps_ = kernel_.field("bpf_prog_aux", "used_maps"),
          symbol_ = kernel_.field("bpf_prog_aux", "ksym"),
          node_ = kernel_.field("bpf_ksym", "lnode");
};

}  // namespace

Result<BpfObjects> list_bpf(Kernel& kernel, Paths& paths, Tasks& tasks,
                            std::span<const GuestVirt> task_addresses) {
    BpfTargets targets(&kernel, &paths, &tasks);
    return BpfReader(kernel, targets).read(task_addresses);
}

Gaps add_bpf_owners(Kernel& kernel, OpenFiles& files, Tasks& tasks,
                    std::span<const GuestVirt> task_addresses, BpfObjects& objects) {
    Gaps gaps;
    std::unordered_map<GuestVirt, std::vector<std::uint32_t>*> owners;
    const auto include = [&](auto& items) {
        for (auto& item : items) owners.emplace(GuestVirt{item.address}, &item.owner_pids);
    };
    include(objects.programs), include(objects.maps), include(objects.links);
    std::unordered_set<GuestVirt> operations;
    for (const std::string_view name :
         {"bpf_prog_fops", "bpf_map_fops", "bpf_link_fops", "bpf_link_fops_poll"}) {
        // The last is there since 6.10.
        if (const auto at = kernel.symbol(name); at.has_value()) operations.insert(*at);
    }
    const Field kind = kernel.field("file", "f_op"), object = kernel.field("file", "private_data");
    std::unordered_set<GuestVirt> tables;
    for (const GuestVirt task : task_addresses) {
        const auto look = [&]() -> Result<void> {
            const GuestVirt table = TRY(files.table_of(task));
            if (!table || tables.contains(table)) return {};
            const std::uint32_t pid = TRY(tasks.tgid(task));
            Result<void> inside;
            TRY(files.for_each(task, [&](std::uint32_t, GuestVirt file) {
                if (!inside.has_value()) return;
                inside = [&]() -> Result<void> {
                    if (!operations.contains(TRY(kernel.read_pointer(file, kind)))) return {};
                    const auto owner = owners.find(TRY(kernel.read_pointer(file, object)));
                    if (owner == owners.end()) return {};
                    auto& pids = *owner->second;
                    if (std::ranges::find(pids, pid) == pids.end()) pids.push_back(pid);
                    return {};
                }();
            }));
            TRY(std::move(inside));
            tables.insert(table);
            return {};
        };
        // Files are closed, and tasks end, while they are read.
        auto done = look();
        for (unsigned attempt = 1; !done.has_value() && attempt < kAttempts; ++attempt) {
            kernel.forget();
            done = look();
        }
        if (!done.has_value()) gaps.add("open files of a task", done.error());
    }
    for (auto& [at, pids] : owners) std::ranges::sort(*pids);
    return gaps;
}

}  // namespace underseer::guest_linux
