#include "guest_linux/start_patches.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>

#include "guest_linux/patched_calls.h"

namespace underseer::guest_linux {

namespace {

using Kind = StartPatch::Kind;

constexpr std::size_t kLongestPlace = 255;
constexpr std::size_t kCallBytes = 5;
constexpr std::byte kReturn{0xc3}, kTrap{0xcc}, kCall{0xe8}, kNop{0x90};
constexpr std::string_view kThunk = "__x86_indirect_thunk_", kAnyThunk = "__x86_indirect_";
// What stands for a paravirtual call where the CPU can do it itself (arch/x86/kernel/paravirt.c and
// paravirt_patch.c, up to 6.7).
constexpr std::array<std::string_view, 16> kNative{
    "cli",          "sti",          "pushfq",       "pop rax",
    "push rdi",     "popfq",        "mov rax, cr2", "mov rax, cr3",
    "mov cr3, rdi", "mov cr2, rdi", "wbinvd",       "swapgs",
    "iretq",        "mov rax, rdi", "xor eax, eax", "mov byte ptr [rdi], #"};

// The last of those that begin at or before offset `i`.
auto behind(const std::vector<StartPatch>& patches, std::size_t i) {
    return std::ranges::upper_bound(patches, i, {}, &StartPatch::at);
}

bool begins_number(std::string_view text, std::size_t at) {
    return std::isdigit(static_cast<unsigned char>(text[at])) &&
           (at == 0 || !std::isalnum(static_cast<unsigned char>(text[at - 1])));
}

}  // namespace

StartPatches::Constants StartPatches::constants_of(Kernel& kernel, const BuiltKernel& built,
                                                   std::uint64_t slide) {
    std::map<std::uint32_t, std::map<std::uint64_t, std::size_t>> told;
    for (const StartPatch& place : built.patches) {
        if (place.kind != Kind::constant) continue;
        const GuestVirt at{built.begin + slide + place.at};
        std::uint64_t value = 0;
        const auto into = std::as_writable_bytes(std::span(&value, 1));
        const auto size = std::min<std::size_t>(place.size_bytes, into.size());
        if (!kernel.memory().read(at, into.first(size)).has_value()) continue;
        // Among the shifts of a kernel that was seen there are some that happen to be by as much
        // (seen_code.cpp): those that stay as they are say nothing of the others.
        const bool may_be_another = built.is_seen && size < sizeof value;
        if (may_be_another && as_text(into.first(size)) == as_text(original(built, place))) {
            continue;
        }
        ++told[place.other][value];
    }
    Constants constants;
    for (const auto& [constant, values] : told) {
        const auto most =
            std::ranges::max_element(values, {}, [](const auto& value) { return value.second; });
        constants.emplace(constant, most->first);
    }
    return constants;
}

StartPatches::StartPatches(Kernel& kernel, const BuiltKernel& built, std::uint64_t slide,
                           const Constants& constants)
    : kernel_(kernel), built_(built), slide_(slide), constants_(constants) {
    if (const auto at = kernel.symbol("__fentry__"); at.has_value()) fentry_ = *at;
    counter_.resize(call_counter_bytes(kernel));
    if (counter_.empty()) return;
    counter_at_ = *kernel.symbol("skl_call_thunk_template");
    if (!kernel.memory().read(counter_at_, counter_).has_value()) counter_.clear();
}

std::size_t StartPatches::explains(Bytes now, std::size_t first, std::size_t i) {
    if (const std::size_t entry = is_entry(now, first, i)) return entry;
    if (const std::size_t counted = is_counted(now, first, i)) return counted;
    const auto& all = built_.patches;
    for (auto place = behind(all, i); place != all.begin();) {
        --place;
        if (i - place->at > kLongestPlace) break;
        const std::size_t end = place->at + std::size_t{place->size_bytes};
        if (end <= i || place->at < first || end - first > now.size()) continue;
        const Bytes bytes = now.subspan(place->at - first, place->size_bytes);
        if (holds(*place, bytes)) return end - i;
    }
    return 0;
}

// Where ftrace may put a call the compiler has put one of __fentry__. Not all of these functions
// have a symbol: of a weak one that another replaces the code is still there.
std::size_t StartPatches::is_entry(Bytes now, std::size_t first, std::size_t i) {
    const Bytes then = as_bytes(built_.text).subspan(i);
    if (!fentry_ || then.size() < kCallBytes || then[0] != kCall ||
        i - first + kCallBytes > now.size()) {
        return 0;
    }
    const std::int64_t distance = *load_le<std::int32_t>(then, 1);
    const GuestVirt at{built_.begin + slide_ + i};
    if (at + kCallBytes + static_cast<std::uint64_t>(distance) != *fentry_) return 0;
    return piece_of(now.subspan(i - first, kCallBytes), at).steps.empty() ? kCallBytes : 0;
}

// Where calls are counted (retbleed=stuff, since 6.2; arch/x86/kernel/callthunks.c), what counts
// them stands in the padding before each function, and calls go there.
std::size_t StartPatches::is_counted(Bytes now, std::size_t first, std::size_t i) {
    const std::size_t size = counter_.size();
    if (size == 0) return 0;
    const GuestVirt begin{built_.begin + slide_};
    const Bytes text = as_bytes(built_.text);
    const auto built = [&](std::size_t at, std::size_t bytes) {
        return at + bytes <= text.size() ? text.subspan(at, bytes) : Bytes();
    };
    const auto running = [&](std::size_t at, std::size_t bytes) {
        return at >= first && at - first + bytes <= now.size() ? now.subspan(at - first, bytes)
                                                               : Bytes();
    };
    if (const Bytes padding = built(i, size), here = running(i, size);
        !padding.empty() && !here.empty() &&
        std::ranges::all_of(padding, [](std::byte one) { return one == kNop; }) &&
        is_same(piece_of(here, begin + i), piece_of(counter_, counter_at_))) {
        return size;
    }
    for (std::size_t back = 1; back < kCallBytes && back <= i; ++back) {
        const Bytes then = built(i - back, kCallBytes), here = running(i - back, kCallBytes);
        if (then.empty() || here.empty() || then[0] != kCall || here[0] != kCall) continue;
        const std::int64_t was = *load_le<std::int32_t>(then, 1),
                           is = *load_le<std::int32_t>(here, 1);
        if (was - is == static_cast<std::int64_t>(size)) return kCallBytes - back;
    }
    return 0;
}

Bytes StartPatches::original(const BuiltKernel& built, const StartPatch& place) {
    return as_bytes(std::string_view(built.text).substr(place.at, place.size_bytes));
}

bool StartPatches::holds(const StartPatch& place, Bytes now) {
    const GuestVirt linked{built_.begin + place.at}, at = linked + slide_;
    switch (place.kind) {
        case Kind::alternative:
            return may_be_alternative(place, piece_of(now, at));
        case Kind::paravirt:
            return may_be_direct(piece_of(original(built_, place), linked, slide_),
                                 piece_of(now, at));
        case Kind::indirect_call:
            return may_be_thunkless(piece_of(original(built_, place), linked, slide_),
                                    piece_of(now, at));
        case Kind::return_jump:
            return may_be_return(now) ||
                   is_same(piece_of(now, at), piece_of(original(built_, place), linked, slide_));
        case Kind::landing:
            return piece_of(now, at).steps.empty();
        case Kind::constant: {
            const std::uint64_t value =
                now.size() == sizeof value ? *load_le<std::uint64_t>(now, 0) : byte_at(now, 0);
            const auto known = constants_.find(place.other);
            return known != constants_.end() && known->second == value;
        }
    }
    return false;
}

// `code` lies at `at`, and would run `moved` bytes above that.
StartPatches::Piece StartPatches::piece_of(Bytes code, GuestVirt at, std::uint64_t moved) {
    Piece piece{.at = at, .size_bytes = code.size(), .steps = {}};
    bool goes_on = true;
    for (std::size_t done = 0; done < code.size();) {
        std::size_t skip = 0;
        done += disassembler_.decode(code.subspan(done), at + done, [&](const Instruction& one) {
            if (one.mnemonic.ends_with("nop")) return true;
            // Behind what never goes on, it is only filled; elsewhere it is a trap.
            if (one.mnemonic == "int3" && !goes_on) return true;
            goes_on = one.mnemonic != "jmp" && one.mnemonic != "ret";
            const std::size_t behind = one.at - at + one.size_bytes;
            if (one.target && one.mnemonic == "jmp") skip = filling(code, behind, *one.target - at);
            if (skip > 0) return false;
            if (one.target && one.mnemonic == "jmp" && is_return_thunk(*one.target + moved)) {
                piece.steps.push_back({"ret", {}});
                return true;
            }
            piece.steps.push_back(step_of(one));
            return true;
        });
        done += skip;
        goes_on |= skip > 0;
        if (skip > 0 || done >= code.size()) continue;
        // What the disassembler does not know must be the same byte.
        piece.steps.push_back({"byte #", {byte_at(code, done)}});
        ++done;
    }
    return piece;
}

// How many bytes from `behind` on, where a jump ends, to `target` are there to be jumped over: long
// places where nothing is to be done begin with such a jump (add_nop(), since 6.12).
std::size_t StartPatches::filling(Bytes code, std::size_t behind, std::uint64_t target) {
    if (target <= behind || target > code.size()) return 0;
    const Bytes between = code.subspan(behind, target - behind);
    const bool is_filling =
        std::ranges::all_of(between, [](std::byte one) { return one == kTrap; });
    return is_filling ? between.size() : 0;
}

StartPatches::Step StartPatches::step_of(const Instruction& one) {
    Step step{std::string(one.mnemonic), {}};
    if (!one.operands.empty()) step.text += ' ';
    for (std::size_t i = 0; i < one.operands.size();) {
        if (!begins_number(one.operands, i)) {
            step.text += one.operands[i++];
            continue;
        }
        const bool is_hex = one.operands.substr(i).starts_with("0x");
        const char* from = one.operands.data() + i + (is_hex ? 2 : 0);
        std::uint64_t number = 0;
        const char* end = std::from_chars(from, one.operands.data() + one.operands.size(), number,
                                          is_hex ? 16 : 10)
                              .ptr;
        // What lies a distance from here is where it is.
        for (const auto& [sign, factor] :
             {std::pair{"rip + ", std::uint64_t{1}}, std::pair{"rip - ", ~std::uint64_t{0}}}) {
            if (!step.text.ends_with(sign)) continue;
            number = one.at.value + one.size_bytes + factor * number;
            step.text.resize(step.text.size() - 2);
        }
        if (step.text.ends_with('-')) {  // a number that is negative, "- 8" is a distance
            step.text.pop_back();
            number = ~number + 1;
        }
        step.numbers.push_back(number);
        step.text += '#';
        i = static_cast<std::size_t>(end - one.operands.data());
    }
    return step;
}

bool StartPatches::is_return_thunk(GuestVirt address) const {
    return kernel_.symbols().any_at(
        address, [](std::string_view name) { return name.ends_with("return_thunk"); });
}

// Addresses of the kernel's own have moved with it, and those of per-CPU variables have not; what
// is in the piece itself is where that is now.
bool StartPatches::is_same(const Piece& running, const Piece& built) const {
    return std::ranges::equal(running.steps, built.steps, [&](const Step& now, const Step& then) {
        return now.text == then.text &&
               std::ranges::equal(now.numbers, then.numbers, [&](auto one, auto was) {
                   const std::uint64_t inside = was - built.at.value;
                   const bool is_counted =
                       now.text == "call #" && one + counter_.size() == was + slide_;
                   return one == was || one == was + slide_ || is_counted ||
                          (inside <= built.size_bytes && one - running.at.value == inside);
               });
    });
}

bool StartPatches::may_be_alternative(const StartPatch& place, const Piece& now) {
    const GuestVirt linked{built_.begin + place.at};
    const Piece then = piece_of(original(built_, place), linked, slide_);
    if (is_same(now, then) || may_be_direct(then, now)) return true;
    if (place.other_bytes == 0) return now.steps.empty();
    const Piece other = piece_of(
        as_bytes(std::string_view(built_.replacements).substr(place.other, place.other_bytes)),
        GuestVirt{built_.replacements_begin + place.other}, slide_);
    return is_same(now, other);
}

bool StartPatches::is_of_one_number(const Piece& piece) {
    return piece.steps.size() == 1 && piece.steps[0].numbers.size() == 1;
}

// Of a call by pv_ops: the function that is there, or what that function does.
bool StartPatches::may_be_direct(const Piece& original, const Piece& now) {
    if (!is_of_one_number(original)) return false;
    const bool is_call = original.steps[0].text.starts_with("call qword ptr ["),
               is_jump = original.steps[0].text.starts_with("jmp qword ptr [");
    if (!is_call && !is_jump) return false;
    const bool is_native = std::ranges::all_of(now.steps, [](const Step& step) {
        return std::ranges::find(kNative, step.text) != kNative.end();
    });
    if (is_native) return true;
    if (is_same(now, original)) return true;
    const auto called =
        kernel_.memory().read<GuestVirt>(GuestVirt{original.steps[0].numbers[0] + slide_});
    return called.has_value() && now.steps.size() == 1 &&
           now.steps[0].text == (is_call ? "call #" : "jmp #") &&
           (now.steps[0].numbers[0] == called->value ||
            now.steps[0].numbers[0] + counter_.size() == called->value);
}

// Of a call of a thunk, which calls what is in a register: that call itself, or another thunk.
bool StartPatches::may_be_thunkless(const Piece& original, const Piece& now) {
    if (!is_of_one_number(original) || now.steps.empty()) return false;
    std::string by;
    kernel_.symbols().any_at(GuestVirt{original.steps[0].numbers[0] + slide_},
                             [&](std::string_view name) {
                                 if (!name.starts_with(kThunk)) return false;
                                 by = name.substr(kThunk.size());
                                 return by != "array";  // which is where that of rax is
                             });
    if (by.empty()) return false;
    return std::ranges::all_of(now.steps, [&](const Step& step) {
        if (step.text == "lfence" || step.text == "call " + by || step.text == "jmp " + by) {
            return true;
        }
        const bool is_branch = step.text == "call #" || step.text.starts_with("j");
        return is_branch && step.numbers.size() == 1 &&
               kernel_.symbols().any_at(GuestVirt{step.numbers[0]}, [&](std::string_view name) {
                   return name.starts_with(kAnyThunk) && name.ends_with("thunk_" + by);
               });
    });
}

bool StartPatches::may_be_return(Bytes now) {
    return now[0] == kReturn &&
           std::ranges::all_of(now.subspan(1), [](std::byte one) { return one == kTrap; });
}

}  // namespace underseer::guest_linux
