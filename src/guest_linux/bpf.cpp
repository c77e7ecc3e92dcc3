#include "guest_linux/bpf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "guest_linux/hooks.h"
#include "guest_linux/xarray.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kInstructionBytes = 8;  // struct bpf_insn, include/uapi/linux/bpf.h
constexpr std::uint8_t kCallCode = 0x85;      // BPF_JMP | BPF_CALL
constexpr unsigned kAttempts = 3;
constexpr std::string_view kTypePrefix = "BPF_PROG_TYPE_";

class BpfReader {
  public:
    explicit BpfReader(Kernel& kernel) : kernel_(kernel) {}

    Result<BpfPrograms> read() {
        TRY(kernel_.require(
            {aux_, length_, instructions_, type_, function_, id_, name_, symbol_, node_}));
        struct Seen {
            bool listed = false, symbol = false;
        };
        std::map<GuestVirt, Seen> seen;
        const auto listed =
            each_of_idr(kernel_, TRY(kernel_.symbol("prog_idr")), limits::kMaxBpfPrograms,
                        "prog_idr", [&](GuestVirt at) { seen[at].listed = true; });
        if (!listed.has_value()) result_.gaps.add("prog_idr", listed.error());
        const auto symbols = each_symbol([&](GuestVirt at) { seen[at].symbol = true; });
        if (!symbols.has_value()) result_.gaps.add("bpf_kallsyms", symbols.error());
        if (!listed.has_value() && !symbols.has_value()) {
            return fail(Code::unavailable, result_.gaps.texts.front());
        }
        for (const auto& [at, views] : seen) {
            auto program = read_program(at);
            if (!program.has_value()) {
                result_.gaps.add(fmt::format("the program at {:#x}", at.value), program.error());
                continue;
            }
            // Where one of both could not be walked, it accuses nobody.
            program->is_listed = views.listed || !listed.has_value();
            program->is_symbol = views.symbol;
            // A part of another program is a symbol, and has no number.
            if (program->id == 0 && !views.listed) continue;
            result_.programs.push_back(std::move(*program));
        }
        return std::move(result_);
    }

  private:
    // Programs among BPF's symbols; trampolines and dispatchers are others (struct bpf_ksym).
    Result<void> each_symbol(const std::function<void(GuestVirt)>& use) {
        const Field is_program = kernel_.field("bpf_ksym", "prog"),
                    program = kernel_.field("bpf_prog_aux", "prog");
        TRY(kernel_.require({is_program, program}));
        Result<void> inside;
        std::size_t count = 0;
        TRY(kernel_.walk_list(TRY(kernel_.symbol("bpf_kallsyms")), [&](GuestVirt at) {
            inside = [&]() -> Result<void> {
                const GuestVirt symbol = at - node_.offset;
                if (TRY(kernel_.read(symbol, is_program)) == 0) return {};
                use(TRY(kernel_.read_pointer(symbol - symbol_.offset, program)));
                if (++count <= limits::kMaxBpfPrograms) return {};
                return fail(Code::limit, fmt::format("more than {}", limits::kMaxBpfPrograms));
            }();
            return inside.has_value();
        }));
        return inside;
    }

    Result<BpfProgram> read_program(GuestVirt at) {
        BpfProgram program{.address = at};
        const GuestVirt aux = TRY(kernel_.read_pointer(at, aux_));
        program.id = static_cast<std::uint32_t>(TRY(kernel_.read(aux, id_)));
        program.name = TRY(kernel_.read_text(aux, name_));
        program.type = type_name(TRY(kernel_.read(at, type_)));
        program.code = TRY(kernel_.read_pointer(at, function_));
        const Field user = kernel_.field("bpf_prog_aux", "user"),
                    uid = kernel_.field("user_struct", "uid");
        if (const GuestVirt owner = TRY(kernel_.read_pointer(aux, user))) {
            program.uid = static_cast<std::uint32_t>(TRY(kernel_.read(owner, uid)));
        }
        TRY(read_helpers(at, program));
        return program;
    }

    // A call of a helper says how far it is from __bpf_call_base (kernel/bpf/verifier.c).
    Result<void> read_helpers(GuestVirt at, BpfProgram& program) {
        const std::uint64_t length = TRY(kernel_.read(at, length_));
        if (length > limits::kMaxBpfInstructions) {
            return fail(Code::limit, "it has more instructions than the kernel takes");
        }
        instructions_read_ += length;
        if (instructions_read_ > limits::kMaxBpfInstructionsOfAll) {
            return fail(Code::limit, "all programs together have more than can be looked at");
        }
        const GuestVirt base = TRY(kernel_.symbol("__bpf_call_base"));
        std::vector<std::byte> code(length * kInstructionBytes);
        TRY(kernel_.memory().read(at + instructions_.offset, code));
        for (std::size_t i = 0; i < code.size(); i += kInstructionBytes) {
            const auto source = static_cast<std::uint8_t>(code[i + 1]) >> 4;
            if (static_cast<std::uint8_t>(code[i]) != kCallCode || source != 0) continue;
            std::int32_t distance;
            std::memcpy(&distance, code.data() + i + 4, sizeof distance);
            std::string helper =
                symbol_text(kernel_, base + static_cast<std::uint64_t>(std::int64_t{distance}));
            auto& all = program.helpers;
            if (std::ranges::find(all, helper) == all.end()) all.push_back(std::move(helper));
        }
        return {};
    }

    std::string type_name(std::uint64_t value) const {
        const Btf& types = kernel_.types();
        for (std::uint32_t id = 0; id < types.type_count(); ++id) {
            const Btf::Type& type = types.type(id);
            if (type.kind != BtfKind::enumeration || types.name(type) != "bpf_prog_type") continue;
            for (std::uint32_t i = 0; i < type.count; ++i) {
                const Btf::RawEnumerator one = types.enumerator(type, i);
                std::string_view name = types.string_at(one.name);
                if (static_cast<std::uint64_t>(one.value) != value ||
                    !name.starts_with(kTypePrefix)) {
                    continue;
                }
                std::string text(name.substr(kTypePrefix.size()));
                std::ranges::transform(text, text.begin(), [](char c) {
                    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
                });
                return text;
            }
        }
        return fmt::format("type {}", value);
    }

    Kernel& kernel_;
    BpfPrograms result_;
    std::uint64_t instructions_read_ = 0;
    Field aux_ = kernel_.field("bpf_prog", "aux"), length_ = kernel_.field("bpf_prog", "len"),
          instructions_ = kernel_.field("bpf_prog", {"insnsi", "insns"}),
          type_ = kernel_.field("bpf_prog", "type"),
          function_ = kernel_.field("bpf_prog", "bpf_func"),
          id_ = kernel_.field("bpf_prog_aux", "id"), name_ = kernel_.field("bpf_prog_aux", "name"),
          symbol_ = kernel_.field("bpf_prog_aux", "ksym"),
          node_ = kernel_.field("bpf_ksym", "lnode");
};

}  // namespace

Result<BpfPrograms> list_bpf_programs(Kernel& kernel) {
    // Programs come and go while they are read.
    for (unsigned attempt = 1;; ++attempt) {
        auto programs = BpfReader(kernel).read();
        const bool is_whole = programs.has_value() && programs->gaps.broken.empty();
        if (is_whole || attempt == kAttempts) return programs;
        kernel.forget();
    }
}

}  // namespace underseer::guest_linux
