// Sigma rules: which are understood, and what they are for `check` and `explain`.
#pragma once

#include <string>
#include <vector>

#include "agent/event_rules.h"
#include "explain.h"
#include "options.h"
#include "target.h"

namespace underseer::cli {

// A rule as programs get it.
struct RuleFact {
    std::string rule, title, file, id, author, category;
    event::Severity severity{};
    std::string technique, description;
    std::vector<std::string> false_positives;

    static constexpr auto fields() {
        using event::Field;
        using F = RuleFact;
        return std::tuple{Field{"rule", &F::rule},
                          Field{"title", &F::title},
                          Field{"file", &F::file},
                          Field{"id", &F::id},
                          Field{"author", &F::author},
                          Field{"category", &F::category},
                          Field{"severity", &F::severity},
                          Field{"technique", &F::technique},
                          Field{"description", &F::description},
                          Field{"false_positives", &F::false_positives}};
    }
};

// What `rules --json` prints.
struct RulesDocument {
    std::vector<RuleFact> rules;
    std::vector<sigma::Refusal> refused;

    static constexpr auto fields() {
        using event::Field;
        return std::tuple{Field{"rules", &RulesDocument::rules},
                          Field{"refused", &RulesDocument::refused}};
    }
};

// rules ls [PATH] | check PATH
Result<int> event_rules(const Options& options);

// Those of options.policy, or of where they are by default.
Result<agent::LoadedRules> rules_of_policy(const Options& options);
Explained explained(const sigma::Rule& rule);

// Has `target` match by options.sigma_rules; when there are none, by those that are installed. The
// agent's workers have theirs.
Result<void> use_event_rules(Target& target, const Options& options);

}  // namespace underseer::cli
