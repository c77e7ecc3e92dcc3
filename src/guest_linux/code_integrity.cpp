#include "guest_linux/code_integrity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "guest_linux/disassembly.h"
#include "guest_linux/patched_calls.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kChunkBytes = 1u << 20;
constexpr std::size_t kMaxFunctionBytes = 64u << 10;
constexpr std::byte kCall{0xe8}, kJump{0xe9};
constexpr std::size_t kBranchBytes = 5;
// The last byte of a word that is an address of the kernel's half, whatever the paging.
constexpr std::size_t kTop = 7;
constexpr std::byte kKernelHalf{0xff};

// Executable memory that is not the kernel's image, for a quick look at very many addresses.
class Outside {
  public:
    explicit Outside(const CodeMap& code) {
        for (const CodeRange& range : code.executable) {
            const auto owner = code.owner_of(range.begin);
            if (owner && owner->kind == CodeOwner::Kind::kernel) continue;
            ranges_.push_back(range);
        }
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

  private:
    std::vector<CodeRange> ranges_;
    std::uint64_t first_ = 0, size_ = 0;
};

// Reads [begin, end) piece by piece; each piece also has the `overlap` bytes behind it, as far as
// they can be read. `use(bytes, at)`.
template <typename Use>
void read_pieces(Kernel& kernel, GuestVirt begin, GuestVirt end, std::size_t overlap, WaysOut& out,
                 Use&& use) {
    std::vector<std::byte> bytes;
    for (GuestVirt at = begin; at < end;) {
        std::size_t size = std::min<std::size_t>(kChunkBytes, end - at);
        bytes.resize(size + overlap);
        if (!kernel.memory().read(at, bytes).has_value()) {
            bytes.resize(size);
            if (!kernel.memory().read(at, bytes).has_value()) {
                // Something of it is missing: page by page.
                size = std::min<std::size_t>(size, kPageSize - (at.value & (kPageSize - 1)));
                bytes.resize(size);
                if (!kernel.memory().read(at, bytes).has_value()) {
                    out.unreadable_bytes += size;
                    at = at + size;
                    continue;
                }
            }
        }
        out.bytes += size;
        use(Bytes(bytes), at);
        at = at + size;
    }
}

template <typename T>
T load(const std::byte* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

class CodeInspector {
  public:
    CodeInspector(Kernel& kernel, const CodeMap& code) : kernel_(kernel), code_(code) {}

    Result<WaysOut> inspect() {
        const GuestVirt begin = TRY(kernel_.symbol("_text")), end = TRY(kernel_.symbol("_etext"));
        const Outside outside(code_);
        WaysOut out;
        std::vector<WayOut> candidates;
        const auto suspect = [&](WayOut way) {
            if (!outside.has(way.target.value) || is_patched_by_kernel(way.target)) return;
            if (candidates.size() < limits::kMaxSuspectedWaysOut) {
                candidates.push_back(way);
            } else if (out.gaps.empty()) {
                out.gaps.add("code that leads out of the kernel",
                             {Code::limit, 0, "there seems to be more than can be looked at"});
            }
        };
        read_pieces(
            kernel_, begin, end, sizeof(std::uint64_t), out, [&](Bytes bytes, GuestVirt at) {
                const std::byte* code = bytes.data();
                for (std::size_t i = 0; i + sizeof(std::uint64_t) <= bytes.size(); ++i) {
                    if (code[i] == kCall || code[i] == kJump) {
                        const std::int64_t distance = load<std::int32_t>(code + i + 1);
                        const std::uint64_t target =
                            at.value + i + kBranchBytes + static_cast<std::uint64_t>(distance);
                        suspect({at + i, GuestVirt{target}});
                    }
                    if (code[i + kTop] != kKernelHalf) continue;
                    const auto word = load<std::uint64_t>(code + i);
                    suspect({at + i, GuestVirt{word}});
                }
            });
        // Pieces overlap.
        std::ranges::sort(candidates);
        const auto [same, last] = std::ranges::unique(candidates);
        candidates.erase(same, last);
        if (candidates.empty()) return out;
        FtraceCalls ftrace(kernel_);
        const auto calls = StaticCalls::read(kernel_);
        if (!calls.has_value()) {
            out.gaps.add("static calls", calls.error());
            return out;
        }
        for (const WayOut& candidate : candidates) {
            if (out.found.size() >= limits::kMaxWaysOut) break;
            if (calls->target_at(candidate.at) == candidate.target) continue;
            // Whose hooks they are, kernel_hooks tells.
            if (ftrace.is_at(candidate.at) && ftrace.may_call(candidate.target)) continue;
            if (is_instruction(candidate)) out.found.push_back(candidate);
        }
        return out;
    }

  private:
    bool is_patched_by_kernel(GuestVirt target) const {
        const auto owner = code_.owner_of(target);
        if (!owner) return false;
        using Kind = CodeOwner::Kind;
        return owner->kind == Kind::ftrace || owner->kind == Kind::bpf ||
               owner->kind == Kind::kprobes;
    }

    // Bytes of other instructions may look like a call: it must begin one, or stand in one that
    // takes eight bytes, when its function is decoded from its begin on.
    bool is_instruction(const WayOut& candidate) {
        const auto function = kernel_.symbols().nearest(candidate.at);
        if (!function || candidate.at - function->address > kMaxFunctionBytes) return true;
        std::vector<std::byte> code(candidate.at - function->address + 16);
        if (!kernel_.memory().read(function->address, code).has_value()) return true;
        // Some instructions are not known to the disassembler: it goes on behind them, and code is
        // soon in step again.
        bool found = false;
        const Bytes bytes(code);
        for (std::size_t at = 0; at < bytes.size() && function->address + at <= candidate.at;) {
            const Bytes rest = bytes.subspan(at);
            at +=
                1 + disassembler_.decode(rest, function->address + at, [&](const Instruction& one) {
                    const bool movable =
                        one.size_bytes == 10;  // movabs: prefix, opcode, eight bytes
                    found |= one.at == candidate.at && one.target == candidate.target;
                    found |= movable && one.at + 2 == candidate.at;
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

Result<WaysOut> pointers_out_of_constants(Kernel& kernel, const CodeMap& code) {
    const GuestVirt begin = TRY(kernel.symbol("__start_rodata")),
                    end = TRY(kernel.symbol("__end_rodata"));
    const Outside outside(code);
    WaysOut out;
    read_pieces(kernel, begin, end, 0, out, [&](Bytes bytes, GuestVirt at) {
        for (std::size_t i = 0; i + sizeof(std::uint64_t) <= bytes.size();
             i += sizeof(std::uint64_t)) {
            if (bytes.data()[i + kTop] != kKernelHalf) continue;
            const auto word = load<std::uint64_t>(bytes.data() + i);
            if (outside.has(word) && out.found.size() < limits::kMaxWaysOut) {
                out.found.push_back({at + i, GuestVirt{word}});
            }
        }
    });
    return out;
}

Result<WaysOut> ways_out_of_code(Kernel& kernel, const CodeMap& code) {
    return CodeInspector(kernel, code).inspect();
}

}  // namespace underseer::guest_linux
