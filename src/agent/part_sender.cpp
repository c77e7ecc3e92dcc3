#include "agent/part_sender.h"

#include "agent/answer.h"
#include "event/wire.h"

namespace underseer::agent {

namespace {
constexpr std::chrono::milliseconds kPartDeadline{60'000};
}  // namespace

void PartSender::send(JobRunner& worker, std::shared_ptr<const std::string> text) {
    ++sent_;
    send_from(worker, text, 0);
}

void PartSender::send_from(JobRunner& worker, const std::shared_ptr<const std::string>& text,
                           std::size_t from) {
    BaselinePart part = part_of(*text, from);
    const bool is_last = part.is_last;
    const auto on_frame = [this, &worker, text, from, is_last, which = sent_](
                              std::string_view frame, bool last) {
        if (!last) return true;
        event::Decoder decoder{as_bytes(frame.substr(1))};
        const auto end = decoder.get<AnswerEnd>();
        if (!end.has_value()) return false;
        if (which != sent_) return true;
        if (end->failed) {
            done_(fail(error_of(*end)));
        } else if (is_last) {
            done_({});
        } else {
            send_from(worker, text, from + kBaselinePartBytes);
        }
        return true;
    };
    const bool taken = worker.submit({.question = event::encode(ask_(std::move(part))),
                                      .deadline = kPartDeadline,
                                      .on_frame = on_frame,
                                      .on_failure = [](const Error&) {}});
    if (!taken) done_(fail(Code::limit, "too many questions wait for the worker"));
}

}  // namespace underseer::agent
