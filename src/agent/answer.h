// Answer: what a question amounts to, put together from frames that are not trusted.
#pragma once

#include <string>
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

// Reads items frames up to the end frame. `receive` gives the next frame.
template <typename T, typename Receive>
Result<Answer<T>> read_answer(std::string_view who, Receive&& receive,
                              std::size_t max_items = kMaxAnswerItems) {
    Answer<T> answer;
    for (;;) {
        const std::string frame = TRY(receive());
        event::Decoder decoder{as_bytes(frame)};
        if (TRY(decoder.get<FrameKind>()) == FrameKind::end) {
            const AnswerEnd end = TRY(decoder.get<AnswerEnd>());
            if (end.failed) return fail(error_of(end));
            answer.unreadable = end.unreadable;
            answer.first_gap = end.first_gap;
            return answer;
        }
        while (!decoder.at_end()) {
            if (answer.items.size() >= max_items) {
                return fail(Code::limit, std::string(who) + ": an answer without end");
            }
            answer.items.push_back(TRY(decoder.get<T>()));
        }
    }
}

}  // namespace underseer::agent
