#include "guest_linux/code_integrity.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>

#include "guest_linux/disassembly.h"

namespace underseer::guest_linux {

namespace {

constexpr std::size_t kChunkBytes = 1u << 20;
constexpr std::size_t kMaxFunctionBytes = 64u << 10;
constexpr std::byte kCall{0xe8}, kJump{0xe9};
constexpr std::size_t kBranchBytes = 5;
// The last byte of a word that is an address of the kernel's half, whatever the paging.
constexpr std::size_t kTop = 7;
constexpr std::byte kKernelHalf{0xff};
// include/linux/static_call_types.h: two flags in the low bits of a site's key.
constexpr std::uint64_t kSiteFlags = 3;
constexpr std::size_t kMaxStaticCalls = 1u << 20;

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
            out.is_complete = candidates.size() < limits::kMaxSuspectedWaysOut;
            if (out.is_complete) candidates.push_back(way);
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
        for (const WayOut& candidate : candidates) {
            if (out.found.size() >= limits::kMaxWaysOut) break;
            if (is_static_call(candidate)) continue;
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

    bool is_static_call(const WayOut& candidate) {
        if (!sites_) sites_ = read_static_calls();
        const auto site = sites_->find(candidate.at.value);
        if (site != sites_->end()) return site->second == candidate.target;
        // Or the trampoline of one, which jumps: __SCT__name belongs to __SCK__name.
        constexpr std::string_view kTrampoline = "__SCT__";
        const auto symbol = kernel_.symbols().nearest(candidate.at);
        if (!symbol || symbol->address != candidate.at || !symbol->name.starts_with(kTrampoline)) {
            return false;
        }
        const auto key =
            kernel_.symbol(fmt::format("__SCK__{}", symbol->name.substr(kTrampoline.size())));
        if (!key.has_value()) return false;
        const auto called = kernel_.read_pointer(*key, function_);
        return called.has_value() && *called == candidate.target;
    }

    // Where they are called, and what their keys say is called there.
    std::unordered_map<std::uint64_t, GuestVirt> read_static_calls() {
        std::unordered_map<std::uint64_t, GuestVirt> sites;
        const auto begin = kernel_.symbol("__start_static_call_sites"),
                   end = kernel_.symbol("__stop_static_call_sites");
        if (!begin.has_value() || !end.has_value() || *end < *begin) return sites;
        std::vector<std::array<std::int32_t, 2>> table(
            std::min<std::size_t>((*end - *begin) / 8, kMaxStaticCalls));
        if (!kernel_.memory().read(*begin, std::as_writable_bytes(std::span(table))).has_value()) {
            return sites;
        }
        std::unordered_map<std::uint64_t, GuestVirt> functions;
        for (std::size_t i = 0; i < table.size(); ++i) {
            const GuestVirt at = *begin + 8 * i;
            const std::uint64_t site =
                at.value + static_cast<std::uint64_t>(std::int64_t{table[i][0]});
            const std::uint64_t key =
                (at.value + 4 + static_cast<std::uint64_t>(std::int64_t{table[i][1]})) &
                ~kSiteFlags;
            const auto [known, is_new] = functions.try_emplace(key);
            if (is_new) {
                known->second =
                    kernel_.read_pointer(GuestVirt{key}, function_).value_or(GuestVirt{});
            }
            sites[site] = known->second;
        }
        return sites;
    }

    Kernel& kernel_;
    const CodeMap& code_;
    Disassembler disassembler_;
    Field function_ = kernel_.field("static_call_key", "func");
    std::optional<std::unordered_map<std::uint64_t, GuestVirt>> sites_;
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
