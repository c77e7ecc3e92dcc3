// The baselines of kernels and of packages' programs that the agent keeps: each a bundle in
// `baselines/` of the state directory, which the agent has signed. A baseline decides what is an
// alteration: one that somebody has changed is not used.
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "agent/baseline_form.h"
#include "base/result.h"
#include "crypto/signing.h"

namespace underseer::agent {

class BaselineStore {
  public:
    // `key` must outlive this.
    BaselineStore(const std::filesystem::path& state_dir, const crypto::SigningKey* key);

    // Those that are not used, and why: not signed by the key, or not readable. As found at the
    // start.
    std::span<const std::string> troubles() const { return troubles_; }

    std::span<const BaselineFacts> all() const { return kept_; }
    // By BaselineFacts::id().
    const BaselineFacts* find(std::string_view id) const;
    // What a kernel of that build, made to run so, is to be compared with: how it was built, else
    // how it was first seen.
    const BaselineFacts* find_for(const std::string& build_id, const std::string& variant) const;

    // Whether there is one of programs.
    bool has_programs() const;

    // In the place of the one of the same kernel or package. Of those that were seen only some are
    // kept, of one guest and of all: the oldest make room, but for those that are in use.
    // Code::invalid_argument when `bytes` are not those that `facts` tell of, Code::limit when
    // there are too many.
    using InUse = std::function<bool(const BaselineFacts&)>;
    Result<void> keep(BaselineFacts facts, std::string_view bytes, const InUse& in_use = {});
    // Code::not_found when there is none.
    Result<void> drop(std::string_view id);
    // Code::permission when it is not what was kept: it is not used any more then.
    Result<std::string> read(BaselineFacts facts);

  private:
    std::filesystem::path folder_of(std::string_view id) const;
    // Ids of those that have to go for it.
    Result<std::vector<std::string>> make_room(const BaselineFacts& seen,
                                               const InUse& in_use) const;
    Result<void> check_room(const BaselineFacts& programs) const;
    Result<void> write(const BaselineFacts& facts, std::string_view bytes) const;
    Result<BaselineFacts> load(const std::filesystem::path& folder) const;
    void forget(std::string_view id);

    std::filesystem::path folder_;
    const crypto::SigningKey* key_;
    std::vector<BaselineFacts> kept_;  // by name
    std::vector<std::string> troubles_;
};

}  // namespace underseer::agent
