// Answer: what a question amounts to, put together from frames that are not trusted.
#pragma once

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "agent/introspection.h"
#include "event/wire.h"

namespace underseer::agent {

// What was found, and what could not be read.
template <typename T>
struct Answer {
    std::vector<T> items;
    std::uint32_t unreadable = 0;
    std::string first_gap;
};

// More items than this in one answer mean that the worker lies.
inline constexpr std::size_t kMaxAnswerItems = 16u << 20;

// The error that an end frame tells.
Error error_of(const AnswerEnd& end);

// Reads items frames up to the end frame, which it returns. `receive` gives the next frame, `take`
// takes an item and may refuse it.
template <typename T, typename Receive, typename Take>
Result<AnswerEnd> read_each(Receive&& receive, Take&& take) {
    for (;;) {
        const std::string frame = TRY(receive());
        event::Decoder decoder{as_bytes(frame)};
        if (TRY(decoder.get<FrameKind>()) == FrameKind::end) {
            AnswerEnd end = TRY(decoder.get<AnswerEnd>());
            if (end.failed) return fail(error_of(end));
            return end;
        }
        while (!decoder.at_end()) {
            if constexpr (std::is_void_v<decltype(take(T{}))>) {
                take(TRY(decoder.get<T>()));
            } else {
                TRY(take(TRY(decoder.get<T>())));
            }
        }
    }
}

// The whole of an answer.
template <typename T, typename Receive>
Result<Answer<T>> read_answer(std::string_view who, Receive&& receive,
                              std::size_t max_items = kMaxAnswerItems) {
    Answer<T> answer;
    const auto keep = [&](T item) -> Result<void> {
        if (answer.items.size() >= max_items) {
            return fail(Code::limit, std::string(who) + ": an answer without end");
        }
        answer.items.push_back(std::move(item));
        return {};
    };
    AnswerEnd end = TRY(read_each<T>(receive, keep));
    answer.unreadable = end.unreadable;
    answer.first_gap = std::move(end.first_gap);
    return answer;
}

}  // namespace underseer::agent
