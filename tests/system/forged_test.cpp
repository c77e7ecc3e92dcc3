// A guest that forges what its kernel points to: every check is bounded, and says that it could not
// look, or what is wrong. It never says "clean" of less than it has seen before.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>
#include <set>

#include "detect/check.h"
#include "detect/watches.h"
#include "guest_linux/guest.h"
#include "guest_memory/cached_memory.h"
#include "guest_memory/fake_memory.h"
#include "guest_memory/sources.h"
#include "guests.h"

namespace underseer::testing {
namespace {

using namespace std::chrono_literals;
using guest_linux::Guest;
using guest_memory::GuestMemory;
using guest_memory::ReadOp;

constexpr std::uint64_t kKernelHalf = 0xffff'8000'0000'0000;
constexpr std::size_t kWord = sizeof(std::uint64_t), kMostWords = 64;

// Some of its bytes are others.
class ForgedMemory final : public guest_memory::MemoryDecorator {
  public:
    using MemoryDecorator::MemoryDecorator;

    void read_many(std::span<ReadOp> ops) override {
        source_->read_many(ops);
        for (ReadOp& op : ops) {
            for (const auto& [place, byte] : bytes_) {
                if (place < op.from || place >= op.from + op.into.size()) continue;
                op.into[place - op.from] = byte;
            }
        }
    }
    void forge(GuestPhys at, Bytes bytes) {
        for (std::size_t i = 0; i < bytes.size(); ++i) bytes_[at + i] = bytes[i];
    }
    void restore() { bytes_.clear(); }

  private:
    std::map<GuestPhys, std::byte> bytes_;
};

class Forged : public ::testing::TestWithParam<std::string> {
  protected:
    void SetUp() override {
        if (GetParam() != "6.1-cloud" && !nightly()) GTEST_SKIP() << "in the nightly run only";
        auto vm = TestVm::boot({.kernel = GetParam(), .vcpus = 2});
        if (!vm.has_value()) GTEST_SKIP() << vm.error().to_text();
        vm_.emplace(std::move(*vm));
        vm_->pause();
        source_ = source_of(*vm_);
        std::vector<int> fds;
        for (const Fd& fd : source_.fds) fds.push_back(fd.get());
        memory_ = guest_memory::open_live(fds, source_.layout, source_.name).value();
        forged_.emplace(memory_.get());
        cache_.emplace(&*forged_);
        recorder_.emplace(&*cache_);  // above the cache: which words were asked for
    }

    // A model of its own: what one look has kept of the guest (the code as it first was) is no
    // help for the next.
    event::CheckReport report_of(const detect::CheckKind& kind) {
        cache_->new_epoch();
        auto guest = Guest::attach(&*recorder_);
        if (!guest.has_value()) {
            return {.check = std::string(kind.name),
                    .outcome = event::Outcome::unavailable,
                    .reason = guest.error().to_text()};
        }
        recorder_->forget();
        const std::string names[] = {std::string(kind.name)};
        const auto checks = detect::make_checks(names);
        return detect::run(checks, **guest, [](auto) {}).at(0);
    }

    // Words that a check has asked for by themselves (not code, which it reads as a whole) and that
    // lead somewhere in the kernel's half, in any order.
    std::vector<GuestPhys> pointers_read(std::size_t most) {
        std::vector<GuestPhys> pointers;
        std::vector<std::byte> bytes;
        for (const guest_memory::RamRegion& range : recorder_->read_ranges()) {
            if (range.size_bytes > kMostWords * kWord) continue;
            bytes.resize(range.size_bytes);
            if (!memory_->read(range.begin, bytes).has_value()) continue;
            const std::size_t first = (kWord - range.begin.value % kWord) % kWord;
            for (std::size_t i = first; i + kWord <= bytes.size(); i += kWord) {
                const std::uint64_t word = *load_le<std::uint64_t>(bytes, i);
                if (word >= kKernelHalf && word < ~std::uint64_t{0} - kPageSize) {
                    pointers.push_back(range.begin + i);
                }
            }
        }
        std::ranges::shuffle(pointers, random_);
        pointers.resize(std::min(pointers.size(), most));
        return pointers;
    }

    static std::set<std::string> told_in(const event::CheckReport& report) {
        std::set<std::string> told;
        for (const event::Finding& finding : report.findings) {
            told.insert(finding.rule + " " + finding.key);
        }
        return told;
    }
    // Nothing that was seen before is missing without a word.
    static void expect_no_less(const event::CheckReport& said, const event::CheckReport& whole) {
        if (said.outcome == event::Outcome::unavailable) {
            EXPECT_FALSE(said.reason.empty());
            return;
        }
        const bool tells_a_gap = said.coverage.unreadable > whole.coverage.unreadable ||
                                 said.coverage.gaps.size() > whole.coverage.gaps.size() ||
                                 said.coverage.gaps != whole.coverage.gaps;
        const auto told = told_in(said), before = told_in(whole);
        const bool tells_more = !std::ranges::includes(before, told);
        if (tells_a_gap || tells_more) return;
        EXPECT_GE(said.coverage.looked_at, whole.coverage.looked_at);
        EXPECT_TRUE(std::ranges::includes(told, before));
    }

    std::mt19937 random_{1};
    std::optional<TestVm> vm_;
    agent::GuestSource source_;
    std::unique_ptr<GuestMemory> memory_;
    std::optional<guest_memory::RecordingMemory> recorder_;
    std::optional<ForgedMemory> forged_;
    std::optional<guest_memory::CachedMemory> cache_;
};
INSTANTIATE_TEST_SUITE_P(, Forged, ::testing::ValuesIn(all_kernels()), test_name);

TEST_P(Forged, pointers_into_nowhere_are_told) {
    // Nothing is mapped there: one that led past what it should into something else that is whole
    // would have unlinked it, which other views have to tell.
    constexpr std::uint64_t kNowhere = 0xffff'dead'0000'0000;
    std::size_t tried = 0, answered_otherwise = 0;
    for (const detect::CheckKind& kind : detect::all_checks()) {
        if (kind.name == detect::EventRules::kName) continue;  // by itself it has no rules
        forged_->restore();
        const event::CheckReport whole = report_of(kind);
        if (whole.outcome == event::Outcome::unavailable) continue;
        for (const GuestPhys at : pointers_read(nightly() ? 60 : 5)) {
            std::uint64_t was = 0;
            ASSERT_TRUE(memory_->read(at, std::as_writable_bytes(std::span(&was, 1))).has_value());
            const std::uint64_t value = kNowhere + random_() % 4096 * kWord;
            SCOPED_TRACE(
                fmt::format("{}: at {:#x}, {:#x} for {:#x}", kind.name, at.value, value, was));
            forged_->restore();
            forged_->forge(at, std::as_bytes(std::span(&value, 1)));
            const auto begin = std::chrono::steady_clock::now();
            const event::CheckReport said = report_of(kind);
            expect_no_less(said, whole);
            ++tried;
            answered_otherwise += said.outcome != whole.outcome || said.coverage != whole.coverage;
            EXPECT_LT(std::chrono::steady_clock::now() - begin, 60s);
        }
    }
    // Words that lead nowhere, and of which nobody has noticed any, would be others than are read.
    EXPECT_GT(answered_otherwise, tried / 4);
}

// Where a kernel's types say that two members of a structure lie (Documentation/bpf/btf.rst): the
// one is where the other is said to be.
struct Swap {
    std::string what;
    std::size_t first = 0, second = 0;  // offsets in BTF, of 32 bits each
};
std::vector<Swap> swaps_in(Bytes btf, const std::set<std::string>& structures) {
    const auto word = [&](std::size_t at) { return load_le<std::uint32_t>(btf, at).value_or(0); };
    const std::size_t header = word(4), types = header + word(8), types_end = types + word(12),
                      strings = header + word(16);
    const auto name = [&](std::size_t at) {
        const std::string_view rest = as_text(btf).substr(strings + word(at));
        return std::string(rest.substr(0, rest.find('\0')));
    };
    // Bytes behind each kind's head, for each of its parts or at all.
    constexpr std::size_t kParts[] = {0, 0, 0, 0, 12, 12, 8, 0, 0, 0,
                                      0, 0, 0, 8, 0,  12, 0, 0, 0, 12};
    constexpr std::size_t kMore[] = {0, 4, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 4, 0, 0};
    std::vector<Swap> swaps;
    for (std::size_t at = types; at + 12 <= types_end;) {
        const std::size_t parts = word(at + 4) & 0xffff, kind = word(at + 4) >> 24 & 0x1f;
        if (kind >= std::size(kParts)) break;
        const std::string structure = name(at);
        at += 12;
        for (std::size_t i = 0; kind == 4 && structures.contains(structure) && i + 1 < parts; ++i) {
            const std::size_t one = at + 12 * i, other = one + 12;
            if (word(one + 8) == word(other + 8)) continue;
            swaps.push_back({fmt::format("{}: {} and {}", structure, name(one), name(other)),
                             one + 8, other + 8});
        }
        at += parts * kParts[kind] + kMore[kind];
    }
    return swaps;
}

// Who has the types of a kernel altered before anybody looks has checks look past everything. That
// they are not those that the kernel was built with is found, and nothing that rests on them is
// believed.
TEST_P(Forged, types_are_told_where_it_is_known_how_the_kernel_was_built) {
    auto honest = Guest::attach(&*recorder_);
    ASSERT_TRUE(honest.has_value()) << honest.error().to_text();
    auto& kernel = (*honest)->kernel();
    auto built = (*honest)->see_code();
    ASSERT_TRUE(built.has_value()) << built.error().to_text();
    built->is_seen = false;  // as if made of the kernel's file
    const GuestVirt begin = kernel.symbol("__start_BTF").value(),
                    end = kernel.symbol("__stop_BTF").value();
    std::vector<std::byte> btf(end - begin);
    ASSERT_TRUE(kernel.memory().read(begin, btf).has_value());
    auto swaps = swaps_in(btf, {"task_struct", "module", "sock_common", "proc_dir_entry", "file",
                                "mm_struct", "vm_area_struct", "cred", "bpf_prog", "kprobe",
                                "seq_operations", "xa_node", "pid", "ftrace_ops"});
    ASSERT_GT(swaps.size(), 100u);
    std::ranges::shuffle(swaps, random_);
    swaps.resize(nightly() ? 200 : 10);
    const auto forge = [&](std::size_t at, std::size_t from) {
        const auto phys = kernel.memory().translate(begin + at);
        forged_->forge(phys.value().phys, std::span(btf).subspan(from, 4));
    };
    const std::vector<std::string> names{"kernel_code", "guest_view"};
    std::size_t told = 0;
    for (const Swap& swap : swaps) {
        SCOPED_TRACE(swap.what);
        forged_->restore();
        forge(swap.first, swap.second);
        forge(swap.second, swap.first);
        cache_->new_epoch();
        auto guest = Guest::attach(&*recorder_);
        if (!guest.has_value()) continue;
        if (const auto known = (*guest)->know_built(*built); !known.has_value()) {
            ADD_FAILURE() << known.error().to_text();
            continue;
        }
        const auto reports = detect::run(detect::make_checks(names), **guest, [](auto) {});
        const auto& code = reports.at(0);
        EXPECT_NE(code.outcome, event::Outcome::clean);
        if (code.outcome == event::Outcome::finding) {
            ++told;
            EXPECT_TRUE(std::ranges::any_of(code.findings,
                                            [](const event::Finding& finding) {
                                                return finding.rule == "constant_unlike_baseline" &&
                                                       finding.subject.starts_with("BTF+");
                                            }))
                << code.findings.front().rule << " " << code.findings.front().subject;
        }
        EXPECT_NE(reports.at(1).outcome, event::Outcome::clean);
    }
    EXPECT_GT(told, swaps.size() / 2);
}

}  // namespace
}  // namespace underseer::testing
