// IntervalMap: disjoint half-open ranges [begin, end) of a 64-bit space, each with a value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>

#include "base/result.h"

namespace underseer {

template <typename Value>
class IntervalMap {
  public:
    struct Interval {
        std::uint64_t begin = 0;
        std::uint64_t end = 0;  // exclusive
        Value value{};
        std::uint64_t size() const { return end - begin; }
        bool operator==(const Interval&) const = default;
    };

    // Puts [begin, end) -> value. Fails, and changes nothing, when the range is empty or runs
    // backwards (malformed) or touches one that is there (ambiguous).
    Result<void> insert(std::uint64_t begin, std::uint64_t end, Value value) {
        if (begin >= end) return fail(Code::malformed, "interval is empty or runs backwards");
        if (overlaps(begin, end)) return fail(Code::ambiguous, "interval overlaps another one");
        by_begin_.emplace(begin, Stored{end, std::move(value)});
        return {};
    }

    // Sets [begin, end) -> value over whatever was there: ranges partly covered are cut.
    void assign(std::uint64_t begin, std::uint64_t end, const Value& value) {
        if (begin >= end) return;
        erase(begin, end);
        by_begin_.emplace(begin, Stored{end, value});
    }

    // Removes [begin, end): a range that sticks out on both sides becomes two.
    void erase(std::uint64_t begin, std::uint64_t end) {
        if (begin >= end) return;
        auto it = by_begin_.lower_bound(begin);
        if (it != by_begin_.begin()) {
            const auto before = std::prev(it);
            if (before->second.end > begin) {
                const Stored cut = before->second;
                before->second.end = begin;
                if (cut.end > end) by_begin_.emplace(end, cut);
            }
        }
        while (it != by_begin_.end() && it->first < end) {
            if (it->second.end > end) {
                Stored tail = std::move(it->second);
                by_begin_.erase(it);
                by_begin_.emplace(end, std::move(tail));
                return;
            }
            it = by_begin_.erase(it);
        }
    }

    // The interval that holds `point`, by value.
    std::optional<Interval> find(std::uint64_t point) const {
        auto it = by_begin_.upper_bound(point);
        if (it == by_begin_.begin()) return std::nullopt;
        --it;
        if (point >= it->second.end) return std::nullopt;
        return Interval{it->first, it->second.end, it->second.value};
    }

    bool overlaps(std::uint64_t begin, std::uint64_t end) const {
        const auto it = by_begin_.lower_bound(begin);
        if (it != by_begin_.end() && it->first < end) return true;
        return it != by_begin_.begin() && std::prev(it)->second.end > begin;
    }

    template <typename Visit>
    void for_each(Visit&& visit) const {
        for (const auto& [begin, stored] : by_begin_) visit(begin, stored.end, stored.value);
    }

    std::size_t size() const { return by_begin_.size(); }
    bool empty() const { return by_begin_.empty(); }

  private:
    struct Stored {
        std::uint64_t end;
        Value value;
    };
    std::map<std::uint64_t, Stored> by_begin_;
};

}  // namespace underseer
