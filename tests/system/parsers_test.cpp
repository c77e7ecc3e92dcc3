// Every parser of kernel structures on a guest that was made for it: clean, half unreadable, lying,
// and changing while it is read. What real guests say is in truth_test.cpp, and what pages of
// theirs are read is in missing_pages_test.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "answers.h"
#include "guest_linux/fake_world.h"

namespace underseer::testing {
namespace {

using guest_linux::FakeGuest;
using guest_linux::FakeWorld;
using guest_linux::Guest;

class Parsers : public ::testing::TestWithParam<FakeWorld::Age> {
  protected:
    Parsers() : world_(GetParam(), GetParam() == FakeWorld::Age::old ? 4 : 5) {
        guest_ = Guest::attach(&fake()).value();
    }
    FakeGuest& fake() { return world_.guest(); }

    // Pages that are read to answer everything, without those of the model itself.
    std::vector<std::uint64_t> pages_read() {
        std::set<std::uint64_t> pages;
        fake().before_read = [&](FakeGuest&, GuestPhys from) {
            pages.insert(from.value & kPageMask);
        };
        all_answers(*guest_);
        fake().before_read = nullptr;
        return {pages.begin(), pages.end()};
    }

    FakeWorld world_;
    std::unique_ptr<Guest> guest_;
};
INSTANTIATE_TEST_SUITE_P(, Parsers, ::testing::Values(FakeWorld::Age::old, FakeWorld::Age::recent),
                         [](const auto& age) {
                             return age.param == FakeWorld::Age::old ? "old" : "recent";
                         });

template <typename T>
void expect_all(const char* topic, const Result<guest_linux::Listing<T>>& listing,
                std::vector<T> expected) {
    ASSERT_TRUE(listing.has_value()) << topic << ": " << listing.error().to_text();
    EXPECT_EQ(listing->unreadable, 0u) << topic << ": " << listing->first_error;
    // In any order: trees are walked in their own.
    std::vector<T> rest = listing->items;
    for (const T& item : expected) {
        const auto found = std::ranges::find(rest, item);
        if (found == rest.end()) {
            Answers all;
            all.add("it", "", item);
            for (std::size_t i = 0; i < rest.size(); ++i) {
                all.add("said", std::to_string(i), rest[i]);
            }
            ADD_FAILURE() << topic << ": missing " << fmt::format("{}", all.fields["it"])
                          << ", but there is " << fmt::format("{}", all.fields["said"]);
            continue;
        }
        rest.erase(found);
    }
    EXPECT_EQ(rest.size(), 0u) << topic << ": more than there is";
}

TEST_P(Parsers, say_of_a_clean_guest_what_it_has) {
    expect_all("modules", guest_->modules(), world_.modules);
    expect_all("mounts", guest_->mounts(), world_.mounts);
    expect_all("files", guest_->open_files(std::nullopt), world_.files);
    expect_all("maps", guest_->memory_maps(std::nullopt), world_.maps);
    expect_all("interfaces", guest_->interfaces(), world_.interfaces);
    expect_all("sockets", guest_->sockets(), world_.sockets);
    expect_all("BPF programs", guest_->bpf_programs(), world_.bpf_programs);
    expect_all("BPF maps", guest_->bpf_maps(), world_.bpf_maps);
    expect_all("BPF links", guest_->bpf_links(), world_.bpf_links);
    expect_all("log", guest_->kernel_log(), world_.log);
}

TEST_P(Parsers, say_the_truth_or_a_gap_where_a_page_cannot_be_read) {
    const Answers whole = all_answers(*guest_);
    const auto pages = pages_read();
    EXPECT_GT(pages.size(), 50u);
    for (const std::uint64_t page : pages) {
        fake().is_hole = [&](GuestPhys from) { return (from.value & kPageMask) == page; };
        SCOPED_TRACE(fmt::format("without the page at {:#x}", page));
        expect_truth_or_a_gap(all_answers(*guest_), whole, Search::no);
    }
}

// Every word of every structure takes values that lead elsewhere, nowhere, and round in a circle.
TEST_P(Parsers, end_whatever_a_guest_writes_into_its_structures) {
    const Answers whole = all_answers(*guest_);
    const std::uint64_t text = fake().init_task().value;
    for (const auto& [structure, size] : world_.structures()) {
        for (std::uint64_t offset = 0; offset + 8 <= size; offset += 8) {
            const GuestVirt at = structure + offset;
            const auto before = fake().read_back<std::uint64_t>(at);
            for (const std::uint64_t lie :
                 {std::uint64_t{0}, at.value, structure.value, text, ~std::uint64_t{0}}) {
                fake().write(at, lie);
                const std::uint64_t reads = fake().reads();
                const Answers said = all_answers(*guest_);
                EXPECT_LT(fake().reads() - reads, 100'000u)
                    << fmt::format("{:#x} + {} is {:#x}", structure.value, offset, lie);
                // The processes are not among the structures that lie.
                EXPECT_EQ(said.fields.at("task_list"), whole.fields.at("task_list"));
            }
            fake().write(at, before);
        }
    }
    EXPECT_EQ(all_answers(*guest_).fields, whole.fields);
}

const std::map<std::string, std::string>& of(const Answers& answers, const std::string& topic) {
    static const std::map<std::string, std::string> none;
    const auto found = answers.fields.find(topic);
    return found == answers.fields.end() ? none : found->second;
}

// Something goes between two reads, whichever these are: the rest is there, or a gap is told.
TEST_P(Parsers, lose_nothing_else_when_something_goes_while_they_read) {
    for (const FakeWorld::Change& change : world_.changes()) {
        const auto ask = [&] { return all_answers(*guest_, Search::no, change.topic); };
        const Answers before = ask();
        change.go();
        const Answers after = ask();
        change.come_back();
        ASSERT_LT(of(after, change.topic).size(), of(before, change.topic).size());
        bool in_time = true;
        for (std::uint64_t moment = 0; in_time; ++moment) {
            in_time = false;
            const std::uint64_t begin = fake().reads();
            fake().before_read = [&](FakeGuest& guest, GuestPhys) {
                if (in_time || guest.reads() - begin <= moment) return;
                in_time = true;
                change.go();
            };
            const Answers said = ask();
            fake().before_read = nullptr;
            if (in_time) change.come_back();
            SCOPED_TRACE(fmt::format("{} change before read {}", change.topic, moment));
            const auto fields = of(said, change.topic);
            for (const auto& [which, text] : fields) {
                const auto truth = of(before, change.topic).find(which);
                ASSERT_NE(truth, of(before, change.topic).end()) << which;
                EXPECT_EQ(text, truth->second) << which;
            }
            if (said.gaps.contains(change.topic)) continue;
            for (const auto& [which, text] : of(after, change.topic)) {
                ASSERT_TRUE(fields.contains(which)) << which;
            }
        }
    }
}

}  // namespace
}  // namespace underseer::testing
