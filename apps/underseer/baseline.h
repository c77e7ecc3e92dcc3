// How kernels were built and what programs packages have: made of their files, and kept by the
// agent.
#pragma once

#include <string>
#include <vector>

#include "agent/baseline_form.h"
#include "options.h"
#include "target.h"

namespace underseer::cli {

// What `baseline --json` prints of each.
struct BaselineFact {
    explicit BaselineFact(agent::BaselineFacts facts)
        : id(facts.id()),
          build_id(std::move(facts.build_id)),
          first_seen(facts.is_seen()),
          kind(facts.is_of_programs() ? "programs" : "kernel"),
          release(std::move(facts.release)),
          source(std::move(facts.source)),
          made_ns(facts.made_ns),
          text_bytes(facts.text_bytes),
          places(facts.places),
          bytes(facts.bytes),
          sha256(std::move(facts.sha256)),
          programs(facts.programs),
          left_out(facts.left_out) {}

    std::string id, build_id;
    bool first_seen = false;
    std::string kind;  // "kernel", "programs"
    std::string release, source;
    std::uint64_t made_ns = 0, text_bytes = 0, places = 0, bytes = 0;
    std::string sha256;
    std::uint64_t programs = 0, left_out = 0;  // see agent::BaselineFacts
    std::vector<std::string> used_by;          // names of VMs whose kernel is compared with it

    static constexpr auto fields() {
        using event::Field;
        using F = BaselineFact;
        return std::tuple{Field{"id", &F::id},
                          Field{"build_id", &F::build_id},
                          Field{"first_seen", &F::first_seen},
                          Field{"kind", &F::kind},
                          Field{"release", &F::release},
                          Field{"source", &F::source},
                          Field{"made", &F::made_ns},
                          Field{"text_bytes", &F::text_bytes},
                          Field{"places", &F::places},
                          Field{"bytes", &F::bytes},
                          Field{"sha256", &F::sha256},
                          Field{"programs", &F::programs},
                          Field{"left_out", &F::left_out},
                          Field{"used_by", &F::used_by}};
    }
};

// baseline make FILE.. | ls | rm ID..
Result<int> baseline(const Options& options);

// Has `target` compare its guest's kernel and programs with those of options.baselines.
Result<void> use_baselines(Target& target, const Options& options);

}  // namespace underseer::cli
