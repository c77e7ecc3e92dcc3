#include "guest_linux/code_baseline.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>

#include "guest_linux/hooks.h"
#include "guest_linux/patched_calls.h"
#include "guest_linux/vdso.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kMaxCodeBytes = 256u << 20;
constexpr std::size_t kMaxTableEntries = 1u << 20;
constexpr std::size_t kShortJumpBytes = 2, kNearBranchBytes = 5;
constexpr std::size_t kConditionalBytes = 6;  // jcc: the longest instruction that is patched
constexpr std::size_t kSiteBytes = 8;         // with what stands behind a trampoline
constexpr std::size_t kAround = 8;            // bytes of evidence on either side
constexpr std::byte kCallOpcode{0xe8}, kJumpOpcode{0xe9}, kShortJump{0xeb}, kBreakpoint{0xcc};
constexpr std::byte kTwoBytes{0x0f}, kJcc{0x80}, kHighHalf{0xf0};
// Behind the trampoline of a static call: "SCT", and since 6.1 an instruction that nobody else has
// (arch/x86/include/asm/static_call.h).
constexpr std::array<std::array<std::uint8_t, 3>, 2> kTrampolineMarks{
    {{0x53, 0x43, 0x54}, {0x0f, 0xb9, 0xcc}}};
constexpr std::byte kLock{0xf0}, kSegmentPrefix{0x3e};

// What five bytes can be where nothing is called (arch/x86/kernel/alternative.c, static_call.c).
constexpr std::array<std::array<std::uint8_t, kNearBranchBytes>, 6> kNothing{
    {{0x0f, 0x1f, 0x44, 0x00, 0x00},
     {0x66, 0x66, 0x66, 0x66, 0x90},
     {0x66, 0x66, 0x48, 0x31, 0xc0},    // xor %rax,%rax: a static call that returns 0
     {0x2e, 0x2e, 0x2e, 0x31, 0xc0},    // the same in later kernels
     {0xc3, 0xcc, 0xcc, 0xcc, 0xcc},    // ret: one that jumps to nothing
     {0x67, 0x48, 0x0f, 0xb9, 0x3a}}};  // ud1: one that must never be reached

}  // namespace

// Where the kernel alters its own code.
class PatchSites {
  public:
    PatchSites(Kernel& kernel, const CodeMap& code)
        : kernel_(kernel), code_(code), ftrace_(kernel) {
        part("jump labels", [&] { return read_jump_labels(); });
        part("static calls", [&]() -> Result<void> {
            calls_ = TRY(StaticCalls::read(kernel_));
            return {};
        });
        for (const ModuleCode& module : code.modules) {
            if (!module.is_live) continue;
            part(module.name, [&] { return add_module(module.module); });
        }
    }

    Gaps gaps;

    // How many bytes from `at` on are what a place that is patched may hold; 0: none. `now` are
    // the bytes that stand there.
    std::size_t holds(GuestVirt at, std::span<const std::byte, kSiteBytes> now) const {
        const auto branch = now.first<kNearBranchBytes>();
        const auto call = calls_ ? calls_->target_at(at) : std::nullopt;
        const auto label = labels_.find(at);
        const bool is_label = label != labels_.end(), is_ftraces = ftrace_.is_at(at);
        // In the middle of being written (text_poke_bp(), smp_text_poke_single()), or nobody's.
        const bool is_none = now[0] == kBreakpoint || is_one_of(branch, kNothing);
        if ((call || is_label || is_ftraces) && is_none) return kNearBranchBytes;
        if (is_label && is_short_label(at, now, label->second)) return kShortJumpBytes;
        const bool is_conditional = now[0] == kTwoBytes && (now[1] & kHighHalf) == kJcc;
        if (call && is_conditional &&
            may_stand_for(target_of(at, now.first<kConditionalBytes>()), *call)) {
            return kConditionalBytes;
        }
        if (is_entry(at) && is_one_of(branch, std::span(kNothing).first<2>()))
            return kNearBranchBytes;
        const bool is_trampoline = is_marked(now);
        if (is_trampoline && is_none) return kNearBranchBytes;
        if (now[0] != kCallOpcode && now[0] != kJumpOpcode) {
            return now[0] == kBreakpoint && is_probed(at) ? 1 : 0;
        }
        const GuestVirt target = target_of(at, branch);
        if (is_label && target == label->second) return kNearBranchBytes;
        if (call && may_stand_for(target, *call)) return kNearBranchBytes;
        if (is_trampoline && calls_ &&
            (calls_->may_call(target) || may_stand_for(target, GuestVirt{}))) {
            return kNearBranchBytes;
        }
        if ((is_ftraces || is_entry(at)) && ftrace_.may_call(target)) return kNearBranchBytes;
        const auto owner = code_.owner_of(target);
        using Kind = CodeOwner::Kind;
        const bool is_patched_in =
            owner && (owner->kind == Kind::ftrace || owner->kind == Kind::bpf ||
                      owner->kind == Kind::kprobes);
        return is_patched_in ? kNearBranchBytes : 0;
    }

  private:
    template <typename Read>
    void part(std::string_view what, Read&& read) {
        if (auto done = read(); !done.has_value()) {
            gaps.add(what, done.error());
        }
    }

    // struct jump_entry: two relative addresses of 32 bits and a key (include/linux/jump_label.h).
    struct JumpEntry {
        std::int32_t code, target;
        std::int64_t key;
    };
    Result<void> read_jump_labels() {
        const auto begin = kernel_.symbol("__start___jump_table"),
                   end = kernel_.symbol("__stop___jump_table");
        if (!begin.has_value() || !end.has_value()) return {};  // built without them
        if (*end < *begin) return fail(Code::malformed, "the table has no end");
        return add_jump_labels(*begin, (*end - *begin) / sizeof(JumpEntry));
    }
    Result<void> add_jump_labels(GuestVirt table, std::uint64_t entries) {
        return each_entry<JumpEntry>(table, entries, [&](GuestVirt at, const JumpEntry& entry) {
            labels_[relative(at, entry.code)] = relative(at + 4, entry.target);
        });
    }

    // A module has its own tables of them (include/linux/module.h).
    Result<void> add_module(GuestVirt module) {
        const auto table = [&](std::string_view name, std::string_view count,
                               auto&& add) -> Result<void> {
            const Field at = kernel_.field("module", name), size = kernel_.field("module", count);
            if (!at.known() || !size.known()) return {};  // a kernel without such places
            const GuestVirt begin = TRY(kernel_.read_pointer(module, at));
            const std::uint64_t entries = TRY(kernel_.read(module, size));
            return begin && entries > 0 ? add(begin, entries) : Result<void>();
        };
        TRY(table("jump_entries", "num_jump_entries",
                  [&](GuestVirt at, std::uint64_t count) { return add_jump_labels(at, count); }));
        TRY(table("static_call_sites", "num_static_call_sites",
                  [&](GuestVirt at, std::uint64_t count) {
                      return calls_ ? calls_->add(at, count) : Result<void>();
                  }));
        return table("ftrace_callsites", "num_ftrace_callsites",
                     [&](GuestVirt at, std::uint64_t count) {
                         return each_entry<GuestVirt>(
                             at, count, [&](GuestVirt, GuestVirt site) { entries_.insert(site); });
                     });
    }

    template <typename Entry, typename Use>
    Result<void> each_entry(GuestVirt table, std::uint64_t entries, Use&& use) {
        if (entries > kMaxTableEntries) return fail(Code::malformed, "the table has no end");
        std::vector<Entry> all(entries);
        TRY(kernel_.memory().read(table, std::as_writable_bytes(std::span(all))));
        for (std::size_t i = 0; i < all.size(); ++i) use(table + i * sizeof(Entry), all[i]);
        return {};
    }

    static GuestVirt relative(GuestVirt at, std::int32_t distance) {
        return GuestVirt{at.value + static_cast<std::uint64_t>(std::int64_t{distance})};
    }

    // Of an instruction that ends with 32 bits that say how far from its end.
    static GuestVirt target_of(GuestVirt at, std::span<const std::byte> instruction) {
        std::int32_t distance;
        std::memcpy(&distance, instruction.data() + instruction.size() - sizeof distance,
                    sizeof distance);
        return relative(at + instruction.size(), distance);
    }

    // A jump label of two bytes: it jumps to its target, or goes on.
    static bool is_short_label(GuestVirt at, std::span<const std::byte> now, GuestVirt target) {
        if (now[0] == std::byte{0x66} && now[1] == std::byte{0x90}) return true;
        return now[0] == kShortJump &&
               relative(at + kShortJumpBytes, static_cast<std::int8_t>(now[1])) == target;
    }

    // A call of nobody goes to a return.
    bool may_stand_for(GuestVirt target, GuestVirt called) const {
        if (called) return target == called;
        const auto symbol = kernel_.symbols().nearest(target);
        return symbol && symbol->address == target &&
               (symbol->name.ends_with("return_thunk") || symbol->name == "__static_call_return");
    }

    static bool is_marked(std::span<const std::byte, kSiteBytes> now) {
        return std::ranges::any_of(kTrampolineMarks, [&](const auto& mark) {
            return std::memcmp(mark.data(), now.data() + kNearBranchBytes, mark.size()) == 0;
        });
    }

    static bool is_one_of(std::span<const std::byte, kNearBranchBytes> now,
                          std::span<const std::array<std::uint8_t, kNearBranchBytes>> forms) {
        return std::ranges::any_of(forms, [&](const auto& form) {
            return std::memcmp(form.data(), now.data(), kNearBranchBytes) == 0;
        });
    }

    // Where ftrace may put a call: at the begin of a function, behind an endbr64.
    bool is_entry(GuestVirt at) const {
        if (entries_.contains(at)) return true;
        const auto function = kernel_.symbols().nearest(at);
        return function && at - function->address <= 4;
    }

    bool is_probed(GuestVirt at) const {
        if (!probes_) {
            probes_.emplace();
            for (const Hook& hook : list_hooks(kernel_).hooks) {
                if (hook.kind == HookKind::kprobe) probes_->push_back(hook.place);
            }
        }
        return std::ranges::find(*probes_, at) != probes_->end();
    }

    Kernel& kernel_;
    const CodeMap& code_;
    std::map<GuestVirt, GuestVirt> labels_;  // to where each jumps
    std::set<GuestVirt> entries_;            // of modules' functions, where ftrace may put a call
    std::optional<StaticCalls> calls_;
    mutable FtraceCalls ftrace_;
    mutable std::optional<std::vector<GuestVirt>> probes_;
};

Result<PageHashes> hash_text(Kernel& kernel) {
    const GuestVirt begin = TRY(kernel.symbol("_text")), end = TRY(kernel.symbol("_etext"));
    if (end <= begin || end - begin > kMaxCodeBytes) {
        return fail(Code::malformed, "the kernel's code has no end");
    }
    return hash_pages(kernel, begin, end - begin);
}

std::vector<CodeBaseline::Piece> CodeBaseline::pieces(Kernel& kernel, const CodeMap& code,
                                                      const PageHashes& text, Gaps& gaps) {
    std::vector<Piece> all{{.begin = text.begin, .size_bytes = text.size_bytes}};
    std::uint64_t left = kMaxCodeBytes;
    for (const ModuleCode& module : code.modules) {
        if (!module.is_live || module.size_bytes == 0) continue;
        const std::uint64_t pages = (module.size_bytes + kPageSize - 1) / kPageSize;
        if (module.size_bytes > left || pages * kPageSize > left) {
            gaps.add("module " + module.name, {Code::limit, 0, "modules have too much code"});
            continue;
        }
        left -= pages * kPageSize;
        all.push_back(
            {module.begin, module.size_bytes, "module " + module.name, module.module, module.life});
    }
    for (VdsoImage& image : vdso_images(kernel, gaps)) {
        all.push_back({image.data, image.size_bytes, std::move(image.name), GuestVirt{}, 0});
    }
    return all;
}

Result<CodeComparison> CodeBaseline::compare(Kernel& kernel, const CodeMap& code,
                                             const PageHashes& text) {
    CodeComparison result;
    const std::vector<Piece> present = pieces(kernel, code, text, result.uncompared);
    // Where modules could not be listed, one that is not there may well be.
    if (code.gaps.empty()) {
        std::erase_if(known_, [&](const auto& known) {
            return std::ranges::find(present, known.second.piece) == present.end();
        });
    }
    std::optional<PatchSites> sites;  // only where something differs
    for (const Piece& piece : present) {
        const bool is_text = piece.begin == text.begin;
        const PageHashes own =
            is_text ? PageHashes{} : hash_pages(kernel, piece.begin, piece.size_bytes);
        const PageHashes& now = is_text ? text : own;
        auto found = known_.find(piece.begin);
        if (found == known_.end() || found->second.piece != piece) {
            found =
                known_.insert_or_assign(piece.begin, Known{piece, PageStore(now.of.size())}).first;
        }
        Known& known = found->second;
        for (std::size_t page = 0; page < known.pages.size(); ++page) {
            if (!now.of[page]) {
                ++result.unreadable;
                continue;
            }
            if (!known.pages.hash(page)) {  // the first look, or the first that could read it
                if (!keep_page(kernel, known, page)) ++result.unreadable;
                continue;
            }
            ++result.pages;
            if (known.pages.hash(page) == now.of[page]) continue;
            if (result.altered.size() >= limits::kMaxWaysOut) continue;  // more than is told
            if (!sites) sites.emplace(kernel, code);
            compare_page(kernel, *sites, known, page, result);
        }
        known.pages.close();
    }
    if (sites) result.gaps = std::move(sites->gaps);
    return result;
}

bool CodeBaseline::keep_page(Kernel& kernel, Known& known, std::size_t page) {
    std::array<std::byte, kPageSize> bytes{};
    const std::size_t first = page * kPageSize,
                      size = std::min<std::size_t>(kPageSize, known.piece.size_bytes - first);
    if (!kernel.memory().read(known.piece.begin + first, std::span(bytes).first(size)).has_value())
        return false;
    known.pages.keep(page, bytes);
    return true;
}

namespace {

// What differs from offset `first` to `last`, place by place; both begin at `at`.
void compare_places(const PatchSites& sites, GuestVirt at, Bytes before, std::vector<std::byte> now,
                    std::size_t first, std::size_t last,
                    const std::function<std::string(GuestVirt)>& name_of, CodeComparison& result) {
    now.resize(now.size() + kSiteBytes);  // so that one at the very end can be looked at
    const auto is_lock = [](std::byte one) { return one == kLock || one == kSegmentPrefix; };
    for (std::size_t i = first; i < last;) {
        // Locks are dropped and taken up again with the number of CPUs (.smp_locks).
        if (before[i] == now[i] || (is_lock(before[i]) && is_lock(now[i]))) {
            ++i;
            continue;
        }
        std::size_t explained = 0;
        for (std::size_t back = 0; back < kSiteBytes && back <= i; ++back) {
            const std::size_t held =
                sites.holds(at + (i - back), std::span(now).subspan(i - back).first<kSiteBytes>());
            if (held > back) explained = held - back;
            if (explained > 0) break;
        }
        if (explained > 0) {
            i += explained;
            continue;
        }
        const std::size_t left = i - std::min(i, kAround),
                          right = std::min(i + kSiteBytes + kAround, before.size());
        if (result.altered.size() < limits::kMaxWaysOut) {
            const auto text = [&](Bytes of) {
                return std::string(as_text(of.subspan(left, right - left)));
            };
            result.altered.push_back({name_of(at + i), at + i, at + left, text(before), text(now)});
        }
        // What stands beside it is told with it.
        i += kSiteBytes;
    }
}

}  // namespace

// A place may lie across the border to a neighbour.
void CodeBaseline::compare_page(Kernel& kernel, const PatchSites& sites, Known& known,
                                std::size_t page, CodeComparison& result) {
    const Piece& piece = known.piece;
    const auto has = [&](std::size_t which) {
        return which < known.pages.size() && known.pages.hash(which).has_value();
    };
    const std::size_t first = page * kPageSize,
                      last = std::min<std::size_t>(first + kPageSize, piece.size_bytes);
    const std::size_t from = page > 0 && has(page - 1) ? first - kAround : first,
                      to = has(page + 1) ? std::min<std::size_t>(last + kAround, piece.size_bytes)
                                         : last;
    std::vector<std::byte> before, now(to - from);
    for (std::size_t which = from / kPageSize; which * kPageSize < to; ++which) {
        const auto bytes = known.pages.bytes(which);
        const std::size_t begins = which * kPageSize, skip = std::max(begins, from) - begins,
                          ends = std::min(to - begins, bytes.size());
        before.insert(before.end(), bytes.begin() + static_cast<std::ptrdiff_t>(skip),
                      bytes.begin() + static_cast<std::ptrdiff_t>(ends));
    }
    if (!kernel.memory().read(piece.begin + from, now).has_value()) {
        ++result.unreadable;
        return;
    }
    compare_places(
        sites, piece.begin + from, before, std::move(now), first - from, last - from,
        [&](GuestVirt at) {
            return piece.name.empty() ? symbol_text(kernel, at)
                                      : fmt::format("{}+{:#x}", piece.name, at - piece.begin);
        },
        result);
}

CodeComparison compare_code(Kernel& kernel, const CodeMap& code, GuestVirt at, Bytes before,
                            Bytes now) {
    CHECK(before.size() == now.size());
    CodeComparison result;
    const PatchSites sites(kernel, code);
    compare_places(
        sites, at, before, {now.begin(), now.end()}, 0, now.size(),
        [&](GuestVirt place) { return symbol_text(kernel, place); }, result);
    result.gaps = sites.gaps;
    return result;
}

}  // namespace underseer::guest_linux
