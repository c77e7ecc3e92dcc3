// How kernels were built: made of their files, and kept by the agent.
#pragma once

#include <string>
#include <vector>

#include "agent/baseline_form.h"
#include "options.h"
#include "target.h"

namespace underseer::cli {

// What `baseline --json` prints of each.
struct BaselineFact {
    agent::BaselineFacts facts;
    std::vector<std::string> used_by;  // names of VMs whose kernel is compared with it

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{event::FlatField{"facts", &BaselineFact::facts},
                          Field{"used_by", &BaselineFact::used_by}};
    }
};

// baseline make FILE | ls | rm BUILD-ID
Result<int> baseline(const Options& options);

// Has `target` compare its guest's kernel with options.baseline, when there is one.
Result<void> use_baseline(Target& target, const Options& options);

}  // namespace underseer::cli
