// Pages that cannot be read, of a real guest: every answer is then the truth or tells a gap. Each
// page that the model reads is one that an image may lack, and that a host may have swapped out.
#include <algorithm>
#include <random>

#include "answers.h"
#include "detect/hidden_process/hidden_process.h"
#include "guest_memory/cached_memory.h"
#include "guest_memory/fake_memory.h"
#include "guest_memory/sources.h"
#include "guests.h"
#include "outside_rootkit.h"

namespace underseer::testing {
namespace {

using guest_linux::Guest;
using guest_memory::GuestMemory;
using guest_memory::ReadOp;
using guest_memory::ReadStatus;

// One page that cannot be had.
class LackingMemory final : public guest_memory::MemoryDecorator {
  public:
    using MemoryDecorator::MemoryDecorator;

    void read_many(std::span<ReadOp> ops) override {
        source_->read_many(ops);
        for (ReadOp& op : ops) {
            if (!page_ || op.from >= *page_ + kPageSize || op.from + op.into.size() <= *page_) {
                continue;
            }
            op.status = status_;
            std::ranges::fill(op.into, std::byte{0});
        }
    }
    std::string failure() const override { return "away for a test"; }

    void take_away(GuestPhys page, ReadStatus status) { page_ = page, status_ = status; }
    void give_back() { page_.reset(); }

  private:
    std::optional<GuestPhys> page_;
    ReadStatus status_ = ReadStatus::hole;
};

class MissingPages : public ::testing::TestWithParam<std::string> {
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
        recorder_.emplace(memory_.get());
        lacking_.emplace(&*recorder_);
        cache_.emplace(&*lacking_);
    }

    // Some of the pages that were read since recorder_->forget(), in any order.
    std::vector<GuestPhys> pages_read(std::size_t most) {
        std::vector<GuestPhys> pages;
        for (const guest_memory::RamRegion& range : recorder_->read_ranges()) {
            for (GuestPhys page{range.begin.value & kPageMask}; page < range.end();
                 page = page + kPageSize) {
                pages.push_back(page);
            }
        }
        std::ranges::shuffle(pages, random_);
        pages.resize(std::min(pages.size(), most));
        return pages;
    }
    ReadStatus any_fault() { return random_() % 2 != 0 ? ReadStatus::hole : ReadStatus::failed; }

    std::mt19937 random_{1};
    std::optional<TestVm> vm_;
    agent::GuestSource source_;
    std::unique_ptr<GuestMemory> memory_;
    std::optional<guest_memory::RecordingMemory> recorder_;
    std::optional<LackingMemory> lacking_;
    std::optional<guest_memory::CachedMemory> cache_;
};
INSTANTIATE_TEST_SUITE_P(, MissingPages, ::testing::ValuesIn(all_kernels()), test_name);

TEST_P(MissingPages, make_gaps_and_no_other_answers) {
    const auto guest = Guest::attach(&*cache_);
    ASSERT_TRUE(guest.has_value()) << guest.error().to_text();
    const Answers before = all_answers(**guest);
    recorder_->forget();
    const Answers whole = all_answers(**guest);
    EXPECT_EQ(whole.fields, before.fields) << "the guest is not paused";
    const auto pages = pages_read(nightly() ? 1500 : 100);
    EXPECT_GT(pages.size(), 90u);
    for (const GuestPhys page : pages) {
        const ReadStatus status = any_fault();
        SCOPED_TRACE(fmt::format("without page {:#x}", page.value));
        lacking_->take_away(page, status);
        expect_truth_or_a_gap(all_answers(**guest), whole, Search::no);
    }
}

// Stacks, unwind tables, programs and their symbols: a trace reads few of all the pages above.
TEST_P(MissingPages, of_a_traced_process_make_gaps_and_no_other_answers) {
    const auto guest = Guest::attach(&*cache_);
    ASSERT_TRUE(guest.has_value()) << guest.error().to_text();
    const auto trace = [&] { return all_answers(**guest, Search::no, "trace"); };
    (void)trace();
    recorder_->forget();
    const Answers whole = trace();
    EXPECT_GT(whole.fields.at("trace").size(), 20u);
    EXPECT_TRUE(whole.gaps.at("trace").empty()) << *whole.gaps.at("trace").begin();
    for (const GuestPhys page : pages_read(nightly() ? 3000 : 300)) {
        const ReadStatus status = any_fault();
        SCOPED_TRACE(fmt::format("without page {:#x}", page.value));
        lacking_->take_away(page, status);
        expect_truth_or_a_gap(trace(), whole, Search::no);
    }
}

TEST_P(MissingPages, make_no_visible_process_hidden_and_no_hidden_one_clean) {
    const auto guest = Guest::attach(&*cache_);
    ASSERT_TRUE(guest.has_value()) << guest.error().to_text();
    const auto check = [&] {
        detect::HiddenProcessCheck looks;
        while (!looks.done()) {
            detect::Snapshot snapshot(guest->get());
            looks.look(snapshot);
        }
        return looks.report(**guest);
    };
    const auto pages_of_check = [&] {
        recorder_->forget();
        (void)check();
        return pages_read(nightly() ? 500 : 60);
    };
    for (const GuestPhys page : pages_of_check()) {
        SCOPED_TRACE(fmt::format("nobody hides, without page {:#x}", page.value));
        lacking_->take_away(page, any_fault());
        const auto report = check();
        EXPECT_NE(report.outcome, event::Outcome::finding) << report.findings.front().subject;
    }
    lacking_->give_back();
    EXPECT_EQ(check().outcome, event::Outcome::clean) << check().reason;

    OutsideRootkit rootkit(&*vm_);
    const auto tasks = (*guest)->tasks().items;
    const auto victim = std::ranges::find_if(tasks, [](const event::Task& task) {
        return task.pid != 1 && task.is_process() && !task.kernel_thread;
    });
    ASSERT_NE(victim, tasks.end());
    // Of this one list alone: a page of a task breaks all of them at once.
    rootkit.unlink(GuestVirt{victim->address}, "cg_list");
    ASSERT_EQ(check().findings.size(), 1u);
    for (const GuestPhys page : pages_of_check()) {
        SCOPED_TRACE(fmt::format("{} hides, without page {:#x}", victim->pid, page.value));
        lacking_->take_away(page, any_fault());
        const auto report = check();
        EXPECT_NE(report.outcome, event::Outcome::clean);
        for (const event::Finding& finding : report.findings) {
            EXPECT_TRUE(detect::HiddenProcessCheck::is_about(finding, victim->pid,
                                                             GuestVirt{victim->address}))
                << finding.subject;
        }
    }
}

TEST_P(MissingPages, while_it_is_attached_to_make_gaps_and_no_other_answers) {
    recorder_->forget();
    const auto guest = Guest::attach(&*cache_);
    ASSERT_TRUE(guest.has_value()) << guest.error().to_text();
    const auto pages = pages_read(nightly() ? 300 : 20);
    const Answers whole = all_answers(**guest);
    for (const GuestPhys page : pages) {
        const ReadStatus status = any_fault();
        SCOPED_TRACE(fmt::format("without page {:#x}", page.value));
        lacking_->take_away(page, status);
        cache_->new_epoch();
        const auto other = Guest::attach(&*cache_);
        if (other.has_value()) {
            expect_truth_or_a_gap(all_answers(**other), whole, Search::no);
        } else {
            EXPECT_FALSE(other.error().message.empty());
        }
    }
}

}  // namespace
}  // namespace underseer::testing
