// GuestBaseline: sees to it that the worker of one guest knows how its kernel was built. Where
// nobody does, the kernel of the first guest that is found clean is looked at, and is what others
// of the same build are compared with.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "agent/baseline_form.h"
#include "agent/introspection.h"
#include "agent/job_runner.h"

namespace underseer::agent {

// A baseline that the agent keeps, to be handed to workers.
struct KeptBaseline {
    BaselineFacts facts;
    std::string bytes;
};

class GuestBaseline {
  public:
    struct Callbacks {
        // For a kernel of that build, made so; nothing where none is kept.
        std::function<std::optional<BaselineFacts>(const std::string& build_id,
                                                   const std::string& variant)>
            find;
        // Null when it cannot be read; if somebody has changed it, it is not found any more.
        std::function<std::shared_ptr<const KeptBaseline>(const BaselineFacts& facts)> read;
        // What a worker has seen; `facts` without where and when. TRUST: the worker's word.
        std::function<void(BaselineFacts facts, std::string bytes)> seen;
        // The worker has another one now.
        std::function<void()> told;
        std::function<void(const std::string& note)> note;
    };

    // `worker` is null where there is none. All must outlive this.
    GuestBaseline(std::function<JobRunner*()> worker, Callbacks callbacks)
        : worker_(std::move(worker)), callbacks_(std::move(callbacks)) {}

    // Of each answer of the worker, before what it says is taken: after a reboot the worker has
    // another guest, and knows nothing of it.
    void answered(const AnswerEnd& end);
    // Nothing was found in the kernel's code.
    void found_clean();
    // The agent keeps others by now; or, if some were removed, fewer.
    void kept_changed(bool some_removed);
    // The worker is no more.
    void forget() { used_ = {}, refused_ = {}; }

    // That the worker has; its build_id is "" where it has none.
    const BaselineFacts& used() const { return used_; }

  private:
    struct Wanted {
        std::string build_id, variant;
        bool operator==(const Wanted&) const = default;
    };
    void look_for(Wanted wanted);
    void send(std::size_t from);
    bool sent(const AnswerEnd& end, std::size_t from, bool is_last);
    void keep_seen(const AnswerEnd& end);

    std::function<JobRunner*()> worker_;
    Callbacks callbacks_;
    std::shared_ptr<const KeptBaseline> sending_;
    Wanted wanted_;             // that it is sent for
    bool is_outdated_ = false;  // the agent keeps others than when that was begun
    BaselineFacts used_;
    Wanted refused_;           // that there was none for, or none that fits
    bool is_looking_ = false;  // the worker looks at its kernel
    Wanted looked_at_;         // and has: once is enough
    BaselineFacts seen_facts_;
    std::string seen_bytes_, last_trouble_;
};

}  // namespace underseer::agent
