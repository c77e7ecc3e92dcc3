#include "guest_linux/code_integrity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "guest_linux/disassembly.h"
#include "guest_linux/patched_calls.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kChunkPages = 256;
constexpr std::size_t kMaxFunctionBytes = 64u << 10;
constexpr std::byte kCall{0xe8}, kJump{0xe9};
constexpr std::size_t kBranchBytes = 5;
// The last byte of a word that is an address of the kernel's half, whatever the paging.
constexpr std::size_t kTop = 7;
constexpr std::byte kKernelHalf{0xff};

}  // namespace

// Executable memory that is not the kernel's image, for a quick look at very many addresses.
class WaysOutFinder::Outside {
  public:
    explicit Outside(const CodeMap& code) {
        for (const CodeRange& range : code.executable) {
            const auto owner = code.owner_of(range.begin);
            if (owner && owner->kind == CodeOwner::Kind::kernel) continue;
            ranges_.push_back(range);
            neighbours.push_back({range.begin.value, range.end().value, std::nullopt});
        }
        code.owners.for_each([&](std::uint64_t begin, std::uint64_t end, const CodeOwner& owner) {
            neighbours.push_back({begin, end, owner.kind});
        });
        if (ranges_.empty()) return;
        first_ = ranges_.front().begin.value;
        size_ = ranges_.back().end().value - first_;
    }

    bool has(std::uint64_t address) const {
        if (address - first_ >= size_) return false;
        const auto above =
            std::ranges::upper_bound(ranges_, GuestVirt{address}, {}, &CodeRange::begin);
        return above != ranges_.begin() && GuestVirt{address} < std::prev(above)->end();
    }

    std::vector<Neighbour> neighbours;

  private:
    std::vector<CodeRange> ranges_;
    std::uint64_t first_ = 0, size_ = 0;
};

// Looks at the pages that are not as they were, each together with the `overlap` bytes behind it,
// as far as they can be read: look(bytes, at, suspects) adds the ways out of `bytes`. Returns all
// suspects in `found`.
template <typename Look>
WaysOut WaysOutFinder::scan(Kernel& kernel, const PageHashes& now, const Outside& outside,
                            std::size_t overlap, Scanned& scanned, Look&& look) {
    if (scanned.pages.begin != now.begin || scanned.pages.size_bytes != now.size_bytes ||
        scanned.neighbours != outside.neighbours) {
        scanned = {.pages = {now.begin, now.size_bytes, {}},
                   .neighbours = outside.neighbours,
                   .suspects = {}};
        scanned.pages.of.resize(now.of.size());
    }
    WaysOut out;
    const auto& before = scanned.pages.of;
    const std::size_t pages = now.of.size();
    const auto is_new = [&](std::size_t page) {
        return now.of[page] &&
               (before[page] != now.of[page] ||
                (overlap > 0 && page + 1 < pages && before[page + 1] != now.of[page + 1]));
    };
    std::vector<std::byte> bytes;
    for (std::size_t page = 0; page < pages;) {
        if (!now.of[page]) {
            out.unreadable_bytes += now.bytes_of(page);
            scanned.suspects.erase(page);
        }
        if (!is_new(page)) {
            if (now.of[page]) out.bytes += now.bytes_of(page);
            ++page;
            continue;
        }
        std::size_t behind = page + 1;
        while (behind < pages && behind - page < kChunkPages && is_new(behind)) ++behind;
        const std::size_t size =
            std::min<std::size_t>((behind - page) * kPageSize, now.size_bytes - page * kPageSize);
        const GuestVirt at = now.begin + page * kPageSize;
        bytes.resize(size + overlap);
        if (!kernel.memory().read(at, bytes).has_value()) {
            bytes.resize(size);
            if (!kernel.memory().read(at, bytes).has_value()) bytes.clear();
        }
        (bytes.empty() ? out.unreadable_bytes : out.bytes) += size;
        scanned.suspects.erase(scanned.suspects.lower_bound(page),
                               scanned.suspects.lower_bound(behind));
        std::vector<WayOut> suspects;
        look(Bytes(bytes), at, suspects);
        for (const WayOut& one : suspects) {
            scanned.suspects[(one.at - now.begin) / kPageSize].push_back(one);
        }
        page = behind;
    }
    scanned.pages.of = now.of;
    for (const auto& [page, suspects] : scanned.suspects) {
        out.found.insert(out.found.end(), suspects.begin(), suspects.end());
    }
    // Pieces overlap.
    std::ranges::sort(out.found);
    const auto [same, last] = std::ranges::unique(out.found);
    out.found.erase(same, last);
    if (out.found.size() > limits::kMaxSuspectedWaysOut) {
        out.found.resize(limits::kMaxSuspectedWaysOut);
        out.gaps.add("ways out of the kernel",
                     {Code::limit, 0, "there seems to be more than can be looked at"});
    }
    return out;
}

namespace {

template <typename T>
T load(const std::byte* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// Whether what looks like a way out of the kernel's code is one.
class CodeInspector {
  public:
    CodeInspector(Kernel& kernel, const CodeMap& code) : kernel_(kernel), code_(code) {}

    std::vector<WayOut> confirm(const std::vector<WayOut>& suspects, Gaps& gaps) {
        std::vector<WayOut> found;
        FtraceCalls ftrace(kernel_);
        const auto calls = StaticCalls::read(kernel_);
        if (!calls.has_value()) {
            gaps.add("static calls", calls.error());
            return found;
        }
        for (const WayOut& one : suspects) {
            if (found.size() >= limits::kMaxWaysOut) break;
            if (calls->target_at(one.at) == one.target) continue;
            // Whose hooks they are, kernel_hooks tells.
            if (ftrace.is_at(one.at) && ftrace.may_call(one.target)) continue;
            if (is_instruction(one)) found.push_back(one);
        }
        return found;
    }

    bool is_patched_by_kernel(GuestVirt target) const {
        const auto owner = code_.owner_of(target);
        if (!owner) return false;
        using Kind = CodeOwner::Kind;
        return owner->kind == Kind::ftrace || owner->kind == Kind::bpf ||
               owner->kind == Kind::kprobes;
    }

  private:
    // Bytes of other instructions may look like a call: it must begin one, or be the eight bytes
    // that one takes as they are, when its function is decoded from its begin on.
    bool is_instruction(const WayOut& candidate) {
        const auto function = kernel_.symbols().nearest(candidate.at);
        if (!function || candidate.at - function->address > kMaxFunctionBytes) return true;
        std::vector<std::byte> code(candidate.at - function->address + 16);
        if (!kernel_.memory().read(function->address, code).has_value()) return true;
        // Some instructions are not known to the disassembler: it goes on behind them, and code is
        // soon in step again.
        bool found = false;
        const Bytes bytes(code);
        const auto word = load<std::uint64_t>(bytes.data() + (candidate.at - function->address));
        const bool is_word = word == candidate.target.value;
        for (std::size_t at = 0; at < bytes.size() && function->address + at <= candidate.at;) {
            const Bytes rest = bytes.subspan(at);
            at +=
                1 + disassembler_.decode(rest, function->address + at, [&](const Instruction& one) {
                    const bool movable =
                        one.size_bytes == 10;  // movabs: prefix, opcode, eight bytes
                    found |= one.at == candidate.at && one.target == candidate.target;
                    found |= movable && is_word && one.at + 2 == candidate.at;
                    return one.at < candidate.at;
                });
        }
        return found;
    }

    Kernel& kernel_;
    const CodeMap& code_;
    Disassembler disassembler_;
};

}  // namespace

Result<WaysOut> WaysOutFinder::out_of_constants(Kernel& kernel, const CodeMap& code) {
    const GuestVirt begin = TRY(kernel.symbol("__start_rodata")),
                    end = TRY(kernel.symbol("__end_rodata"));
    if (end <= begin || end - begin > limits::kMaxKernelImageBytes) {
        return fail(Code::malformed, "the kernel's constants have no end");
    }
    const Outside outside(code);
    WaysOut out = scan(kernel, hash_pages(kernel, begin, end - begin), outside, 0, constants_,
                       [&](Bytes bytes, GuestVirt at, std::vector<WayOut>& suspects) {
                           for (std::size_t i = 0; i + sizeof(std::uint64_t) <= bytes.size();
                                i += sizeof(std::uint64_t)) {
                               if (bytes.data()[i + kTop] != kKernelHalf) continue;
                               const auto word = load<std::uint64_t>(bytes.data() + i);
                               if (outside.has(word)) suspects.push_back({at + i, GuestVirt{word}});
                           }
                       });
    if (out.found.size() > limits::kMaxWaysOut) out.found.resize(limits::kMaxWaysOut);
    return out;
}

Result<WaysOut> WaysOutFinder::out_of_code(Kernel& kernel, const CodeMap& code,
                                           const PageHashes& text) {
    const Outside outside(code);
    CodeInspector inspector(kernel, code);
    WaysOut out = scan(
        kernel, text, outside, sizeof(std::uint64_t), code_,
        [&](Bytes bytes, GuestVirt at, std::vector<WayOut>& suspects) {
            const std::byte* from = bytes.data();
            const auto suspect = [&](std::size_t i, std::uint64_t target) {
                if (!outside.has(target) || inspector.is_patched_by_kernel(GuestVirt{target}))
                    return;
                suspects.push_back({at + i, GuestVirt{target}});
            };
            for (std::size_t i = 0; i + sizeof(std::uint64_t) <= bytes.size(); ++i) {
                if (from[i] == kCall || from[i] == kJump) {
                    const std::int64_t distance = load<std::int32_t>(from + i + 1);
                    suspect(i, at.value + i + kBranchBytes + static_cast<std::uint64_t>(distance));
                }
                if (from[i + kTop] == kKernelHalf) suspect(i, load<std::uint64_t>(from + i));
            }
        });
    if (!out.found.empty()) out.found = inspector.confirm(out.found, out.gaps);
    return out;
}

}  // namespace underseer::guest_linux
