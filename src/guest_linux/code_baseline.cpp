#include "guest_linux/code_baseline.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <optional>
#include <span>

#include "guest_linux/hooks.h"
#include "guest_linux/patched_calls.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kMaxCodeBytes = 256u << 20;
constexpr std::size_t kMaxTableEntries = 1u << 20;
constexpr std::size_t kShortJumpBytes = 2, kNearBranchBytes = 5;
constexpr std::size_t kSiteBytes = 6;  // the longest instruction that is patched: jcc
constexpr std::size_t kAround = 8;     // bytes of evidence on either side
constexpr std::byte kCallOpcode{0xe8}, kJumpOpcode{0xe9}, kShortJump{0xeb}, kBreakpoint{0xcc};
constexpr std::byte kTwoBytes{0x0f}, kJcc{0x80}, kHighHalf{0xf0};
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
class CodeBaseline::Sites {
  public:
    Sites(Kernel& kernel, const CodeMap& code) : kernel_(kernel), code_(code), ftrace_(kernel) {
        part("jump labels", [&] { return read_jump_labels(); });
        part("static calls", [&]() -> Result<void> {
            calls_ = TRY(StaticCalls::read(kernel_));
            return {};
        });
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
        if (call && is_conditional && may_stand_for(target_of(at, now), *call)) return kSiteBytes;
        if (is_entry(at) && is_one_of(branch, std::span(kNothing).first<2>()))
            return kNearBranchBytes;
        if (now[0] != kCallOpcode && now[0] != kJumpOpcode) {
            return now[0] == kBreakpoint && is_probed(at) ? 1 : 0;
        }
        const GuestVirt target = target_of(at, branch);
        if (is_label && target == label->second) return kNearBranchBytes;
        if (call && may_stand_for(target, *call)) return kNearBranchBytes;
        if ((is_ftraces || is_entry(at)) && ftrace_.may_call(target)) return kNearBranchBytes;
        const auto owner = code_.owner_of(target);
        using Kind = CodeOwner::Kind;
        const bool is_trampoline =
            owner && (owner->kind == Kind::ftrace || owner->kind == Kind::bpf ||
                      owner->kind == Kind::kprobes);
        return is_trampoline ? kNearBranchBytes : 0;
    }

  private:
    template <typename Read>
    void part(std::string_view what, Read&& read) {
        if (auto done = read(); !done.has_value()) {
            gaps.add(what, done.error());
        }
    }

    // struct jump_entry: two relative addresses of 32 bits and a key (include/linux/jump_label.h).
    Result<void> read_jump_labels() {
        struct Entry {
            std::int32_t code, target;
            std::int64_t key;
        };
        return each_entry<Entry>(
            "__start___jump_table", "__stop___jump_table", [&](GuestVirt at, const Entry& entry) {
                labels_[relative(at, entry.code)] = relative(at + 4, entry.target);
            });
    }

    template <typename Entry, typename Use>
    Result<void> each_entry(std::string_view first, std::string_view last, Use&& use) {
        const auto begin = kernel_.symbol(first), end = kernel_.symbol(last);
        if (!begin.has_value() || !end.has_value()) return {};  // built without them
        if (*end < *begin || (*end - *begin) / sizeof(Entry) > kMaxTableEntries) {
            return fail(Code::malformed, "the table has no end");
        }
        std::vector<Entry> table((*end - *begin) / sizeof(Entry));
        TRY(kernel_.memory().read(*begin, std::as_writable_bytes(std::span(table))));
        for (std::size_t i = 0; i < table.size(); ++i) use(*begin + i * sizeof(Entry), table[i]);
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

    static bool is_one_of(std::span<const std::byte, kNearBranchBytes> now,
                          std::span<const std::array<std::uint8_t, kNearBranchBytes>> forms) {
        return std::ranges::any_of(forms, [&](const auto& form) {
            return std::memcmp(form.data(), now.data(), kNearBranchBytes) == 0;
        });
    }

    // Where ftrace may put a call: at the begin of a function, behind an endbr64.
    bool is_entry(GuestVirt at) const {
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
    std::optional<StaticCalls> calls_;
    mutable FtraceCalls ftrace_;
    mutable std::optional<std::vector<GuestVirt>> probes_;
};

Result<CodeComparison> CodeBaseline::compare(Kernel& kernel, const CodeMap& code) {
    const GuestVirt begin = TRY(kernel.symbol("_text")), end = TRY(kernel.symbol("_etext"));
    if (end <= begin || end - begin > kMaxCodeBytes) {
        return fail(Code::malformed, "the kernel's code has no end");
    }
    const std::size_t size = end - begin;
    if (bytes_.size() != size || begin != begin_) {
        begin_ = begin;
        bytes_.assign(size, std::byte{0});
        known_.assign((size + kPageSize - 1) / kPageSize, false);
    }
    CodeComparison result;
    std::optional<Sites> sites;  // only where something differs
    std::array<std::byte, kPageSize + kSiteBytes> now;
    for (std::size_t page = 0; page < known_.size(); ++page) {
        const std::size_t first = page * kPageSize,
                          bytes = std::min<std::size_t>(kPageSize, size - first);
        if (!kernel.memory().read(begin + first, std::span(now).first(bytes)).has_value()) {
            ++result.unreadable;
            continue;
        }
        std::byte* const before = bytes_.data() + first;
        if (!known_[page]) {  // the first look, or the first that could read it
            std::memcpy(before, now.data(), bytes);
            known_[page] = true;
            continue;
        }
        ++result.pages;
        if (std::memcmp(before, now.data(), bytes) == 0) continue;
        if (result.altered.size() >= limits::kMaxWaysOut) continue;  // more than is told
        if (!sites) sites.emplace(kernel, code);
        compare_page(kernel, *sites, page, result);
    }
    if (sites) result.gaps = std::move(sites->gaps);
    return result;
}

// What differs in a page, place by place. A place may lie across the border to a neighbour.
void CodeBaseline::compare_page(Kernel& kernel, const Sites& sites, std::size_t page,
                                CodeComparison& result) {
    const std::size_t first = page * kPageSize,
                      last = std::min<std::size_t>(first + kPageSize, bytes_.size());
    const std::size_t from = first - std::min<std::size_t>(first, kAround),
                      to = std::min(last + kAround, bytes_.size());
    std::vector<std::byte> now(to - from);
    if (!kernel.memory().read(begin_ + from, now).has_value()) {
        ++result.unreadable;
        return;
    }
    const auto is_lock = [](std::byte one) { return one == kLock || one == kSegmentPrefix; };
    for (std::size_t at = first; at < last;) {
        const std::byte was = bytes_[at], is = now[at - from];
        // Locks are dropped and taken up again with the number of CPUs (.smp_locks).
        if (was == is || (is_lock(was) && is_lock(is))) {
            ++at;
            continue;
        }
        std::size_t explained = 0;
        for (std::size_t back = 0; back < kSiteBytes && back <= at - from; ++back) {
            const std::size_t place = at - back - from;
            if (place + kSiteBytes > now.size()) continue;
            const std::size_t held = sites.holds(begin_ + (at - back),
                                                 std::span(now).subspan(place).first<kSiteBytes>());
            if (held > back) explained = held - back;
            if (explained > 0) break;
        }
        if (explained > 0) {
            at += explained;
            continue;
        }
        const std::size_t left = at - std::min(at - from, kAround),
                          right = std::min(at + kSiteBytes + kAround, to);
        const auto text = [&](const std::byte* of) {
            return std::string(reinterpret_cast<const char*>(of), right - left);
        };
        if (result.altered.size() < limits::kMaxWaysOut) {
            result.altered.push_back({begin_ + at, begin_ + left, text(bytes_.data() + left),
                                      text(now.data() + (left - from))});
        }
        // What stands beside it is told with it.
        at += kSiteBytes;
    }
}

}  // namespace underseer::guest_linux
