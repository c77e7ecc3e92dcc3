// IntervalMap against a model that cannot be wrong: one value for each point of a small space.
#include "base/interval_map.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <array>

namespace underseer {
namespace {

constexpr std::uint64_t kSpace = 48;

struct Step {
    int what = 0;  // 0 assign, 1 erase, 2 insert
    std::uint64_t begin = 0, end = 0;
    int value = 0;
};

rc::Gen<Step> a_step() {
    return rc::gen::build<Step>(
        rc::gen::set(&Step::what, rc::gen::inRange(0, 3)),
        rc::gen::set(&Step::begin, rc::gen::inRange<std::uint64_t>(0, kSpace)),
        rc::gen::set(&Step::end, rc::gen::inRange<std::uint64_t>(0, kSpace + 1)),
        rc::gen::set(&Step::value, rc::gen::inRange(1, 5)));
}

// 0 where nothing is.
using Model = std::array<int, kSpace>;

bool is_free(const Model& model, const Step& step) {
    for (std::uint64_t i = step.begin; i < step.end; ++i) {
        if (model[i] != 0) return false;
    }
    return true;
}

void expect_same(const IntervalMap<int>& map, const Model& model) {
    std::uint64_t previous_end = 0;
    map.for_each([&](std::uint64_t begin, std::uint64_t end, int) {
        RC_ASSERT(begin < end);
        RC_ASSERT(begin >= previous_end);
        previous_end = end;
    });
    for (std::uint64_t i = 0; i < kSpace; ++i) {
        const auto found = map.find(i);
        RC_ASSERT(found.has_value() == (model[i] != 0));
        if (found) {
            RC_ASSERT(found->value == model[i]);
            RC_ASSERT(found->begin <= i && i < found->end);
        }
        RC_ASSERT(map.overlaps(i, i + 1) == (model[i] != 0));
    }
}

RC_GTEST_PROP(IntervalMap, says_at_every_point_what_was_put_there_last, ()) {
    IntervalMap<int> map;
    Model model{};
    for (const Step& step : *rc::gen::container<std::vector<Step>>(a_step())) {
        switch (step.what) {
            case 0:
                map.assign(step.begin, step.end, step.value);
                for (std::uint64_t i = step.begin; i < step.end; ++i) model[i] = step.value;
                break;
            case 1:
                map.erase(step.begin, step.end);
                for (std::uint64_t i = step.begin; i < step.end; ++i) model[i] = 0;
                break;
            default: {
                const auto inserted = map.insert(step.begin, step.end, step.value);
                const bool possible = step.begin < step.end && is_free(model, step);
                RC_ASSERT(inserted.has_value() == possible);
                if (!possible) break;
                for (std::uint64_t i = step.begin; i < step.end; ++i) model[i] = step.value;
            }
        }
        expect_same(map, model);
    }
}

TEST(IntervalMap, what_cannot_be_inserted_changes_nothing_and_says_why) {
    IntervalMap<int> map;
    ASSERT_TRUE(map.insert(10, 20, 1).has_value());
    EXPECT_EQ(map.insert(19, 30, 2).error().code, Code::ambiguous);
    EXPECT_EQ(map.insert(5, 5, 2).error().code, Code::malformed);
    EXPECT_EQ(map.insert(9, 5, 2).error().code, Code::malformed);
    EXPECT_EQ(map.size(), 1u);
}

TEST(IntervalMap, reaches_to_the_end_of_the_space) {
    IntervalMap<int> map;
    map.assign(~0ull - 10, ~0ull, 7);
    EXPECT_EQ(map.find(~0ull - 1)->value, 7);
    EXPECT_FALSE(map.find(~0ull).has_value());
}

}  // namespace
}  // namespace underseer
