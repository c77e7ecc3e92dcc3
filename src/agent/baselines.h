// The agent's baselines as its guests use them: each is read once for all who are compared with it,
// and whoever uses them learns that they have changed.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/baseline_store.h"
#include "agent/guest_baseline.h"
#include "base/event_loop.h"
#include "detect/judgement.h"
#include "event/finding.h"

namespace underseer::agent {

class Baselines {
  public:
    struct Callbacks {
        // Of kernels. Some may have been removed: what was compared with them has to find another.
        std::function<void(bool some_removed)> kernels_changed;
        std::function<void()> programs_changed;
        // Whether the kernel of some guest is compared with it.
        BaselineStore::InUse in_use;
    };
    // `loop` and `key` must outlive this.
    Baselines(EventLoop* loop, const std::filesystem::path& state_dir,
              const crypto::SigningKey* key, Callbacks callbacks);
    Baselines(const Baselines&) = delete;
    ~Baselines() { loop_->cancel(telling_programs_); }

    std::vector<BaselineFacts> all() const { return {store_.all().begin(), store_.all().end()}; }
    // BaselineStore::keep() and drop().
    Result<void> keep(BaselineFacts facts, const std::string& bytes);
    Result<void> drop(const std::string& id);
    // Of the code that a guest was seen to run: others of its build are compared with it, unless
    // there is one already.
    void keep_seen(const event::Instance& instance, BaselineFacts facts, const std::string& bytes);

    // Of a kernel of that build, made to run so; nothing where none is kept.
    std::optional<BaselineFacts> find_for(const std::string& build_id,
                                          const std::string& variant) const;
    // Null when it is not what was kept, which is said.
    std::shared_ptr<const KeptBaseline> read(const BaselineFacts& facts);

    bool has_programs() const { return store_.has_programs(); }
    // All programs of packages that are kept, as introspectors get them.
    std::shared_ptr<const std::string> programs();

  private:
    void programs_changed();

    EventLoop* loop_;
    Callbacks callbacks_;
    BaselineStore store_;
    // Those that are on their way to workers, by hash: many guests run one kernel.
    std::map<std::string, std::weak_ptr<const KeptBaseline>> lent_;
    std::weak_ptr<const std::string> lent_programs_;
    EventLoop::Timer telling_programs_ = 0;
};

// What a finding says that a guest was compared with.
detect::Reference reference_of(const BaselineFacts& used);

}  // namespace underseer::agent
