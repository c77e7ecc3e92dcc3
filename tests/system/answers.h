// All that a guest can be asked, answered by a model in this process, to be compared with the same
// model under worse conditions: what is answered must be the truth, or a gap must be told.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <set>
#include <string>
#include <string_view>

#include "guest_linux/guest.h"

namespace underseer::testing {

// All that a guest answers: by topic, which thing's which field, and its text. What is unavailable
// is not there, and a gap is said of its topic.
struct Answers {
    std::map<std::string, std::map<std::string, std::string>> fields;
    std::map<std::string, std::set<std::string>> gaps;

    template <typename T>
    void add(const std::string& topic, const std::string& which, const T& value) {
        if constexpr (event::Described<T>) {
            event::for_each_field<T>([&](const auto& field) {
                add(topic, fmt::format("{}.{}", which, field.name), value.*field.member);
            });
        } else if constexpr (requires { value.available(); }) {
            if (value.available()) return add(topic, which, value.value());
            gaps[topic].insert(fmt::format("{}: {}", which, value.reason()));
        } else if constexpr (requires { requires event::Described<typename T::value_type>; }) {
            for (std::size_t i = 0; i < value.size(); ++i) {
                add(topic, fmt::format("{} {}", which, i), value[i]);
            }
        } else {
            std::string text = fmt::format("{}", value);
            if (text == "?") {
                gaps[topic].insert(which + " is not known");
            } else {
                fields[topic][which] = std::move(text);
            }
        }
    }
    template <typename T, typename Identity>
    void add_all(const std::string& topic, const Result<guest_linux::Listing<T>>& listing,
                 Identity&& identity) {
        if (!listing.has_value()) {
            gaps[topic].insert(listing.error().to_text());
            return;
        }
        if (listing->unreadable != 0) gaps[topic].insert(listing->first_error);
        for (const T& item : listing->items) add(topic, identity(item), item);
    }
};

// A search of RAM takes longer than all the rest together.
enum class Search { no, ram };

// `only`: of one topic ("modules"); else of all, and of every view of the tasks.
Answers all_answers(guest_linux::Guest& guest, Search search = Search::no,
                    std::string_view only = "");

// Says what is wrong in `said`: fields that differ from the truth, and ones that are missing
// without a gap that the whole answers do not have too.
void expect_truth_or_a_gap(const Answers& said, const Answers& whole, Search search);

}  // namespace underseer::testing
