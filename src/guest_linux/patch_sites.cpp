#include "guest_linux/patch_sites.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "guest_linux/hooks.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kMaxTableEntries = 1u << 20;
constexpr std::size_t kShortJumpBytes = 2, kNearBranchBytes = 5;
constexpr std::size_t kConditionalBytes = 6;  // jcc: the longest instruction that is patched
constexpr std::byte kCallOpcode{0xe8}, kJumpOpcode{0xe9}, kShortJump{0xeb}, kBreakpoint{0xcc};
constexpr std::byte kTwoBytes{0x0f}, kJcc{0x80}, kHighHalf{0xf0};
// Behind the trampoline of a static call: "SCT", and since 6.1 an instruction that nobody else has
// (arch/x86/include/asm/static_call.h).
constexpr std::array<std::array<std::uint8_t, 3>, 2> kTrampolineMarks{
    {{0x53, 0x43, 0x54}, {0x0f, 0xb9, 0xcc}}};

// What five bytes can be where nothing is called (arch/x86/kernel/alternative.c, static_call.c).
constexpr std::array<std::array<std::uint8_t, kNearBranchBytes>, 6> kNothing{
    {{0x0f, 0x1f, 0x44, 0x00, 0x00},
     {0x66, 0x66, 0x66, 0x66, 0x90},
     {0x66, 0x66, 0x48, 0x31, 0xc0},    // xor %rax,%rax: a static call that returns 0
     {0x2e, 0x2e, 0x2e, 0x31, 0xc0},    // the same in later kernels
     {0xc3, 0xcc, 0xcc, 0xcc, 0xcc},    // ret: one that jumps to nothing
     {0x67, 0x48, 0x0f, 0xb9, 0x3a}}};  // ud1: one that must never be reached

GuestVirt from(GuestVirt at, std::int32_t distance) {
    return GuestVirt{at.value + static_cast<std::uint64_t>(std::int64_t{distance})};
}

// Of an instruction that ends with 32 bits that say how far from its end.
GuestVirt target_of(GuestVirt at, std::span<const std::byte> instruction) {
    std::int32_t distance;
    std::memcpy(&distance, instruction.data() + instruction.size() - sizeof distance,
                sizeof distance);
    return from(at + instruction.size(), distance);
}

// A jump label of two bytes: it jumps to its target, or goes on.
bool is_short_label(GuestVirt at, std::span<const std::byte> now, GuestVirt target) {
    if (now[0] == std::byte{0x66} && now[1] == std::byte{0x90}) return true;
    return now[0] == kShortJump &&
           from(at + kShortJumpBytes, static_cast<std::int8_t>(now[1])) == target;
}

bool is_marked(Bytes now) {
    return std::ranges::any_of(kTrampolineMarks, [&](const auto& mark) {
        return std::memcmp(mark.data(), now.data() + kNearBranchBytes, mark.size()) == 0;
    });
}

bool is_one_of(std::span<const std::byte, kNearBranchBytes> now,
               std::span<const std::array<std::uint8_t, kNearBranchBytes>> forms) {
    return std::ranges::any_of(forms, [&](const auto& form) {
        return std::memcmp(form.data(), now.data(), kNearBranchBytes) == 0;
    });
}

}  // namespace

template <typename Read>
void PatchSites::part(std::string_view what, Read&& read) {
    if (auto done = read(); !done.has_value()) {
        gaps.add(what, done.error());
    }
}

template <typename Entry, typename Use>
Result<void> PatchSites::each_entry(GuestVirt table, std::uint64_t entries, Use&& use) {
    if (entries > kMaxTableEntries) return fail(Code::malformed, "the table has no end");
    std::vector<Entry> all(entries);
    TRY(kernel_.memory().read(table, std::as_writable_bytes(std::span(all))));
    for (std::size_t i = 0; i < all.size(); ++i) use(table + i * sizeof(Entry), all[i]);
    return {};
}

PatchSites::PatchSites(Kernel& kernel, const CodeMap& code)
    : kernel_(kernel), code_(code), counter_bytes_(call_counter_bytes(kernel)), ftrace_(kernel) {
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

std::size_t PatchSites::explains(GuestVirt at, Bytes now, std::size_t i) const {
    std::array<std::byte, kSiteBytes> site{};
    for (std::size_t back = 0; back < kSiteBytes && back <= i; ++back) {
        const Bytes rest = now.subspan(i - back);
        site = {};
        std::ranges::copy(rest.first(std::min(rest.size(), kSiteBytes)), site.begin());
        const std::size_t held = holds(at + (i - back), site);
        if (held > back) return held - back;
    }
    return 0;
}

std::size_t PatchSites::holds(GuestVirt at, std::span<const std::byte, kSiteBytes> now) const {
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
    if (is_entry(at) && is_one_of(branch, std::span(kNothing).first<2>())) return kNearBranchBytes;
    const bool is_trampoline = is_marked(now);
    if (is_trampoline && is_none) return kNearBranchBytes;
    const GuestVirt target = target_of(at, branch);
    using Kind = CodeOwner::Kind;
    const auto leads_to = [&](std::initializer_list<Kind> kinds) {
        const auto owner = code_.owner_of(target);
        return owner && std::ranges::find(kinds, owner->kind) != kinds.end();
    };
    if (now[0] != kCallOpcode && now[0] != kJumpOpcode) {
        if (now[0] != kBreakpoint || !is_probed(at)) return 0;
        // Before a probe's jump is whole, or when it is taken back, the breakpoint stands before
        // where that leads (arch_optimize_kprobes(), arch/x86/kernel/kprobes/opt.c).
        return leads_to({Kind::kprobes}) ? kNearBranchBytes : 1;
    }
    if (is_label && target == label->second) return kNearBranchBytes;
    if (call && may_stand_for(target, *call)) return kNearBranchBytes;
    if (is_trampoline && calls_ &&
        (calls_->may_call(target) || calls_->may_call(target + counter_bytes_) ||
         may_stand_for(target, GuestVirt{}))) {
        return kNearBranchBytes;
    }
    if ((is_ftraces || is_entry(at)) && ftrace_.may_call(target)) return kNearBranchBytes;
    // Up to 6.0 one is called in each weak function that was built in vain, too, which has no name
    // any more.
    if (now[0] == kCallOpcode && FtraceCalls::is_entry(kernel_, target)) return kNearBranchBytes;
    return leads_to({Kind::ftrace, Kind::bpf, Kind::kprobes}) ? kNearBranchBytes : 0;
}

Result<void> PatchSites::read_jump_labels() {
    const auto begin = kernel_.symbol("__start___jump_table"),
               end = kernel_.symbol("__stop___jump_table");
    if (!begin.has_value() || !end.has_value()) return {};  // built without them
    if (*end < *begin) return fail(Code::malformed, "the table has no end");
    return add_jump_labels(*begin, (*end - *begin) / sizeof(JumpEntry));
}
Result<void> PatchSites::add_jump_labels(GuestVirt table, std::uint64_t entries) {
    return each_entry<JumpEntry>(table, entries, [&](GuestVirt at, const JumpEntry& entry) {
        labels_[from(at, entry.code)] = from(at + 4, entry.target);
    });
}

// A module has its own tables of them (include/linux/module.h).
Result<void> PatchSites::add_module(GuestVirt module) {
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
    TRY(table("static_call_sites", "num_static_call_sites", [&](GuestVirt at, std::uint64_t count) {
        return calls_ ? calls_->add(at, count) : Result<void>();
    }));
    return table("ftrace_callsites", "num_ftrace_callsites",
                 [&](GuestVirt at, std::uint64_t count) {
                     return each_entry<GuestVirt>(
                         at, count, [&](GuestVirt, GuestVirt site) { entries_.insert(site); });
                 });
}

// A call of nobody goes to a return.
bool PatchSites::may_stand_for(GuestVirt target, GuestVirt called) const {
    if (called) return target == called || target + counter_bytes_ == called;
    return kernel_.symbols().any_at(target, [](std::string_view name) {
        return name.ends_with("return_thunk") || name == "__static_call_return";
    });
}

// Where ftrace may put a call: at the begin of a function, behind an endbr64.
bool PatchSites::is_entry(GuestVirt at) const {
    if (entries_.contains(at)) return true;
    const auto function = kernel_.symbols().nearest(at);
    return function && at - function->address <= 4;
}

bool PatchSites::is_probed(GuestVirt at) const {
    if (!probes_) {
        probes_.emplace();
        for (const Hook& hook : list_hooks(kernel_).hooks) {
            if (hook.kind == HookKind::kprobe) probes_->push_back(hook.place);
        }
    }
    return std::ranges::find(*probes_, at) != probes_->end();
}

}  // namespace underseer::guest_linux
