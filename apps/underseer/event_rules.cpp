#include "event_rules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>

#include "agent/paths.h"
#include "base/counted.h"
#include "detect/check.h"
#include "detect/watches.h"
#include "output.h"
#include "table.h"

namespace underseer::cli {

namespace {

using agent::LoadedRules;

constexpr int kSomeRefused = 13;

RuleFact fact_of(const sigma::Rule& rule) {
    return {.rule = rule.name,
            .title = rule.title,
            .file = rule.file,
            .id = rule.id,
            .author = rule.author,
            .category = std::string(to_string(rule.category)),
            .severity = rule.severity,
            .technique = rule.technique,
            .description = rule.description,
            .false_positives = rule.false_positives};
}

Result<LoadedRules> named(const Options& options) {
    const std::string paths[] = {options.argument};
    return agent::load_event_rules(paths, agent::RuleOwner::anybody, /*must_be_there=*/true);
}

}  // namespace

Result<LoadedRules> rules_of_policy(const Options& options) {
    policy::Policy policy;
    // Only that of the agent may be missing: where none is installed, the rules by default hold.
    if (options.policy != agent::kDefaultPolicy || ::access(options.policy.c_str(), F_OK) == 0) {
        policy = TRY(policy::load(options.policy, detect::check_names()));
    }
    return agent::load_event_rules(policy);
}

Explained explained(const sigma::Rule& rule) {
    std::vector<std::string_view> fields;
    for (const sigma::Field field : sigma::fields_of(rule)) fields.push_back(name_of(field));
    const bool says = !rule.false_positives.empty();
    return {
        .rule = rule.name,
        .check = std::string(detect::EventRules::kName),
        .title = rule.title,
        .severity = rule.severity,
        .confidence = detect::EventRules::kConfidence,
        .technique = rule.technique,
        .reads = fmt::format("{} of every {}, by the Sigma rule in {}. {}", fmt::join(fields, ", "),
                             to_string(rule.category), rule.file, rule.description),
        .misses =
            "What began and ended between two looks, what a process has written over its "
            "command line before the first one, and what the author of the rule did not "
            "think of.",
        .benign = says ? fmt::format("{}", fmt::join(rule.false_positives, "; "))
                       : "Its author names nothing.",
        .advice =
            "Look at the process and at who started it: underseer tree, and files and "
            "sockets with --pid. What is meant to be so is suppressed in the policy."};
}

Result<int> event_rules(const Options& options) {
    const bool is_check = options.target == "check";
    if (is_check && options.argument.empty()) {
        return fail(Code::invalid_argument,
                    "rules check needs PATH: a file of a rule, or a folder");
    }
    const LoadedRules loaded =
        TRY(options.argument.empty() ? rules_of_policy(options) : named(options));
    if (loaded.rules.empty() && loaded.refused.empty()) {
        return fail(Code::not_found,
                    "there are no rules: *.yml of Sigma, in the folders that "
                    "[rules] in the policy names");
    }
    if (options.json) {
        RulesDocument document{.rules = {}, .refused = loaded.refused};
        for (const sigma::Rule& rule : loaded.rules) document.rules.push_back(fact_of(rule));
        print_json(document);
    } else if (is_check) {
        for (const sigma::Refusal& refusal : loaded.refused) {
            print(printable(agent::to_text(refusal)) + "\n");
        }
        print(fmt::format("{} understood, {} refused\n", counted(loaded.rules.size(), "rule"),
                          loaded.refused.size()));
    } else {
        Table table({{"RULE"}, {"SEVERITY"}, {"ATT&CK"}, {"OF"}, {"WHAT IS FOUND"}});
        for (const sigma::Rule& rule : loaded.rules) {
            table.add({rule.name, std::string(to_string(rule.severity)), rule.technique,
                       std::string(to_string(rule.category)), rule.title});
        }
        print_table(table);
        for (const sigma::Refusal& refusal : loaded.refused) {
            fmt::print(stderr, "underseer: not used: {}\n", printable(agent::to_text(refusal)));
        }
    }
    return is_check && !loaded.refused.empty() ? kSomeRefused : 0;
}

Result<void> use_event_rules(Target& target, const Options& options) {
    if (target.is_agents()) {
        if (options.sigma_rules.empty()) return {};
        return fail(Code::unsupported,
                    fmt::format("{} is looked into by the agent, which matches by the rules of its "
                                "policy ([rules]); --direct looks without it",
                                options.target));
    }
    const bool is_wanted =
        options.only.empty() ||
        std::ranges::find(options.only, detect::EventRules::kName) != options.only.end();
    if (!is_wanted) return {};
    const bool given = !options.sigma_rules.empty();
    const auto rules =
        TRY(given ? agent::load_event_rules(options.sigma_rules, agent::RuleOwner::anybody,
                                            /*must_be_there=*/true)
                  : agent::load_event_rules(agent::default_rule_paths(),
                                            agent::RuleOwner::operator_only,
                                            /*must_be_there=*/false));
    for (const sigma::Refusal& refusal : rules.refused) {
        fmt::print(stderr, "underseer: not used: {}\n", printable(agent::to_text(refusal)));
    }
    if (given && rules.rules.empty()) {
        return fail(Code::not_found, "none of the rules that --rules names can be used");
    }
    if (rules.rules.empty()) return {};
    for (std::size_t at = 0; at < rules.form.size(); at += agent::kBaselinePartBytes) {
        agent::Question question{.topic = agent::Topic::event_rules};
        question.event_rules = agent::part_of(rules.form, at);
        TRY(target.ask<agent::TextPart>(question));
    }
    return {};
}

}  // namespace underseer::cli
