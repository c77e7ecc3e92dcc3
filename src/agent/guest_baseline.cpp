#include "agent/guest_baseline.h"

#include <chrono>
#include <utility>

#include "agent/answer.h"
#include "base/limits.h"

namespace underseer::agent {

namespace {

constexpr std::chrono::milliseconds kDeadline{30'000};

}  // namespace

void GuestBaseline::answered(const AnswerEnd& end) {
    if (end.lacks_baseline.empty()) return;
    used_ = {};
    Wanted wanted{end.lacks_baseline, end.code_variant};
    if (!sending_ && !is_looking_ && wanted != refused_) look_for(std::move(wanted));
}

void GuestBaseline::look_for(Wanted wanted) {
    // One that somebody has changed is there no more: then there may be another.
    for (int tries = 0; tries < 2; ++tries) {
        const auto facts = callbacks_.find(wanted.build_id, wanted.variant);
        if (!facts) break;
        sending_ = callbacks_.read(*facts);
        if (!sending_) continue;
        wanted_ = std::move(wanted);
        return send(0);
    }
    refused_ = std::move(wanted);
}

void GuestBaseline::kept_changed(bool some_removed) {
    if (some_removed) looked_at_ = {};
    is_outdated_ = sending_ != nullptr;
    if (sending_ || worker_() == nullptr) return;
    if (used_.build_id.empty()) {
        if (!refused_.build_id.empty()) look_for(std::exchange(refused_, {}));
        return;
    }
    const auto facts = callbacks_.find(used_.build_id, used_.variant);
    if (facts && *facts == used_) return;
    if (facts) sending_ = callbacks_.read(*facts);
    // Where another one cannot be read just now, what the worker has is better than nothing.
    if (facts && !sending_) return;
    // One that is empty takes away what the worker has.
    if (!sending_) sending_ = std::make_shared<const KeptBaseline>();
    wanted_ = {used_.build_id, used_.variant};
    send(0);
}

void GuestBaseline::send(std::size_t from) {
    Question question{.topic = Topic::baseline};
    question.baseline = part_of(sending_->bytes, from);
    question.baseline.is_seen = sending_->facts.is_seen();
    const bool is_last = question.baseline.is_last;
    JobRunner* worker = worker_();
    const bool taken =
        worker != nullptr &&
        worker->submit({.question = event::encode(question),
                        .deadline = kDeadline,
                        .on_frame =
                            [this, from, is_last](std::string_view frame, bool last) {
                                if (!last) return true;
                                event::Decoder decoder{as_bytes(frame.substr(1))};
                                const auto end = decoder.get<AnswerEnd>();
                                return end.has_value() && sent(*end, from, is_last);
                            },
                        .on_failure = [this](const Error&) { sending_.reset(); }});
    if (!taken) sending_.reset();
}

bool GuestBaseline::sent(const AnswerEnd& end, std::size_t from, bool is_last) {
    if (!end.failed && !is_last) {
        send(from + kBaselinePartBytes);
        return true;
    }
    const auto baseline = std::exchange(sending_, nullptr);
    if (!end.failed) {
        used_ = baseline->facts;
        callbacks_.told();
        if (is_outdated_) kept_changed(/*some_removed=*/false);
        return true;
    }
    const Error why = error_of(end);
    // A guest that has ended meanwhile, or starts anew, is no fault of the baseline's.
    if (why.code == Code::unavailable || why.code == Code::gone || why.code == Code::not_linux) {
        return true;
    }
    refused_ = wanted_;
    callbacks_.note("its kernel is not compared with its baseline: " + why.to_text());
    if (is_outdated_) kept_changed(/*some_removed=*/false);
    return true;
}

void GuestBaseline::found_clean() {
    JobRunner* worker = worker_();
    if (worker == nullptr || sending_ || is_looking_ || !used_.build_id.empty() ||
        refused_.variant.empty() || refused_ == looked_at_) {
        return;
    }
    seen_bytes_.clear();
    is_looking_ =
        worker->submit({.question = event::encode(Question{.topic = Topic::see_code}),
                        .deadline = kDeadline,
                        .on_frame =
                            [this](std::string_view frame, bool last) {
                                event::Decoder decoder{as_bytes(frame.substr(1))};
                                if (last) {
                                    is_looking_ = false;
                                    const auto end = decoder.get<AnswerEnd>();
                                    if (end.has_value()) keep_seen(*end);
                                    return end.has_value();
                                }
                                if (decoder.at_end())
                                    return true;  // of an answer with nothing in it
                                auto part = decoder.get<BaselineMadePart>();
                                if (!part.has_value() || seen_bytes_.size() + part->bytes.size() >
                                                             limits::kMaxBaselineBytes) {
                                    return false;
                                }
                                seen_facts_ = std::move(part->facts);
                                seen_bytes_ += part->bytes;
                                return true;
                            },
                        .on_failure = [this](const Error&) { is_looking_ = false; }});
}

void GuestBaseline::keep_seen(const AnswerEnd& end) {
    std::string bytes = std::exchange(seen_bytes_, {});
    if (end.failed) {
        // It is tried again at the next clean look.
        std::string why = error_of(end).to_text();
        if (why == last_trouble_) return;
        callbacks_.note("its kernel cannot be what others are compared with: " + why);
        last_trouble_ = std::move(why);
        return;
    }
    looked_at_ = refused_;
    // It may speak of the kernel that it was asked about, and of no other.
    if (Wanted{seen_facts_.build_id, seen_facts_.variant} != refused_ || bytes.empty()) return;
    callbacks_.seen(std::exchange(seen_facts_, {}), std::move(bytes));
}

}  // namespace underseer::agent
